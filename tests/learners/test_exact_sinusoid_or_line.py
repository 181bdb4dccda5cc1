"""The exact posterior over sinusoids and lines, against draws from the prior, finer grids and uniform ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jmeta import Batch, Task, learners, tasks

NOISE = 0.3


def summary(num_nodes=32):
    """A task's probability of a line, and the mean, density and distribution function of its targets."""
    learner = learners.exact_sinusoid_or_line(noise=NOISE, num_nodes=num_nodes)

    def of_task(task):
        posterior = learner.adapt({}, task.support, jax.random.key(0))
        prediction, y = learner.predict({}, posterior, task.query.x, None), task.query.y
        values = prediction.mean(), jnp.exp(prediction.log_prob(y)), prediction.cdf(y)
        return posterior.class_probs()[1], *(each[:, 0] for each in values)

    return of_task


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_posterior_is_that_of_weighted_draws_from_the_prior(float64, seed):
    """p(line | support) and p(y | x, support) by importance sampling, written out in NumPy."""
    task = tasks.sinusoid_or_line(num_shots=2, num_queries=3, noise=NOISE)(jax.random.key(seed))
    rng, count = np.random.default_rng(seed), 1_000_000
    unit = rng.random((2, count))
    is_line = np.arange(count) % 2 == 1
    first = np.where(is_line, -3 + 6 * unit[0], 0.1 + 4.9 * unit[0])
    second = np.where(is_line, -3 + 6 * unit[1], np.pi * unit[1])
    curve = lambda x: np.where(is_line, first * x + second, first * np.sin(x - second))
    weights = np.ones(count)
    for x, y in zip(*(np.asarray(each)[:, 0] for each in task.support[:2]), strict=True):
        weights *= np.exp(-((y - curve(x)) ** 2) / (2 * NOISE**2))
    assert weights.sum() ** 2 / (weights**2).sum() > 1000  # effective draws
    line, means, densities, ranks = jax.jit(summary())(task)

    def check(found, values):
        mean = (weights * values).sum() / weights.sum()
        error = np.sqrt((weights**2 * (values - mean) ** 2).sum()) / weights.sum()
        assert abs(found - mean) < 4 * error + 1e-9

    check(line, is_line)
    for i, (x, y) in enumerate(zip(*(np.asarray(each)[:, 0] for each in task.query[:2]), strict=True)):
        check(means[i], curve(x))
        check(densities[i], scipy.stats.norm.pdf(y, curve(x), NOISE))
        check(ranks[i], scipy.stats.norm.cdf(y, curve(x), NOISE))


@pytest.mark.parametrize(("num_shots", "atol"), [(1, 0.05), (10, 1e-4)])
def test_a_finer_grid_changes_nothing(float64, num_shots, atol):
    sample = tasks.stacked(tasks.sinusoid_or_line(num_shots=num_shots, num_queries=3, noise=NOISE), 4)
    drawn = sample(jax.random.key(0))
    coarse, fine = (jax.jit(jax.vmap(summary(num_nodes)))(drawn) for num_nodes in (32, 64))
    for found, expected in zip(coarse, fine, strict=True):
        np.testing.assert_allclose(found, expected, atol=atol)


def test_ranks_are_uniform_and_classes_are_calibrated():
    """Of tasks drawn from the prior: targets under predictions, and lines under the probability of a line."""
    sample = tasks.sinusoid_or_line(num_shots=3, num_queries=1, noise=NOISE)
    keys = jax.random.split(jax.random.key(0), 300)
    lines, _, _, ranks = (np.asarray(each) for each in jax.jit(jax.vmap(lambda key: summary()(sample(key))))(keys))
    assert scipy.stats.kstest(ranks[:, 0], "uniform").pvalue > 1e-3
    error = np.sqrt((lines * (1 - lines)).sum() + 300 / 4) / 300  # half of the tasks are lines
    assert abs(lines.mean() - 0.5) < 3.5 * error


def test_without_a_support_the_prior_predicts(float64):
    nothing = Batch(jnp.zeros((2, 1)), jnp.full((2, 1), jnp.nan), jnp.zeros(2, bool))
    query = Batch(jnp.array([[2.0]]), jnp.zeros((1, 1)))
    line, means, *_ = jax.jit(summary())(Task(nothing, query))
    np.testing.assert_allclose(line, 0.5, rtol=1e-9)
    sinusoids = 2.55 * (np.cos(2 - np.pi) - np.cos(2.0)) / np.pi  # E[a] E[sin(2 − φ)]
    np.testing.assert_allclose(means[0], sinusoids / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: learners.exact_sinusoid_or_line(noise=0.0), "noise=0.0 and num_nodes=32; expected positive"),
        (lambda: tasks.sinusoid_or_line(num_shots=1, num_queries=1, noise=-1.0), "noise=-1.0; expected"),
        (lambda: tasks.sinusoid_or_line(num_shots=1, num_queries=1, inputs=(1.0, 1.0)), "an empty range"),
        (lambda: tasks.sinusoid_or_line(num_shots=0, num_queries=1), "num_shots"),
    ],
)
def test_faults_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
