"""Baseline and Baseline++: heads against plain Python loops, a frozen body, and pre-training that fits it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Model, Task, losses, models
from jmeta.learners.fine_tune import fine_tune

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import (
    assert_absent_ways_change_nothing,
    assert_padding_alone_is_finite,
    assert_padding_changes_nothing,
    assert_support_order_is_irrelevant,
    assert_trees_close,
    blobs,
    in_double,
    predict,
)

HEADS = ["cosine", "linear"]
NUM_CLASSES = 6


def make_learner(head="cosine", num_ways=3, num_steps=3, body=None):
    numbers = {"num_classes": NUM_CLASSES, "num_ways": num_ways, "num_steps": num_steps}
    return fine_tune(body or smooth_mlp(4), optax.sgd(0.1), **numbers, head=head)


def learner_and_params(head, task, **numbers):
    learner = make_learner(head, **numbers)
    return learner, in_double(learner.init(jax.random.key(1), task))


def logits(head, params, x):
    if head == "linear":
        return x @ params["weights"].T + params["bias"][None]
    length = lambda v: jnp.sqrt(jnp.square(v).sum(1, keepdims=True))
    return 10.0 * (x / length(x)) @ (params["weights"] / length(params["weights"])).T


@pytest.mark.parametrize("head", HEADS)
def test_the_head_is_fitted_as_by_a_python_loop_on_frozen_features(float64, key, head):
    task = blobs(key)
    learner, meta_params = learner_and_params(head, task, num_steps=3)
    start = jax.jit(make_learner(head, num_steps=0).adapt)(meta_params, task.support, key)
    adapted = jax.jit(learner.adapt)(meta_params, task.support, key)
    assert_trees_close(adapted.body, meta_params["body"], rtol=0, atol=0)
    features = smooth_mlp(4).apply(meta_params["body"], task.support.x, None)
    params, one_hot = start.head, jnp.eye(3)[task.support.y]
    loss_of = lambda p: -(one_hot * jax.nn.log_softmax(logits(head, p, features))).sum(1).mean()
    gradient_fn = jax.jit(jax.grad(loss_of))
    for _ in range(3):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient_fn(params))
    assert_trees_close(adapted.head, params)
    query = smooth_mlp(4).apply(meta_params["body"], task.query.x, None)
    np.testing.assert_allclose(learner.predict({}, adapted, task.query.x, None), logits(head, params, query), rtol=1e-9)


def test_cosine_weights_start_with_length_one_and_differ_with_the_key(key):
    task = blobs(key)
    learner, meta_params = learner_and_params("cosine", task, num_steps=0)
    adapt = jax.jit(learner.adapt)
    heads = [adapt(meta_params, task.support, jax.random.key(i)).head["weights"] for i in range(2)]
    np.testing.assert_allclose(jnp.linalg.norm(heads[0], axis=1), 1.0, rtol=1e-6)
    assert not jnp.allclose(heads[0], heads[1])


@pytest.mark.parametrize("head", HEADS)
def test_meta_gradient_reaches_the_body_and_is_the_central_difference(float64, key, head):
    task = blobs(key)
    learner, meta_params = learner_and_params(head, task)
    episode_fn = jmeta.plain_episode(learner, losses.cross_entropy)
    of_body = lambda body: episode_fn(meta_params | {"body": body}, task, key)[0]
    assert_gradient_is_central_difference(of_body, meta_params["body"])


@pytest.mark.parametrize("head", HEADS)
def test_pretraining_gradient_is_the_central_difference(float64, key, head):
    task = blobs(key)
    learner, meta_params = learner_and_params(head, task)
    pretrain_fn = jmeta.episode(learner, losses.cross_entropy)
    assert_gradient_is_central_difference(lambda m: pretrain_fn(m, task, key)[0], meta_params)


@pytest.mark.parametrize("head", HEADS)
def test_order_and_padding_change_nothing_and_absent_ways_are_ruled_out(float64, key, head):
    task = blobs(key)
    learner, meta_params = learner_and_params(head, task)
    assert_support_order_is_irrelevant(learner, meta_params, task)
    assert_padding_changes_nothing(learner, meta_params, task)
    assert_padding_alone_is_finite(learner, meta_params, task)


def test_absent_ways_change_nothing_where_the_head_is_drawn_alike(float64, key):
    """Heads of different size are drawn differently, so the draw is trained away: the linear objective is convex."""
    task = blobs(key, num_shots=3)
    make = lambda num_ways: fine_tune(
        identity(),
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5)),
        num_classes=NUM_CLASSES,
        num_ways=num_ways,
        num_steps=400,
        head="linear",
    )
    assert_absent_ways_change_nothing(make, {"body": {}, "head": {}}, task, num_ways=3)


@pytest.mark.parametrize("head", HEADS)
def test_pretraining_fits_all_classes_and_then_helps_on_new_ones(key, head):
    """The signal is in two of ten inputs: a body that found them leaves less for a support to get wrong."""
    body = models.mlp([16, 4], activation=jnp.tanh)

    def batch_of(key, classes, count):
        labels = jnp.arange(count) % len(classes)
        noise = 3.0 * jax.random.normal(key, (count, 10))
        return Batch(noise.at[:, :2].set(3.0 * classes[labels] + noise[:, :2] / 10), labels)

    at_angle = lambda turn: jnp.stack([jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)], 1)
    classes, new_classes = at_angle(jnp.arange(6) / 6), at_angle(jnp.array([1, 5, 9]) / 12)
    learner = fine_tune(body, optax.sgd(0.1), num_classes=NUM_CLASSES, num_ways=3, num_steps=20, head=head)
    pretrain_fn = jmeta.over_tasks(jmeta.episode(learner, losses.cross_entropy))
    optimizer = optax.adam(0.01)

    def step(carry, key):
        meta_params, state = carry
        key_batch, key_step = jax.random.split(key)
        batches = jax.vmap(batch_of, in_axes=(0, None, None))(jax.random.split(key_batch, 2), classes, 30)
        (_, aux), grads = jax.value_and_grad(pretrain_fn, has_aux=True)(meta_params, Task(batches, batches), key_step)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(meta_params, updates), state), aux["accuracy"]

    new = Task(batch_of(key, new_classes, 6), batch_of(jax.random.key(3), new_classes, 90))
    start = learner.init(key, new)
    run = jax.jit(lambda start: jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, 200)))
    (trained, _), accuracies = run(start)
    assert accuracies[-20:].mean() > 0.9
    accuracy = lambda m: float((predict(learner, m, new).argmax(1) == new.query.y).mean())
    assert accuracy(trained) > max(0.8, accuracy(start) + 0.1)


def test_the_body_sees_the_support_without_dropout_and_keeps_its_statistics(key):
    def calibrate(params, x, key):
        assert key is None
        return x - x.mean(0, keepdims=True), {"mean": x.mean(0, keepdims=True)}

    body = Model(lambda key, x: {"mean": jnp.zeros((1, 4))}, lambda params, x, key: x - params["mean"], calibrate)
    task = blobs(key)
    learner = make_learner(body=body)
    adapted = learner.adapt(learner.init(key, task), task.support, key)
    np.testing.assert_allclose(adapted.body["mean"][0], task.support.x.mean(0), rtol=1e-6)


def test_mistakes_are_refused():
    make = lambda **changed: fine_tune(
        identity(), optax.sgd(0.1), **({"num_classes": 4, "num_ways": 2, "num_steps": 1} | changed)
    )
    for changed, message in [
        ({"num_ways": 0}, "num_ways=0; expected"),
        ({"num_classes": 0}, "num_classes=0; expected"),
        ({"num_steps": -1}, "num_steps=-1; expected an integer"),
        ({"head": "round"}, "head='round'; expected one of 'cosine', 'linear'"),
        ({"scale": 0.0}, r"scale=0\.0; expected a positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(**changed)
