"""Relation networks: a comparison of our own making gives other learners back; the loss, maps, and meta-gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Batch, Model, losses, models
from jmeta.learners.protonet import protonet
from jmeta.learners.relation import relation, relation_loss

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import (
    assert_absent_ways_change_nothing,
    assert_padding_alone_is_finite,
    assert_padding_changes_nothing,
    assert_support_order_is_irrelevant,
    blobs,
    in_double,
    predict,
)


def learner_and_params(task, num_ways=3):
    learner = relation(smooth_mlp(3), smooth_mlp(1), num_ways=num_ways)
    return learner, in_double(learner.init(jax.random.key(1), task))


def parameterless(apply):
    return Model(lambda key, x: {}, lambda params, x, key: apply(x))


def test_a_comparison_by_distance_is_a_prototypical_network(float64, key):
    """The class comes first in a pair: −‖c − f‖² from the halves, and only the class's own norm from the first."""
    task = blobs(key)
    distance = parameterless(lambda pairs: -jnp.square(pairs[:, :4] - pairs[:, 4:]).sum(-1, keepdims=True))
    learner = relation(identity(), distance, num_ways=3)
    meta_params = learner.init(key, task)
    expected = predict(protonet(identity(), num_ways=3), {"params": {}}, task)
    np.testing.assert_allclose(predict(learner, meta_params, task), expected, rtol=1e-12)
    class_norm = relation(identity(), parameterless(lambda pairs: pairs[:, :1]), num_ways=3)
    outputs = predict(class_norm, meta_params, task)
    np.testing.assert_allclose(outputs, jnp.broadcast_to(outputs[:1], outputs.shape))
    assert len(np.unique(outputs[0])) == 3


def test_feature_maps_are_joined_in_depth(key):
    """A comparison may be convolutional: it sees the height and width of the embedding, and twice its features."""
    support = Batch(jax.random.normal(key, (2, 5, 4, 3)), jnp.array([0, 1]))
    seen = []
    comparison = parameterless(lambda pairs: seen.append(pairs.shape) or pairs.mean((1, 2, 3))[:, None])
    learner = relation(identity(), comparison, num_ways=2)
    adapted = learner.adapt(learner.init(key, jmeta.Task(support, support)), support, key)
    outputs = learner.predict({}, adapted, jnp.zeros((3, 5, 4, 3)), None)
    assert seen == [(6, 5, 4, 6)]
    np.testing.assert_allclose(outputs, jnp.tile(support.x.mean((1, 2, 3))[None] / 2, (3, 1)), rtol=1e-5)


def test_a_comparison_that_stores_statistics_takes_them_from_the_support(key):
    def calibrate(params, x, key):
        params = {"mean": x.mean()}
        return x[:, :1] - params["mean"], params

    comparison = Model(lambda key, x: {"mean": 0.0}, lambda params, x, key: x[:, :1] - params["mean"], calibrate)
    support = Batch(jnp.array([[1.0], [5.0]]), jnp.array([0, 1]))
    learner = relation(identity(), comparison, num_ways=2)
    adapted = learner.adapt({"params": {}, "comparison": {"mean": 0.0}}, support, key)
    assert adapted.comparison["mean"] == 3.0
    assert learner.predict({}, adapted, jnp.zeros((1, 1)), None).tolist() == [[-2.0, 2.0]]


def test_relation_loss_is_the_mean_squared_error_of_the_scores(float64):
    outputs = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)))
    batch = Batch(jnp.zeros((4, 1)), jnp.array([0, 2, 1, 1]), jnp.array([True, True, True, False]))
    scores = 1 / (1 + np.exp(-np.asarray(outputs)))
    expected = ((scores - np.eye(3)[[0, 2, 1, 1]]) ** 2)[:3].mean()
    loss, aux = relation_loss(outputs, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(aux["accuracy"], (scores.argmax(1) == [0, 2, 1, 1])[:3].mean())
    without_class = jnp.concatenate([outputs, jnp.full((4, 1), -jnp.inf)], 1)
    np.testing.assert_allclose(relation_loss(without_class, batch)[0], expected, rtol=1e-12)
    assert jnp.isfinite(jax.grad(lambda outputs: relation_loss(outputs, batch)[0])(without_class)).all()


@pytest.mark.parametrize("loss_fn", [losses.cross_entropy, relation_loss])
def test_meta_gradient_is_the_central_difference(float64, key, loss_fn):
    task = blobs(key)
    learner, meta_params = learner_and_params(task)
    episode_fn = jmeta.episode(learner, loss_fn)
    assert_gradient_is_central_difference(lambda m: episode_fn(m, task, key)[0], meta_params)


def test_order_padding_and_absent_ways_change_nothing(float64, key):
    task = blobs(key)
    learner, meta_params = learner_and_params(task)
    assert_support_order_is_irrelevant(learner, meta_params, task)
    assert_padding_changes_nothing(learner, meta_params, task, relation_loss)
    assert_padding_alone_is_finite(learner, meta_params, task)
    make = lambda num_ways: relation(smooth_mlp(3), smooth_mlp(1), num_ways=num_ways)
    assert_absent_ways_change_nothing(make, meta_params, task, 3, relation_loss)


def test_the_default_comparison_and_dropout_draw_from_the_key(key):
    task = blobs(key)
    learner = relation(models.mlp([8, 4]), num_ways=3)
    assert predict(learner, learner.init(key, task), task).shape == (6, 3)
    dropping = relation(models.mlp([8, 4]), models.mlp([8, 1], dropout_rate=0.5), num_ways=3)
    meta_params = dropping.init(key, task)
    adapted, predict_with = jax.jit(dropping.adapt)(meta_params, task.support, key), jax.jit(dropping.predict)
    drawn = [predict_with(meta_params, adapted, task.query.x, jax.random.key(i)) for i in (0, 0, 1)]
    assert jnp.array_equal(drawn[0], drawn[1])
    assert not jnp.array_equal(drawn[0], drawn[2])


def test_mistakes_are_refused(key):
    with pytest.raises(ValueError, match="num_ways=0; expected"):
        relation(identity(), num_ways=0)
    task = blobs(key)
    learner = relation(identity(), models.mlp([2]), num_ways=3)
    meta_params = learner.init(key, task)
    adapted = learner.adapt(meta_params, task.support, key)
    with pytest.raises(ValueError, match=r"\(18, 2\) for 18 pairs; expected one score a pair, \(18, 1\)"):
        learner.predict(meta_params, adapted, task.query.x, None)
