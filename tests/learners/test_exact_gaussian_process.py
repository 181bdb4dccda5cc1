"""The exact posterior, by other routes: multivariate normals, conditional sampling, and the limits of a protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jmeta import Batch, evaluation, learners, losses
from jmeta.tasks import gaussian_process, kernels, regression_protocol

from ..slow import slow
from .few_shot_tasks import predict

NOISE = 0.3
KERNEL = kernels.rbf(length_scale=(0.2, 0.8), scale=(0.5, 1.5))


def task_of(key, num_shots=4, num_queries=3):
    return jax.jit(gaussian_process(KERNEL, num_shots=num_shots, num_queries=num_queries, noise=NOISE))(key)


def density(grid, x, y):
    """The density of noisy targets, averaged over hyper-parameters of a grid, written out in NumPy."""
    x, y = np.asarray(x)[:, 0], np.asarray(y)[:, 0]
    length_scales, scales = 0.2 + 0.6 * grid[:, 0], 0.5 + grid[:, 1]
    squares = (x[:, None] - x[None]) ** 2
    covariances = scales[:, None, None] ** 2 * np.exp(-squares / 2 / length_scales[:, None, None] ** 2)
    covariances += NOISE**2 * np.eye(len(x))
    exponents = -0.5 * np.einsum("i,nij,j->n", y, np.linalg.inv(covariances), y)
    return np.mean(np.exp(exponents) / np.sqrt(np.linalg.det(2 * np.pi * covariances)))


def test_densities_are_ratios_of_integrals_over_the_prior(float64, key):
    """p(query | support) = ∫ p(all | θ) dθ / ∫ p(support | θ) dθ, by a midpoint rule on a fine grid."""
    task = task_of(key)
    middles = (np.arange(60) + 0.5) / 60
    grid = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)
    of_support = density(grid, *task.support[:2])
    learner = learners.exact_gaussian_process(KERNEL, noise=NOISE)
    log_prob = predict(learner, {}, task).log_prob(task.query.y)
    for i in range(3):
        x, y = (np.concatenate([a, b[i : i + 1]]) for a, b in zip(task.support[:2], task.query[:2], strict=True))
        expected = np.log(density(grid, x, y) / of_support)
        np.testing.assert_allclose(log_prob[i, 0], expected, atol=1e-4)
    x, y = (np.concatenate([a, b]) for a, b in zip(task.support[:2], task.query[:2], strict=True))
    log_density = jax.jit(learners.evidence(KERNEL, noise=NOISE))
    joint = log_density(Batch(jnp.asarray(x), jnp.asarray(y))) - log_density(task.support)
    np.testing.assert_allclose(joint, np.log(density(grid, x, y) / of_support), atol=1e-4)


def test_twice_the_nodes_change_nothing(float64, key):
    task = task_of(key, 10, 5)
    predictions = []
    for num_nodes in (12, 24):
        learner = learners.exact_gaussian_process(KERNEL, noise=NOISE, num_nodes=num_nodes)
        predictions.append(predict(learner, {}, task).log_prob(task.query.y))
    np.testing.assert_allclose(*predictions, atol=1e-6)


def test_single_precision_is_enough_for_a_noise_of_a_fiftieth(float64, key):
    kernel = kernels.rbf(length_scale=(0.1, 0.6), scale=1.0)
    learner = learners.exact_gaussian_process(kernel, noise=0.02, num_nodes=8)
    task = jax.jit(gaussian_process(kernel, num_shots=46, num_queries=20, noise=0.02))(key)

    def log_density(dtype):
        cast = jax.tree.map(lambda leaf: leaf.astype(dtype), task)
        return predict(learner, {}, cast).log_prob(cast.query.y)

    single, double = log_density(jnp.float32), log_density(jnp.float64)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, atol=1e-3)


def test_without_support_the_prior_predicts(float64, key):
    learner = learners.exact_gaussian_process(kernels.rbf(length_scale=0.5, scale=2.0), noise=NOISE)
    nothing = Batch(jnp.zeros((3, 1)), jnp.full((3, 1), jnp.nan), jnp.zeros(3, bool))
    prediction = learner.predict({}, learner.adapt({}, nothing, key), jnp.zeros((2, 1)), None)
    np.testing.assert_allclose(prediction.mean(), 0.0, atol=1e-12)
    np.testing.assert_allclose(prediction.variance(), 4 + NOISE**2, rtol=1e-12)


def test_ranks_of_targets_are_uniform(float64):
    """Targets drawn from the prior have uniform ranks under the posterior of that prior."""
    learner = learners.exact_gaussian_process(KERNEL, noise=NOISE, num_nodes=4)

    def rank(key):
        task = task_of(key, 5, 1)
        prediction = learner.predict({}, learner.adapt({}, task.support, key), task.query.x, None)
        return prediction.cdf(task.query.y)[0, 0]

    ranks = jax.jit(jax.vmap(rank))(jax.random.split(jax.random.key(0), 500))
    assert scipy.stats.kstest(np.asarray(ranks), "uniform").pvalue > 1e-3


def test_the_joint_loss_is_that_of_targets_one_after_another(float64, key):
    """With padding in support and query; `learners.log_joint` is the other route."""
    task = gaussian_process(KERNEL, num_shots=(1, 4), num_queries=(1, 4), noise=NOISE, max_points=5)(key)
    assert not bool(task.support.mask.all() & task.query.mask.all())
    loss, aux = learners.exact_joint(KERNEL, noise=NOISE, num_nodes=6)({}, task, key)
    learner = learners.exact_gaussian_process(KERNEL, noise=NOISE, num_nodes=6)
    joint = learners.log_joint(learner)({}, task.support, task.query, key)
    np.testing.assert_allclose(loss, -joint / task.query.mask.sum(), rtol=1e-10)
    assert aux["negative_log_likelihood"] is loss


def test_a_protocol_has_the_posteriors_that_can_be_computed():
    names = {
        process: list(learners.exact_posteriors(regression_protocol("tnp_rbf", tested_on=process), num_nodes=2))
        for process in ("tnp_rbf", "tnp_matern52", "tnp_periodic")
    }
    exact, of_training = "exact posterior", "exact posterior of the training prior"
    assert names == {"tnp_rbf": [exact], "tnp_matern52": [exact, of_training], "tnp_periodic": [of_training]}
    assert not learners.exact_posteriors(regression_protocol("np_mixture"), num_nodes=2)


LIMITS = {"tnp_rbf": (1.479, 1.785), "tnp_matern52": (1.071, 1.361)}
"""Marginal and joint log densities, in nats a target, computed elsewhere; their standard errors are below."""


@pytest.mark.parametrize("case", [("tnp_rbf", 12), *slow(("tnp_rbf", 1000), ("tnp_matern52", 1000))])
def test_the_limits_of_the_protocol_of_transformer_neural_processes(float64, case):
    """Hyper-parameters integrated out, within two standard errors."""
    process, num_tasks = case
    marginal, joint = LIMITS[process]
    for is_joint, limit, error in ((False, marginal, 0.008), (True, joint, 0.005)):
        protocol = regression_protocol(process, is_joint=is_joint)
        exact = learners.exact_posteriors(protocol, num_nodes=8)["exact posterior"]
        episode_fn = exact if is_joint else evaluation.evaluation_episode(exact, losses.negative_log_likelihood)
        arguments = ({}, protocol.source.meta_test, jax.random.key(0))
        result = evaluation.evaluate_episodes(
            episode_fn, *arguments, protocol=process, num_tasks=num_tasks, tasks_at_once=4
        )
        found = result.inductive["negative_log_likelihood"]
        print(f"{process}, {'joint' if is_joint else 'marginal'}: {found}")
        assert abs(-found.mean - limit) < 2 * ((found.half_width / 1.96) ** 2 + error**2) ** 0.5
