"""Normal distributions over parameters by other routes: multivariate normals, moments, and averages written out."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.flatten_util import ravel_pytree

from jmeta import Model, models
from jmeta.uncertain_params import NormalParams, kl_divergence, predict_with_particles, sample


def normal_params(key, scale=0.5):
    key_mean, key_scale = jax.random.split(key)
    tree = {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}
    flat, unravel = ravel_pytree(tree)
    means, log_scales = (scale * jax.random.normal(key, flat.shape) for key in (key_mean, key_scale))
    return NormalParams(unravel(means), unravel(log_scales))


def multivariate(normal):
    mean, log_scale = (np.asarray(ravel_pytree(tree)[0]) for tree in normal)
    return mean, np.diag(np.exp(2 * log_scale))


def test_the_divergence_is_that_of_two_multivariate_normals(float64):
    """½ (tr(Σₚ⁻¹ Σ_q) + (μₚ − μ_q)ᵀ Σₚ⁻¹ (μₚ − μ_q) − k + log det Σₚ / det Σ_q)."""
    q, p = (normal_params(jax.random.key(seed)) for seed in (0, 1))
    (m, s), (n, t) = multivariate(q), multivariate(p)
    inverse = np.linalg.inv(t)
    log_ratio = np.linalg.slogdet(t)[1] - np.linalg.slogdet(s)[1]
    expected = 0.5 * (np.trace(inverse @ s) + (n - m) @ inverse @ (n - m) - len(m) + log_ratio)
    np.testing.assert_allclose(kl_divergence(q, p), expected, rtol=1e-12)


def test_the_divergence_is_the_mean_log_ratio_of_draws(float64):
    q, p = (normal_params(jax.random.key(seed)) for seed in (0, 1))
    draws = jax.vmap(lambda key: ravel_pytree(sample(q, key))[0])(jax.random.split(jax.random.key(2), 20_000))
    densities = (scipy.stats.multivariate_normal(*multivariate(normal)).logpdf(draws) for normal in (q, p))
    log_ratios = np.subtract(*densities)
    standard_error = log_ratios.std() / np.sqrt(len(log_ratios))
    assert abs(float(kl_divergence(q, p)) - log_ratios.mean()) < 4 * standard_error
    assert standard_error < 0.02 * log_ratios.mean()


def test_the_divergence_of_nearly_equal_scales_is_precise_in_single_precision():
    """r² to second order in the log ratio r, where the sum of its three terms would round to 0 or to 6e-8."""
    one = {"w": jnp.zeros(1)}
    q = NormalParams(one, {"w": jnp.full(1, 1e-5)})
    np.testing.assert_allclose(kl_divergence(q, NormalParams(one, one)), 1e-10, rtol=1e-2)


def test_draws_have_the_moments_and_are_independent(float64):
    normal = normal_params(jax.random.key(0))
    mean, covariance = multivariate(normal)
    draws = jax.vmap(lambda key: ravel_pytree(sample(normal, key))[0])(jax.random.split(jax.random.key(1), 20_000))
    scales = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((draws.mean(0) - mean) / scales, 0, atol=0.03)
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(scales, scales), np.eye(len(mean)), atol=0.05)


def test_particles_predict_the_average_of_their_probabilities(float64, key):
    model, x = models.mlp([4, 3]), jnp.ones((5, 2))
    particles = jax.vmap(lambda key: model.init(key, x))(jax.random.split(key, 3))
    each = [jax.nn.softmax(model.apply(jax.tree.map(lambda leaf: leaf[i], particles), x, None)) for i in range(3)]
    got = jax.nn.softmax(predict_with_particles(model, particles, x, None))
    np.testing.assert_allclose(got, sum(each) / 3, rtol=1e-6)


def test_every_particle_has_a_dropout_of_its_own(key):
    noisy = Model(lambda key, x: jnp.zeros(()), lambda params, x, key: params + jax.random.normal(key, (1, 1)))
    model = models.normal_outputs(noisy, scale=1.0)
    prediction = predict_with_particles(model, jnp.zeros(3), jnp.zeros((1, 1)), key)
    assert len(set(prediction.components.mean().ravel().tolist())) == 3
