"""LEO: closed forms of its networks, its two inner loops written out, and what its training adds to the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import losses
from jmeta.learners import leo
from jmeta.learners.leo import _correlation, _encode

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import (
    NUM_FEATURES,
    assert_absent_ways_change_nothing,
    assert_padding_alone_is_finite,
    assert_padding_changes_nothing,
    assert_support_order_is_irrelevant,
    blobs,
    in_double,
    predict,
)
from .short_training import query_losses

LATENTS = NUM_FEATURES


def make(embedding=None, num_ways=3, **options):
    return leo(embedding or smooth_mlp(4), losses.cross_entropy, num_ways=num_ways, num_latents=LATENTS, **options)


def drawn_params(learner, task):
    """Meta-parameters in float64, with rates of some size."""
    meta_params = in_double(learner.init(jax.random.key(1), task))
    return meta_params | {"lr": jax.tree.map(lambda leaf: leaf + 0.3, meta_params["lr"])}


def positive(task):
    """The task with positive inputs, which rectifiers let through."""
    return jax.tree.map(lambda leaf: jnp.abs(leaf) if leaf.ndim == 2 else leaf, task)


def transparent(meta_params):
    """Networks of identities: a code is the class mean of the inputs, and a class's weights are its code."""
    eye, zero = np.eye(LATENTS), np.zeros((LATENTS, LATENTS))
    left = np.block([[eye, zero], [zero, zero]])  # of a pair, what comes first
    return meta_params | {
        "encoder": jnp.asarray(eye),
        "relation": [jnp.asarray(left), jnp.eye(2 * LATENTS), jnp.eye(2 * LATENTS)],
        "decoder": jnp.asarray(np.block([eye, zero])),
    }


def class_means(task):
    return np.stack([np.asarray(task.support.x)[np.asarray(task.support.y) == k].mean(0) for k in range(3)])


def test_without_steps_transparent_networks_compare_with_class_means(float64, key):
    task = positive(blobs(key))
    learner = make(identity(), num_steps=0, num_fine_tuning_steps=0)
    meta_params = transparent(drawn_params(learner, task))
    expected = np.asarray(task.query.x) @ class_means(task).T
    np.testing.assert_allclose(predict(learner, meta_params, task), expected, rtol=1e-12)


def test_codes_relate_a_class_with_every_example_pair_by_pair(float64, key):
    task = blobs(key)
    meta_params = drawn_params(make(identity()), task)
    x, labels = np.asarray(task.support.x), np.asarray(task.support.y)
    first, second, third = (np.asarray(matrix) for matrix in meta_params["relation"])
    encoded = x @ np.asarray(meta_params["encoder"])
    sums = np.zeros((3, 2 * LATENTS))
    for one, label in zip(encoded, labels, strict=True):
        for other in encoded:
            hidden = np.maximum(np.concatenate([one, other]) @ first, 0)
            sums[label] += np.maximum(hidden @ second, 0) @ third
    averaged = sums / (2 * len(labels))
    got = _encode(meta_params, task.support.x, jax.nn.one_hot(task.support.y, 3))
    np.testing.assert_allclose(got.loc, averaged[:, :LATENTS], rtol=1e-10)
    softplus = np.log1p(np.exp(averaged[:, LATENTS:]))
    np.testing.assert_allclose(got.scale, 1e-3 + 0.999 * softplus / np.log(2), rtol=1e-10)


def test_both_inner_loops_are_the_softmax_gradients_written_out(float64, key):
    """One step on the codes, then one on the weights, where a code is its class's weights: ∇ = (p − y)ᵀ x / n."""
    task = positive(blobs(key))
    learner = make(identity(), num_steps=1, num_fine_tuning_steps=1)
    meta_params = transparent(drawn_params(learner, task))
    x, one_hot, weights = np.asarray(task.support.x), np.eye(3)[np.asarray(task.support.y)], class_means(task)
    for name in ("codes", "weights"):
        probs = np.exp(x @ weights.T) / np.exp(x @ weights.T).sum(1, keepdims=True)
        weights = weights - np.asarray(meta_params["lr"][name]) * ((probs - one_hot).T @ x) / len(x)
        if name == "codes":
            codes = weights
    adapted = learner.adapt(meta_params, task.support, key)
    np.testing.assert_allclose(adapted.codes, codes, rtol=1e-10)
    np.testing.assert_allclose(adapted.weights, weights, rtol=1e-10)


def test_the_correlation_is_that_of_numpy(float64):
    decoder = np.random.default_rng(0).standard_normal((3, 8))
    cosines = decoder @ decoder.T / np.outer(*[np.linalg.norm(decoder, axis=1)] * 2)
    np.testing.assert_allclose(_correlation(jnp.asarray(decoder)), ((cosines - np.eye(3)) ** 2).mean(), rtol=1e-12)


def test_the_meta_gradient_is_the_central_difference_with_draws_and_without(float64, key):
    """Without the tie of the code to its adapted value, which is held on purpose."""
    task = blobs(key)
    learner = make(encoder_weight=0.0, kl_weight=0.1, orthogonality_weight=0.2, num_steps=2, num_fine_tuning_steps=1)
    meta_params = drawn_params(learner, task)
    for build in (jmeta.plain_episode, jmeta.episode):
        episode_fn = build(learner, losses.cross_entropy)
        assert_gradient_is_central_difference(lambda m, run=episode_fn: run(m, task, key)[0], meta_params)


def test_a_fixed_embedding_gets_no_gradient_and_everything_else_does(key):
    task = blobs(key)
    learner = make(learns_embedding=False)
    episode_fn = jmeta.episode(learner, losses.cross_entropy)
    grads = jax.grad(lambda m: episode_fn(m, task, key)[0])(learner.init(jax.random.key(1), task))
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(grads.pop("embedding")))
    assert all(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))


def test_order_padding_and_absent_ways_change_nothing(float64, key):
    task = blobs(key)
    options = {"num_steps": 2, "num_fine_tuning_steps": 1}
    learner = make(**options)
    meta_params = drawn_params(learner, task)
    assert_support_order_is_irrelevant(learner, meta_params, task)
    assert_padding_changes_nothing(learner, meta_params, task)
    assert_padding_alone_is_finite(learner, meta_params, task)
    assert_absent_ways_change_nothing(lambda ways: make(num_ways=ways, **options), meta_params, task, num_ways=3)


def test_short_trainings_lower_the_query_loss():
    sample = jmeta.tasks.gaussian_blobs(num_ways=3, num_shots=1, num_queries=4, num_features=4)
    learner = make(jmeta.models.mlp([8, 4]), num_steps=2, num_fine_tuning_steps=1)
    before, after, aux = query_losses(learner, losses.cross_entropy, sample, num_steps=60)
    assert (after < before).all()
    assert {"kl", "encoder_distance", "correlation"} <= set(aux)


def test_mistakes_are_refused():
    for options, words in (
        ({"num_ways": 0}, "num_ways=0; expected"),
        ({"kl_weight": -1.0}, r"kl_weight=-1\.0, encoder_weight=.*at least 0"),
        ({"encoder_weight": float("nan")}, "encoder_weight=nan"),
        ({"num_steps": -1}, "num_steps=-1; expected"),
    ):
        with pytest.raises(ValueError, match=words):
            make(**options)
    with pytest.raises(ValueError, match="num_latents=0; a code"):
        leo(identity(), losses.cross_entropy, num_ways=2, num_latents=0)
