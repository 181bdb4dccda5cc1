"""Sinusoids and lines: half of each, with the noise and the ranges that are asked for."""

import jax
import numpy as np

from jmeta import tasks
from jmeta.tasks.sinusoid_or_line import LINES, SINUSOIDS


def test_half_of_the_curves_are_lines_and_all_are_in_their_ranges():
    sample = tasks.sinusoid_or_line(num_shots=5, num_queries=20, noise=0.0)
    drawn = jax.jit(tasks.stacked(sample, 600))(jax.random.key(0))
    x, y = (np.concatenate(pair, axis=1)[..., 0] for pair in zip(drawn.support[:2], drawn.query[:2], strict=True))
    assert (x >= -5).all()
    assert (x <= 5).all()
    num_lines, found = 0, {"amplitude": [], "phase": [], "slope": [], "intercept": []}
    for inputs, targets in zip(x, y, strict=True):
        slope, intercept = np.polyfit(inputs, targets, 1)
        (sine, cosine), *_ = np.linalg.lstsq(np.stack([np.sin(inputs), np.cos(inputs)], -1), targets, rcond=None)
        if np.abs(slope * inputs + intercept - targets).max() < 1e-4:
            num_lines += 1
            found["slope"].append(slope)
            found["intercept"].append(intercept)
        else:  # a sin(x − φ) = a cos φ sin x − a sin φ cos x
            np.testing.assert_allclose(sine * np.sin(inputs) + cosine * np.cos(inputs), targets, atol=1e-4)
            found["amplitude"].append(np.hypot(sine, cosine))
            found["phase"].append(np.arctan2(-cosine, sine))
    assert abs(num_lines - 300) < 4 * np.sqrt(150)
    for name, (low, high) in zip(found, (*SINUSOIDS, *LINES), strict=True):
        values, width = np.array(found[name]), high - low
        assert (values > low - 1e-3).all(), name
        assert (values < high + 1e-3).all(), name
        assert abs(values.mean() - (low + high) / 2) < 4 * width / np.sqrt(12 * 250), name


def test_the_noise_is_that_of_support_and_query(float64):
    key = jax.random.key(3)
    noisy, exact = (tasks.sinusoid_or_line(num_shots=500, num_queries=500, noise=n)(key) for n in (0.3, 0.0))
    for with_noise, without in ((noisy.support, exact.support), (noisy.query, exact.query)):
        np.testing.assert_allclose(np.std(with_noise.y - without.y), 0.3, rtol=0.13)


def test_a_range_of_shots_is_drawn_from_uniformly():
    drawn = jax.jit(tasks.stacked(tasks.sinusoid_or_line(num_shots=(1, 4), num_queries=2), 400))(jax.random.key(0))
    shots = np.asarray(drawn.support.mask).sum(1)
    assert (np.abs(np.bincount(shots, minlength=5)[1:] - 100) < 4 * np.sqrt(75)).all()
    assert (np.asarray(drawn.support.y)[~np.asarray(drawn.support.mask)] == 0).all()
    assert drawn.query.mask is None
