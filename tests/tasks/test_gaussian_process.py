"""Gaussian processes: kernels against formulas, moments of samples, counts of points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.tasks import gaussian_process, kernels, stacked


def test_kernels_are_their_formulas(float64):
    a, b = np.array([[0.0], [0.3]]), np.array([[0.1], [1.0], [0.3]])
    r = abs(a - b.T)
    at = lambda kernel, *unit: np.asarray(kernel.gram(jnp.array(unit), jnp.asarray(a), jnp.asarray(b)))
    rbf = kernels.rbf(length_scale=(0.1, 0.6), scale=(0.5, 1.0))
    np.testing.assert_allclose(at(rbf, 0.5, 1.0), np.exp(-(r**2) / 2 / 0.35**2), rtol=1e-12)
    matern = kernels.matern52(length_scale=0.25)
    u = np.sqrt(5) * r / 0.25
    np.testing.assert_allclose(at(matern), (1 + u + u**2 / 3) * np.exp(-u), rtol=1e-12)
    waves = kernels.periodic(period=(0.1, 0.5), scale=2.0)
    np.testing.assert_allclose(at(waves, 0.25), 4 * np.exp(-2 * np.sin(np.pi * r / 0.2) ** 2), rtol=1e-12)
    both = (kernels.rbf(length_scale=(0.1, 0.6)), kernels.periodic(period=(0.1, 0.5)))
    each = at(both[0], 0.5), at(both[1], 0.25)
    np.testing.assert_allclose(at(kernels.add(*both), 0.5, 0.25), each[0] + each[1], rtol=1e-12)
    np.testing.assert_allclose(at(kernels.multiply(*both), 0.5, 0.25), each[0] * each[1], rtol=1e-12)


def test_a_kernel_has_a_derivative_where_inputs_meet(float64):
    x = jnp.array([[0.1], [0.1], [0.5]])
    kernel = kernels.matern52(length_scale=0.25)
    grads = jax.grad(lambda x: kernel.gram(jnp.zeros(0), x, x)[0].sum())(x)
    assert np.isfinite(grads).all()
    assert float(grads[1, 0]) == 0


def test_samples_have_the_covariance_of_the_kernel(float64):
    kernel = kernels.rbf(length_scale=0.5, scale=2.0)
    sample = gaussian_process(kernel, num_shots=2, num_queries=1, noise=0.5, inputs=(0.0, 1.0))
    tasks = jax.jit(stacked(sample, 20_000))(jax.random.key(0))
    y = np.concatenate([tasks.support.y, tasks.query.y], axis=1)[..., 0]
    x = np.concatenate([tasks.support.x, tasks.query.x], axis=1)[..., 0]
    expected = 4 * np.exp(-((x[:, 0] - x[:, 2]) ** 2) / 2 / 0.5**2)
    np.testing.assert_allclose((y[:, 0] * y[:, 2]).mean(), expected.mean(), atol=0.15)  # standard error 0.04
    np.testing.assert_allclose((y**2).mean(0), 4 + 0.25, rtol=0.05)


def test_numbers_of_points_are_uniform_in_their_ranges_and_end_where_they_must():
    kernel = kernels.rbf(length_scale=0.5)
    sample = gaussian_process(kernel, num_shots=(0, 4), num_queries=(1, 6), noise=0.1, max_points=6)
    tasks = jax.jit(stacked(sample, 4000))(jax.random.key(0))
    shots, queries = np.asarray(tasks.support.mask.sum(1)), np.asarray(tasks.query.mask.sum(1))
    np.testing.assert_allclose(np.bincount(shots) / 4000, 0.2, atol=0.03)
    for count in range(5):
        of_these = queries[shots == count]
        assert (of_these.min(), of_these.max()) == (1, 6 - count)
    assert not np.asarray(tasks.support.x)[~np.asarray(tasks.support.mask)].any()


def test_queries_may_lie_elsewhere():
    kernel = kernels.rbf(length_scale=0.5)
    sample = gaussian_process(kernel, num_shots=5, num_queries=50, noise=0.1, query_inputs=(2.0, 6.0))
    task = sample(jax.random.key(0))
    assert task.support.mask is None
    assert abs(np.asarray(task.support.x)).max() <= 2 <= np.asarray(task.query.x).min()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_shots": (5, 3)}, r"num_shots=\(5, 3\)"),
        ({"num_queries": 0}, "num_queries=0"),
        ({"noise": 0.0}, "noise=0.0"),
        ({"inputs": (1.0, 1.0)}, "inputs="),
        ({"num_shots": (3, 46), "max_points": 46}, "max_points=46 is less than the 46 support points"),
    ],
)
def test_impossible_numbers_are_refused(changed, message):
    kernel = kernels.rbf(length_scale=0.5)
    with pytest.raises(ValueError, match=message):
        gaussian_process(kernel, **{"num_shots": 5, "num_queries": 5, "noise": 0.1, **changed})


def test_hyper_parameters_are_positive():
    for bad in (0.0, -1.0, (0.6, 0.1), (0.0, 1.0), float("nan")):
        with pytest.raises(ValueError, match="length_scale="):
            kernels.rbf(length_scale=bad)
    with pytest.raises(ValueError, match="no kernels"):
        kernels.add()
