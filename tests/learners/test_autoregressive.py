"""Joint predictions: the chain rule written out, exact inference as the judge, and padding that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import Batch, learners
from jmeta.learners.autoregressive import log_joint, random_ranks, sample_jointly
from jmeta.tasks import gaussian_process, kernels

from ..registry import LEARNERS, process
from .few_shot_tasks import in_double

NOISE = 0.5
KERNEL = kernels.rbf(length_scale=0.7)
EXACT = learners.exact_gaussian_process(KERNEL, noise=NOISE)
TNP = LEARNERS["transformer_neural_process"].learner


@pytest.fixture
def task(float64, key):
    return jax.jit(gaussian_process(KERNEL, num_shots=3, num_queries=3, noise=NOISE))(key)


@pytest.fixture
def meta_params(task):
    return in_double(jax.jit(TNP.init)(jax.random.key(1), task))


def with_holes(batch, num_rows, places):
    """The batch among rows of NaN that are masked out."""
    fill = lambda leaf: jnp.full((num_rows, *leaf.shape[1:]), jnp.nan).at[places].set(leaf)
    return Batch(fill(batch.x), fill(batch.y), jnp.zeros(num_rows, bool).at[places].set(True))


def evidence(support, query):
    log_density = learners.evidence(KERNEL, noise=NOISE)
    return log_density(jax.tree.map(lambda *parts: jnp.concatenate(parts), support, query)) - log_density(support)


def test_exact_inference_has_one_joint_density_whatever_the_order(task, key):
    log_density = jax.jit(log_joint(EXACT, num_orders=3))
    found = log_density({}, task.support, task.query, key)
    np.testing.assert_allclose(found, evidence(task.support, task.query), rtol=1e-9)
    apart = jax.jit(lambda support, x: EXACT.predict({}, EXACT.adapt({}, support, key), x, None))(
        task.support, task.query.x
    )
    assert abs(apart.log_prob(task.query.y).sum() - found) > 0.01


def test_the_joint_is_the_product_of_conditionals_each_by_a_support_of_its_own_length(task, meta_params, key):
    expected, adapt, predict = [], jax.jit(TNP.adapt), jax.jit(TNP.predict)
    for key_of_order in jax.random.split(key, 2):
        ranks = random_ranks(jax.random.split(key_of_order)[0], jnp.ones(3, bool))
        x, y, total = *task.support[:2], 0.0
        for i in np.argsort(ranks):
            one = jax.tree.map(lambda leaf, i=i: leaf[i][None], (task.query.x, task.query.y))
            adapted = adapt(meta_params, Batch(x, y), key)
            total += predict(meta_params, adapted, one[0], None).log_prob(one[1]).sum()
            x, y = jnp.concatenate([x, one[0]]), jnp.concatenate([y, one[1]])
        expected.append(total)
    found = jax.jit(log_joint(TNP, num_orders=2))(meta_params, task.support, task.query, key)
    np.testing.assert_allclose(found, np.log(np.mean(np.exp(expected))), rtol=1e-9)
    assert abs(expected[0] - expected[1]) > 1e-6


def test_padding_anywhere_changes_no_joint_density(task, meta_params, key):
    log_density = jax.jit(log_joint(TNP, num_orders=2))
    expected = log_density(meta_params, task.support, task.query, key)
    support = with_holes(task.support, 6, jnp.array([1, 2, 5]))
    query = with_holes(task.query, 5, jnp.array([0, 2, 4]))
    np.testing.assert_allclose(log_density(meta_params, support, query, key), expected, rtol=1e-9)
    gradient = jax.jit(jax.grad(log_joint(TNP)))(meta_params, support, query, key)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_query_of_padding_alone_has_density_one(task, meta_params, key):
    nothing = task.query._replace(mask=jnp.zeros(3, bool))
    np.testing.assert_allclose(log_joint(EXACT)({}, task.support, nothing, key), 0.0, atol=1e-12)


def test_joint_samples_have_the_covariance_of_the_posterior(task, key):
    """Of two targets close together, and given the support; standard errors are below 0.03."""
    x = jnp.array([[0.0], [0.3]])
    draw = jax.jit(jax.vmap(lambda key: sample_jointly(EXACT)({}, task.support, x, key)[:, 0]))
    samples = np.asarray(draw(jax.random.split(key, 4000)))
    points = np.concatenate([task.support.x, x])[:, 0]
    covariance = np.exp(-0.5 * ((points[:, None] - points[None]) / 0.7) ** 2) + NOISE**2 * np.eye(5)
    weights = covariance[3:, :3] @ np.linalg.inv(covariance[:3, :3])
    np.testing.assert_allclose(samples.mean(0), (weights @ task.support.y)[:, 0], atol=0.06)
    expected = covariance[3:, 3:] - weights @ covariance[:3, 3:]
    np.testing.assert_allclose(np.cov(samples.T), expected, atol=0.06)
    assert expected[0, 1] > 0.1


def test_every_order_is_as_probable():
    draws = jax.vmap(random_ranks, in_axes=(0, None))(jax.random.split(jax.random.key(0), 6000), jnp.ones(3, bool))
    _, counts = np.unique(np.asarray(draws), axis=0, return_counts=True)
    assert counts.size == 6
    assert abs(counts - 1000).max() < 150  # five standard errors


def test_no_order_at_all_is_refused():
    with pytest.raises(ValueError, match="num_orders=0; expected at least 1"):
        log_joint(EXACT, num_orders=0)


def test_a_pytree_of_inputs_is_joined_too(key):
    """A learner of tasks whose inputs are a dictionary."""
    task = process(key)
    named = lambda batch: batch._replace(x={"at": batch.x})
    learner = EXACT._replace(
        adapt=lambda meta_params, support, key: EXACT.adapt(meta_params, support._replace(x=support.x["at"]), key),
        predict=lambda meta_params, adapted, x, key: EXACT.predict(meta_params, adapted, x["at"], key),
    )
    found = log_joint(learner)({}, named(task.support), named(task.query), key)
    np.testing.assert_allclose(found, log_joint(EXACT)({}, task.support, task.query, key), rtol=1e-5)
