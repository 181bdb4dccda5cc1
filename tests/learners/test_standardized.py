"""Standardized rows: against numpy, free of units, and an episode that is the wrapped learner's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Learner, Task, learners, losses, models, tasks
from jmeta.learners import standardized

SEEING = Learner(lambda key, task: {}, lambda params, support, key: support.x, lambda params, adapted, x, key: x)
"""What it adapts to and predicts is what it sees."""


@pytest.fixture
def rows(float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4)) * [1.0, 100.0, 1e-6, 0.0] + [0.0, 5.0, 1.0, 3.0]
    x[9:] = np.nan
    return Batch(jnp.asarray(x), jnp.zeros(12, jnp.int32), jnp.arange(12) < 9), jnp.asarray(rng.normal(size=(5, 4)))


def test_rows_are_standardized_by_the_real_ones_of_the_support(rows, key):
    support, x = rows
    adapted = standardized(SEEING).adapt({}, support, key)
    real, order = np.asarray(support.x)[:9], np.asarray(adapted.columns.order)
    assert sorted(order) == [0, 1, 2, 3]
    deviation = np.where(np.arange(4) == 3, 1.0, real.std(0))
    for found, given in ((adapted.adapted[:9], real), (standardized(SEEING).predict({}, adapted, x, None), x)):
        expected = np.arcsinh((np.asarray(given) - real.mean(0)) / deviation) * np.sqrt(4 / 3)
        expected[:, 3] = 0.0  # constant in the support
        np.testing.assert_allclose(found, expected[:, order], rtol=1e-7, atol=1e-9)


def test_orders_are_drawn_anew_in_every_adaptation(rows, key):
    orders = {
        tuple(standardized(SEEING).adapt({}, rows[0], each).columns.order.tolist())
        for each in jax.random.split(key, 20)
    }
    assert len(orders) > 10


def test_units_and_the_value_of_a_constant_column_change_nothing(rows, key):
    support, x = rows
    scale, shift = jnp.array([1e9, -2.0, 1e6, 1.0]), jnp.array([3.0, 1e3, 0.0, 8.0])
    learner = standardized(learners.nearest_mean(num_ways=2))
    support = support._replace(y=jnp.arange(12, dtype=jnp.int32) % 2)

    def logits(units):
        adapted = learner.adapt({}, support._replace(x=units(support.x)), key)
        return learner.predict({}, adapted, units(x), None)

    np.testing.assert_allclose(logits(lambda x: scale[None] * x + shift[None]), logits(lambda x: x), rtol=1e-6)


def test_a_support_of_one_row_is_all_zeros_and_its_gradient_is_finite(float64, key):
    """No column varies."""
    learner = standardized(learners.protonet(models.mlp([3]), num_ways=1))
    task = Task(*(Batch(jnp.array([[1.0, 2.0]]), jnp.zeros(1, jnp.int32)) for _ in range(2)))
    loss_of = lambda x: jmeta.plain_episode(learner, losses.cross_entropy)(
        learner.init(key, task), task._replace(support=task.support._replace(x=x)), key
    )[0]
    assert np.isfinite(jax.grad(loss_of)(task.support.x)).all()
    assert not standardized(SEEING).adapt({}, task.support, key).adapted.any()


def test_a_learners_own_episode_sees_standardized_rows(float64, key):
    reptile = learners.reptile(models.mlp([3]), losses.cross_entropy, optax.sgd(0.1), num_steps=2)
    assert standardized(learners.protonet(models.mlp([3]), num_ways=3)).episode is None
    task = tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=2, num_features=4)(key)
    meta_params = reptile.init(key, task)
    key_order, key_inner = jax.random.split(key)
    adapted = standardized(SEEING).adapt({}, task.support, jax.random.key(5))
    columns = adapted.columns._replace(order=jax.random.permutation(key_order, jnp.arange(4, dtype=jnp.int32)))
    see = lambda x: standardized(SEEING).predict({}, adapted._replace(columns=columns), x, None)
    seen = Task(*(batch._replace(x=see(batch.x)) for batch in (task.support, task.query)))
    found = jax.grad(jmeta.episode(standardized(reptile), losses.cross_entropy), has_aux=True)(meta_params, task, key)
    expected = jax.grad(jmeta.episode(reptile, losses.cross_entropy), has_aux=True)(meta_params, seen, key_inner)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected)


def test_inputs_that_are_no_rows_of_numbers_are_refused(key):
    learner = standardized(SEEING)
    with pytest.raises(
        ValueError, match=r"rows of floating-point numbers, \[examples, features\], but inputs are float32\[2"
    ):
        learner.adapt({}, Batch(jnp.zeros((2, 8, 8, 1)), jnp.zeros(2, jnp.int32)), key)
    with pytest.raises(ValueError, match="but inputs are dict"):
        learner.adapt({}, Batch({"a": jnp.zeros((2, 8))}, jnp.zeros(2, jnp.int32)), key)
