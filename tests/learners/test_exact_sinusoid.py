"""The exact posterior over sinusoids of unknown frequency: against draws from the prior, finer grids, uniform ranks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jmeta import learners, tasks

FINE = {"num_frequencies": 4096, "num_kept": 512, "num_nodes": 10}


def drawn(num_tasks, *, num_shots, noise):
    sample = tasks.sinusoid(
        num_shots=num_shots, num_queries=3, frequency=(0.5, 2.0), phase=(0.0, 2 * np.pi), noise=noise
    )
    found = jax.jit(tasks.stacked(sample, num_tasks))(jax.random.key(1))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), found)


@functools.cache
def predicted(noise, **options):
    """The mean, the log density and the rank of every target, `[tasks, queries]` each."""
    learner = learners.exact_sinusoid(noise=noise, **options)

    def of_task(task):
        adapted = learner.adapt({}, task.support, jax.random.key(0))
        prediction, y = learner.predict({}, adapted, task.query.x, None), task.query.y
        return tuple(each[:, 0] for each in (prediction.mean(), prediction.log_prob(y), prediction.cdf(y)))

    return jax.jit(lambda tasks: jax.lax.map(of_task, tasks))


def test_the_posterior_is_that_of_weighted_draws_from_the_prior(float64):
    """E[y | x, support] and p(y | x, support) by importance sampling, written out in NumPy."""
    noise, count = 0.1, 1_000_000
    found = drawn(2, num_shots=4, noise=noise)
    means, log_densities, _ = predicted(noise, num_frequencies=256, num_kept=256, num_nodes=10)(found)
    unit = np.random.default_rng(0).random((3, count))
    amplitude, frequency, phase = 0.1 + 4.9 * unit[0], 0.5 + 1.5 * unit[1], 2 * np.pi * unit[2]
    wave = lambda x: amplitude * np.sin(frequency * x - phase)
    for i in range(2):
        support, query = ([np.asarray(each)[i, :, 0] for each in batch[:2]] for batch in (found.support, found.query))
        log_weights = sum(scipy.stats.norm.logpdf(y, wave(x), noise * amplitude) for x, y in zip(*support, strict=True))
        weights = np.exp(log_weights - log_weights.max())
        assert weights.sum() ** 2 / (weights**2).sum() > 30  # effective draws

        def check(value, values, weights=weights):
            mean = (weights * values).sum() / weights.sum()
            error = np.sqrt((weights**2 * (values - mean) ** 2).sum()) / weights.sum()
            assert abs(value - mean) < 4 * error + 0.01 * abs(mean)

        for j, (x, y) in enumerate(zip(*query, strict=True)):
            check(means[i, j], wave(x))
            check(np.exp(log_densities[i, j]), scipy.stats.norm.pdf(y, wave(x), noise * amplitude))


@pytest.mark.parametrize(("num_shots", "mean_error"), [(5, 0.01), (10, 1e-4)])
def test_a_finer_grid_changes_nothing(float64, num_shots, mean_error):
    """The mean error of the log density, in nats; five points can leave peaks that 256 frequencies do not cover."""
    found = drawn(8, num_shots=num_shots, noise=0.01)
    (_, coarse, _), (_, fine, _) = predicted(0.01)(found), predicted(0.01, **FINE)(found)
    error = abs(np.asarray(coarse - fine))
    print(f"{num_shots} shots: error of the quadrature {error.mean():.1e} nats, at most {error.max():.1e}")
    assert error.mean() < mean_error


def test_single_precision_is_enough(float64):
    found = drawn(8, num_shots=10, noise=0.01)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), found)
    (_, of_single, _), (_, of_double, _) = predicted(0.01)(single), predicted(0.01)(found)
    assert of_single.dtype == jnp.float32
    np.testing.assert_allclose(of_single, of_double, atol=0.02)


def test_ranks_are_uniform():
    found = drawn(300, num_shots=6, noise=0.01)
    _, _, ranks = predicted(0.01, num_kept=128, num_nodes=6)(found)
    assert scipy.stats.kstest(np.asarray(ranks)[:, 0], "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"noise": 0.0}, "noise=0.0"),
        ({"num_kept": 3000}, "num_kept=3000 and num_frequencies=2048"),
        ({"num_nodes": 0}, "num_nodes=0"),
        ({"frequency": (2.0, 2.0)}, r"frequency=\(2.0, 2.0\); expected a range"),
    ],
)
def test_faults_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        learners.exact_sinusoid(**{"noise": 0.01, **changed})
