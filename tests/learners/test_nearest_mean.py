"""Nearest mean: what it computes, and that it is prototypical networks without a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Batch, losses
from jmeta.learners.nearest_mean import nearest_mean
from jmeta.learners.protonet import protonet

from ..networks import identity
from .few_shot_tasks import (
    assert_absent_ways_change_nothing,
    assert_padding_alone_is_finite,
    assert_padding_changes_nothing,
    assert_support_order_is_irrelevant,
    blobs,
    predict,
)


def test_is_a_prototypical_network_of_the_identity(float64, key):
    task = blobs(key)
    expected = predict(protonet(identity(), num_ways=3), {"params": {}}, task)
    np.testing.assert_allclose(predict(nearest_mean(num_ways=3), {}, task), expected, rtol=1e-12)


def test_images_of_bytes_are_flattened_and_do_not_overflow():
    x = jnp.array([0, 0, 255, 255], jnp.uint8).reshape(2, 1, 2, 1)
    learner = nearest_mean(num_ways=2)
    adapted = learner.adapt({}, Batch(x, jnp.array([0, 1])), jax.random.key(0))
    assert learner.predict({}, adapted, x, None).tolist() == [[0.0, -130050.0], [-130050.0, 0.0]]


def test_order_padding_and_absent_ways_change_nothing(float64, key):
    task = blobs(key)
    assert_support_order_is_irrelevant(nearest_mean(num_ways=3), {}, task)
    assert_padding_changes_nothing(nearest_mean(num_ways=3), {}, task)
    assert_padding_alone_is_finite(nearest_mean(num_ways=3), {}, task)
    assert_absent_ways_change_nothing(lambda num_ways: nearest_mean(num_ways=num_ways), {}, task, num_ways=3)


def test_has_nothing_to_train(key):
    learner = nearest_mean(num_ways=3)
    assert learner.init(key, blobs(key)) == {}
    (_, aux), gradient = jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True)(
        {}, blobs(key), key
    )
    assert gradient == {}
    assert aux["accuracy"] > 0.5


def test_mistakes_are_refused(key):
    with pytest.raises(ValueError, match="num_ways=-1; expected"):
        nearest_mean(num_ways=-1)
    learner = nearest_mean(num_ways=2)
    adapted = learner.adapt({}, Batch(jnp.zeros((2, 3)), jnp.arange(2)), key)
    with pytest.raises(ValueError, match="inputs have 4 numbers, but those of the support have 3"):
        learner.predict({}, adapted, jnp.zeros((1, 4)), None)
    with pytest.raises(ValueError, match="not one-hot rows"):
        nearest_mean(num_ways=2).adapt({}, Batch(jnp.zeros((2, 1)), jnp.eye(2)), key)
