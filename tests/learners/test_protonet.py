"""Prototypical networks: three distances against loops, identities between them, and their meta-gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Batch, losses
from jmeta.learners.protonet import protonet

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import (
    assert_absent_ways_change_nothing,
    assert_padding_alone_is_finite,
    assert_padding_changes_nothing,
    assert_support_order_is_irrelevant,
    blobs,
    in_double,
    loss_and_gradient,
    predict,
)

DISTANCES = ["euclidean", "cosine", "mahalanobis"]


def learner_and_params(distance, task, num_ways=3):
    learner = protonet(smooth_mlp(3), num_ways=num_ways, distance=distance)
    return learner, in_double(learner.init(jax.random.key(1), task))


def logits_by_loops(distance, support, query):
    """From the papers' equations, with an inverse matrix and without a mask."""
    x, y = np.asarray(support.x), np.asarray(support.y)
    outputs = np.zeros((len(query), y.max() + 1))
    for i, q in enumerate(np.asarray(query)):
        for k in range(y.max() + 1):
            members = x[y == k]
            centre, n = members.mean(0), len(members)
            if distance == "euclidean":
                outputs[i, k] = -((q - centre) ** 2).sum()
            elif distance == "cosine":
                outputs[i, k] = 10 * q @ centre / np.linalg.norm(q) / np.linalg.norm(centre)
            else:
                of_class = np.cov(members.T) if n > 1 else np.zeros((x.shape[1], x.shape[1]))
                share = n / (n + 1)
                mixed = share * of_class + (1 - share) * np.cov(x.T) + np.eye(x.shape[1])
                outputs[i, k] = -0.5 * (q - centre) @ np.linalg.inv(mixed) @ (q - centre)
    return outputs


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("num_shots", [1, 3])
def test_logits_are_the_papers(float64, key, distance, num_shots):
    task = blobs(key, num_shots=num_shots)
    learner = protonet(identity(), num_ways=3, distance=distance)
    meta_params = learner.init(key, task)
    expected = logits_by_loops(distance, task.support, task.query.x)
    np.testing.assert_allclose(predict(learner, meta_params, task), expected, rtol=1e-6)


def test_euclidean_logits_are_a_linear_classifier_up_to_a_constant_of_the_query(float64, key):
    """Snell et al., eq. 8: weights 2cₖ and biases −‖cₖ‖²."""
    task = blobs(key)
    learner = protonet(identity(), num_ways=3)
    means = learner.adapt({"params": {}}, task.support, key).means
    linear = 2 * task.query.x @ means.T - jnp.square(means).sum(1)[None]
    logits = predict(learner, {"params": {}}, task)
    np.testing.assert_allclose(jax.nn.softmax(linear), jax.nn.softmax(logits), rtol=1e-9)


def test_mahalanobis_is_half_of_euclidean_where_nothing_varies(float64):
    """Two examples a class, both alike, and one class alone: every covariance is 0 and Q is the identity."""
    support = Batch(jnp.ones((2, 3)), jnp.zeros(2, jnp.int32))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)))
    outputs = [
        learner.predict({}, learner.adapt({"params": {}}, support, jax.random.key(0)), x, None)
        for learner in (protonet(identity(), num_ways=1, distance=d) for d in ("mahalanobis", "euclidean"))
    ]
    np.testing.assert_allclose(outputs[0], 0.5 * outputs[1], rtol=1e-12)


def test_cosine_sees_directions_alone(float64, key):
    task = blobs(key, num_shots=1)
    learner = protonet(identity(), num_ways=3, distance="cosine")
    meta_params = learner.init(key, task)
    longer = jax.tree.map(lambda leaf: leaf * 7.0 if leaf.ndim == 2 else leaf, task)
    np.testing.assert_allclose(predict(learner, meta_params, longer), predict(learner, meta_params, task), rtol=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
def test_meta_gradient_is_the_central_difference(float64, key, distance):
    task = blobs(key)
    learner, meta_params = learner_and_params(distance, task)
    episode_fn = jmeta.episode(learner, losses.cross_entropy)
    assert_gradient_is_central_difference(lambda m: episode_fn(m, task, key)[0], meta_params)


@pytest.mark.parametrize("distance", DISTANCES)
def test_order_padding_and_absent_ways_change_nothing(float64, key, distance):
    task = blobs(key)
    learner, meta_params = learner_and_params(distance, task)
    assert_support_order_is_irrelevant(learner, meta_params, task)
    assert_padding_changes_nothing(learner, meta_params, task)
    assert_padding_alone_is_finite(learner, meta_params, task)
    make = lambda num_ways: protonet(smooth_mlp(3), num_ways=num_ways, distance=distance)
    assert_absent_ways_change_nothing(make, meta_params, task, num_ways=3)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradient_is_finite_where_embeddings_vanish(key, distance):
    """All embeddings 0: every distance is 0, and so is every length that a cosine divides by."""
    task = blobs(key)
    learner = protonet(smooth_mlp(3), num_ways=3, distance=distance)
    meta_params = jax.tree.map(jnp.zeros_like, learner.init(key, task))
    _, gradient = loss_and_gradient(learner, meta_params, task)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_mistakes_are_refused(key):
    with pytest.raises(ValueError, match="num_ways=0; expected"):
        protonet(identity(), num_ways=0)
    with pytest.raises(ValueError, match="expected one of 'euclidean', 'cosine', 'mahalanobis'"):
        protonet(identity(), num_ways=2, distance="manhattan")
    with pytest.raises(ValueError, match=r"initial_scale=0\.0; expected a positive"):
        protonet(identity(), num_ways=2, distance="cosine", initial_scale=0.0)
    support = Batch(jnp.zeros((2, 3, 3)), jnp.array([0, 1]))
    with pytest.raises(ValueError, match="let the model flatten"):
        protonet(identity(), num_ways=2).adapt({"params": {}}, support, key)
