"""Sine waves: ranges, moments, and that every point of a task lies on one wave."""

import jax
import numpy as np
import pytest

from jmeta.tasks import sinusoid, stacked


def test_moments_are_those_of_the_uniform_distributions():
    tasks = jax.jit(stacked(sinusoid(num_shots=5, num_queries=15), 4000))(jax.random.key(0))
    x, y = np.asarray(tasks.query.x[..., 0]), np.asarray(tasks.query.y[..., 0])
    assert x.shape == (4000, 15)
    assert abs(x).max() <= 5
    assert abs(x.mean()) < 0.05  # standard error 0.012
    assert abs(x.var() - 100 / 12) < 0.1
    # E[a²] / 2 · E[1 − cos(2x − 2φ)], the second term being 0 for φ uniform over a whole period of it.
    amplitude_squared = (5**3 - 0.1**3) / 3 / 4.9
    assert abs((y**2).mean() - amplitude_squared / 2) < 0.25
    assert abs(y).max() <= 5


def test_support_and_query_lie_on_one_wave_of_the_stated_phase():
    task = sinusoid(num_shots=50, num_queries=50)(jax.random.key(1))
    # y = a sin x cos φ − a cos x sin φ is linear in (sin x, cos x): fit on the support, judge on the query.
    features = lambda x: np.concatenate([np.sin(x), np.cos(x)], axis=1)
    weights, *_ = np.linalg.lstsq(features(task.support.x), np.asarray(task.support.y))
    np.testing.assert_allclose(features(task.query.x) @ weights, task.query.y, atol=1e-5)
    a_cos, minus_a_sin = weights[:, 0]
    assert 0.1 <= np.hypot(a_cos, minus_a_sin) <= 5
    assert 0 <= np.arctan2(-minus_a_sin, a_cos) <= np.pi


def test_ranges_can_be_set_and_keys_decide():
    sample = sinusoid(num_shots=3, num_queries=2, amplitude=(2.0, 2.0), phase=(0.0, 0.0), inputs=(0.0, 1.0))
    task = sample(jax.random.key(0))
    np.testing.assert_allclose(task.support.y, 2 * np.sin(task.support.x), rtol=1e-5)
    np.testing.assert_array_equal(task.query.x, sample(jax.random.key(0)).query.x)
    assert not np.array_equal(task.query.x, sample(jax.random.key(1)).query.x)


def test_frequencies_and_noise_are_those_asked_for():
    arguments = {"num_shots": 300, "num_queries": 300, "amplitude": (2.0, 2.0), "phase": (0.5, 0.5)}
    noisy, exact = (sinusoid(**arguments, frequency=(0.5, 2.0), noise=n)(jax.random.key(3)) for n in (0.1, 0.0))
    np.testing.assert_array_equal(noisy.query.x, exact.query.x)
    np.testing.assert_allclose(np.std(noisy.query.y - exact.query.y), 0.2, rtol=0.2)
    grid, found = np.linspace(0.5, 2.0, 3001)[:, None], []
    for seed in range(3):
        x, y = (leaf[:8, 0] for leaf in sinusoid(**arguments, frequency=(0.5, 2.0))(jax.random.key(seed)).query[:2])
        away = abs(2 * np.sin(grid * np.asarray(x) - 0.5) - np.asarray(y)).max(1)
        assert away.min() < 0.01
        found.append(round(float(grid[away.argmin(), 0]), 2))
    assert len(set(found)) == 3


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"noise=-0\.1; expected a standard deviation"):
        sinusoid(num_shots=1, num_queries=1, noise=-0.1)
    with pytest.raises(ValueError, match="num_queries=0"):
        sinusoid(num_shots=1, num_queries=0)
    with pytest.raises(ValueError, match=r"amplitude=\(5.0, 1.0\) is an empty range"):
        sinusoid(num_shots=1, num_queries=1, amplitude=(5.0, 1.0))
