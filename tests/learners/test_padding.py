"""What padding holds reaches no learner, and a support of nothing leaves the start as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Model, learners, losses

from ..registry import LEARNERS
from ..slow import slow

LINE = Model(lambda key, x: jnp.ones(()), lambda w, x, key: w * x)


def test_a_label_that_is_not_a_number_changes_no_adaptation():
    """w − 0.1 · d/dw of the mean of (w − 1)² and (w − 2)² at w = 1."""
    learner = learners.maml(LINE, losses.squared_error, optax.sgd(0.1), num_steps=1)
    y = jnp.array([[1.0], [2.0], [jnp.nan]])
    support = Batch(jnp.ones((3, 1)), y, jnp.array([True, True, False]))
    np.testing.assert_allclose(learner.adapt(jnp.ones(()), support, jax.random.key(0)), 1.1, rtol=1e-6)


@pytest.mark.parametrize("name", ["maml", "protonet"])
def test_an_input_of_the_query_that_is_not_a_number_changes_no_gradient(name, key):
    entry = LEARNERS[name]
    task = entry.sample(key)
    mask = jnp.arange(task.query.y.shape[0]) > 0
    fill = lambda value: task._replace(query=Batch(task.query.x.at[0].set(value), task.query.y, mask))
    meta_params = entry.learner.init(jax.random.key(1), task)
    for make in (jmeta.episode, jmeta.plain_episode):
        gradient = jax.jit(jax.value_and_grad(make(entry.learner, entry.loss_fn), has_aux=True))
        results = [gradient(meta_params, fill(value), key) for value in (0.0, jnp.nan)]
        jax.tree.map(np.testing.assert_array_equal, *results)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


ACTING = {"varibad", "maml_rl"}
SLOW_TO_COMPILE = {"adkf_ift", "bayesian_maml", "attentive_neural_process_with_latents", "deep_ensemble", "llama"}
"""Learners whose support is treated by a part that another one here has, too."""


def in_double(tree):
    return jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, tree)


@pytest.mark.parametrize("name", [*sorted(LEARNERS.keys() - ACTING - SLOW_TO_COMPILE), *slow(*sorted(SLOW_TO_COMPILE))])
def test_a_support_of_no_example_is_one_of_padding_alone(float64, name, key):
    learner, task = LEARNERS[name].learner, in_double(LEARNERS[name].sample(key))
    meta_params = in_double(learner.init(jax.random.key(1), task))
    nothing = jax.tree.map(lambda leaf: leaf[:0], task.support)
    masked = task.support._replace(mask=jnp.zeros(task.support.y.shape[0], bool))
    predict = jax.jit(
        lambda support: learner.predict(meta_params, learner.adapt(meta_params, support, key), task.query.x, None)
    )
    outputs = [predict(support) for support in (nothing, masked)]
    predicted = getattr(outputs[0], "outputs", outputs[0])  # the bounds of an interval may be infinite
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(predicted))
    jax.tree.map(lambda *leaves: np.testing.assert_allclose(*leaves, rtol=1e-9), *outputs)
