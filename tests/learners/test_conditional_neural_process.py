"""The conditional neural process as a kernel smoother with a kernel of finitely many features."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta import Batch, Model, learners
from jmeta.distributions import Normal


def features(x):
    """φ(x) with φ(x) · φ(x′) = (1 + x x′)² + 1, which is positive."""
    return jnp.concatenate([jnp.full_like(x, 2**0.5), 2**0.5 * x, x**2], 1)


def test_it_is_a_nadaraya_watson_smoother(float64, key):
    """r = mean of [φ(xᵢ) yᵢ, φ(xᵢ)], and the decoder divides φ(x) · r₁ by φ(x) · r₂."""

    def encode(rows):
        return jnp.concatenate([features(rows[:, :1]) * rows[:, 1:], features(rows[:, :1])], 1)

    def decode(rows):
        over, under = (jnp.sum(features(rows[:, 6:]) * part, 1) for part in (rows[:, :3], rows[:, 3:6]))
        return Normal((over / under)[:, None], jnp.ones((len(rows), 1)))

    encoder, decoder = (
        Model(lambda key, x: {}, lambda params, rows, key, apply=apply: apply(rows)) for apply in (encode, decode)
    )
    learner = learners.conditional_neural_process(encoder, decoder)
    x, y = jax.random.normal(key, (2, 6, 1))
    queries = jnp.linspace(-2, 2, 5)[:, None]
    support = Batch(x, y.at[2].set(jnp.nan), jnp.arange(6) != 2)
    meta_params = {"encoder": {}, "decoder": {}}
    found = learner.predict(meta_params, learner.adapt(meta_params, support, key), queries, None).loc
    real_x, real_y = (np.delete(np.asarray(leaf), 2, 0) for leaf in (x, y))
    weights = (1 + np.asarray(queries) @ real_x.T) ** 2 + 1
    np.testing.assert_allclose(found, weights @ real_y / weights.sum(1, keepdims=True), rtol=1e-12)
