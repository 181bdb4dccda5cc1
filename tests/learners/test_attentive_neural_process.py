"""Attention as a kernel smoother, written out in NumPy, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import Batch, Model, learners, models
from jmeta.distributions import Normal

from ..networks import identity, in_default_precision

POINTS, QUERIES = 7, 5


def by_hand(apply):
    return Model(lambda key, x: {}, lambda params, x, key: apply(x))


TARGETS = by_hand(lambda rows: rows[:, 2:])
SMOOTHED = by_hand(lambda rows: Normal(rows[:, :1], jnp.ones_like(rows[:, :1])))


def points(key):
    keys = jax.random.split(key, 3)
    x, y, queries = (jax.random.normal(key, shape) for key, shape in zip(keys, [(7, 2), (7, 1), (5, 2)], strict=True))
    return Batch(x, y, jnp.arange(POINTS) != 3), queries


def predicted(learner, meta_params, support, queries):
    adapted = learner.adapt(meta_params, support, jax.random.key(0))
    return learner.predict(meta_params, adapted, queries, None)


KERNELS = {
    "gaussian": (
        lambda q, k: -jnp.square(q[:, None] - k[None]).sum(-1) / 2 / 0.3**2,
        lambda q, k: np.exp(-((q - k) ** 2).sum() / 2 / 0.3**2),
    ),
    "laplace": (learners.laplace_scores, lambda q, k: np.exp(-abs(q - k).sum())),
    "dot_product": (learners.dot_product_scores, lambda q, k: np.exp(q @ k / np.sqrt(2))),
}


@pytest.mark.parametrize("name", KERNELS)
def test_of_targets_themselves_it_is_a_kernel_smoother(float64, name, key):
    """Σᵢ k(x, xᵢ) yᵢ / Σᵢ k(x, xᵢ) over the real points."""
    scores, kernel = KERNELS[name]
    support, queries = points(key)
    learner = learners.attentive_neural_process(TARGETS, identity(), SMOOTHED, scores=scores)
    meta_params = {"encoder": {}, "embedding": {}, "decoder": {}}
    real_x, real_y = (np.delete(np.asarray(leaf), 3, 0) for leaf in support[:2])
    weights = np.array([[kernel(query, x) for x in real_x] for query in np.asarray(queries)])
    expected = weights @ real_y / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(predicted(learner, meta_params, support, queries).loc, expected, rtol=1e-12)


def test_a_narrow_kernel_returns_the_targets_of_the_context(float64, key):
    support, _ = points(key)
    scores = lambda q, k: 1e4 * learners.laplace_scores(q, k)
    learner = learners.attentive_neural_process(TARGETS, identity(), SMOOTHED, scores=scores)
    found = predicted(learner, {"encoder": {}, "embedding": {}, "decoder": {}}, support, support.x).loc
    is_real = np.asarray(support.mask)
    np.testing.assert_allclose(found[is_real], support.y[is_real], rtol=1e-12)


def test_heads_smooth_their_shares_apart(float64, key):
    """Two heads are two smoothers, of halves of the embedding and of the values."""
    support, queries = points(key)
    network = in_default_precision(models.mlp([6, 4], activation=jnp.tanh))
    everything = by_hand(lambda rows: Normal(rows[:, :4], jnp.ones_like(rows[:, :4])))
    learner = learners.attentive_neural_process(network, network, everything, num_heads=2)
    encoder, embedding = network.init(key, jnp.zeros((1, 3))), network.init(key, jnp.zeros((1, 2)))
    meta_params = {"encoder": encoder, "embedding": embedding, "decoder": {}}
    found = predicted(learner, meta_params, support, queries).loc
    values = network.apply(encoder, jnp.concatenate(support[:2], 1), None)
    keys, asked = (network.apply(embedding, x, None) for x in (support.x, queries))
    for half in (slice(0, 2), slice(2, 4)):
        weights = np.exp(np.asarray(asked)[:, half] @ np.asarray(keys)[:, half].T / np.sqrt(2))
        weights = weights * np.asarray(support.mask)
        expected = weights @ np.asarray(values)[:, half] / weights.sum(1, keepdims=True)
        np.testing.assert_allclose(found[:, half], expected, rtol=1e-10)


def test_with_equal_scores_it_is_a_conditional_neural_process(float64, key):
    support, queries = points(key)
    network = in_default_precision(models.mlp([6, 4], activation=jnp.tanh))
    decoder = models.normal_outputs(network)
    equal = lambda queries, keys: jnp.zeros((len(queries), len(keys)))
    attentive = learners.attentive_neural_process(network, identity(), decoder, scores=equal)
    conditional = learners.conditional_neural_process(network, decoder)
    meta_params = {
        "encoder": network.init(key, jnp.zeros((1, 3))),
        "decoder": decoder.init(jax.random.key(1), jnp.zeros((1, 6))),
    }
    found = predicted(attentive, meta_params | {"embedding": {}}, support, queries)
    expected = predicted(conditional, meta_params, support, queries)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_the_gradient_is_finite_where_a_query_is_a_point_of_the_context(key):
    support, _ = points(key)
    learner = learners.attentive_neural_process(TARGETS, identity(), SMOOTHED, scores=learners.laplace_scores)
    meta_params = {"encoder": {}, "embedding": {}, "decoder": {}}
    total = lambda x: predicted(learner, meta_params, support, x).loc.sum()
    assert np.isfinite(jax.grad(total)(support.x)).all()


def test_heads_that_do_not_divide_the_width_are_refused(key):
    support, queries = points(key)
    network = models.mlp([5])
    learner = learners.attentive_neural_process(network, network, models.mlp([1]), num_heads=2)
    params = {name: network.init(key, jnp.zeros((1, n))) for name, n in (("encoder", 3), ("embedding", 2))}
    with pytest.raises(ValueError, match="num_heads=2 does not divide the 5 outputs"):
        predicted(learner, params | {"decoder": {}}, support, queries)
    with pytest.raises(ValueError, match="num_heads=0"):
        learners.attentive_neural_process(network, network, network, num_heads=0)
