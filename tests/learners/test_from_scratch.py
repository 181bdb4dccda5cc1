"""Training from scratch: a Python loop from the same draw, and nothing that other tasks could teach."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Model, losses
from jmeta.learners.from_scratch import from_scratch

from ..networks import smooth_mlp
from .few_shot_tasks import assert_support_order_is_irrelevant, assert_trees_close, blobs, padded, predict


def test_is_plain_descent_from_a_random_draw(float64, key):
    task = blobs(key)
    make = lambda num_steps: from_scratch(smooth_mlp(3), losses.cross_entropy, optax.sgd(0.1), num_steps=num_steps)
    params = jax.jit(make(0).adapt)({}, task.support, key)
    support_loss = lambda p: losses.cross_entropy(smooth_mlp(3).apply(p, task.support.x, None), task.support)[0]
    gradient_fn = jax.jit(jax.grad(support_loss))
    for _ in range(3):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient_fn(params))
    adapted = jax.jit(make(3).adapt)({}, task.support, key)
    assert_trees_close(adapted, params, rtol=1e-5)
    np.testing.assert_allclose(
        make(3).predict({}, adapted, task.query.x, None), smooth_mlp(3).apply(params, task.query.x, None), rtol=1e-5
    )


def test_each_key_draws_its_own_model(key):
    task = blobs(key)
    learner = from_scratch(smooth_mlp(3), losses.cross_entropy, optax.sgd(0.1), num_steps=0)
    first, again, other = (
        learner.adapt({}, task.support, jax.random.key(i))["params"]["head"]["kernel"] for i in (0, 0, 1)
    )
    assert jnp.array_equal(first, again)
    assert not jnp.allclose(first, other)


def test_learns_a_support_and_has_nothing_to_meta_train(key):
    task = blobs(key)
    learner = from_scratch(smooth_mlp(3), losses.cross_entropy, optax.adam(0.05), num_steps=100)
    assert learner.init(key, task) == {}
    on_support = jmeta.Task(task.support, task.support)
    both = jax.jit(jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True))
    (loss, aux), gradient = both({}, on_support, key)
    assert loss < 0.1
    assert aux["accuracy"] == 1.0
    assert gradient == {}


def test_order_and_padding_change_nothing(float64, key):
    task = blobs(key)
    learner = from_scratch(smooth_mlp(3), losses.cross_entropy, optax.sgd(0.1), num_steps=3)
    assert_support_order_is_irrelevant(learner, {}, task)
    support = padded(task.support, np.random.default_rng(0))
    support = support._replace(x=jnp.where(support.mask[:, None], support.x, 5.0))  # NaN would pass through the model
    assert_trees_close(predict(learner, {}, task._replace(support=support)), predict(learner, {}, task))


def test_statistics_are_those_of_the_trained_model(key):
    def calibrate(params, x, key):
        outputs = x @ params["weights"]
        return outputs, params | {"mean": outputs.mean(0, keepdims=True)}

    model = Model(
        lambda key, x: {"weights": jnp.ones((4, 3)), "mean": jnp.zeros((1, 3))},
        lambda params, x, key: x @ params["weights"] - params["mean"],
        calibrate,
    )
    task = blobs(key)
    adapted = from_scratch(model, losses.cross_entropy, optax.sgd(0.1), num_steps=2).adapt({}, task.support, key)
    assert not jnp.allclose(adapted["weights"], 1.0)
    expected = (task.support.x @ adapted["weights"]).mean(0)
    np.testing.assert_allclose(adapted["mean"][0], expected, rtol=1e-5, atol=1e-6)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_steps=-1; expected an integer"):
        from_scratch(smooth_mlp(3), losses.cross_entropy, optax.sgd(0.1), num_steps=-1)
