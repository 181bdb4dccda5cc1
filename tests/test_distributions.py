"""Distributions: densities against SciPy's, mixtures against sums written out, and samples against densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jmeta import Batch, losses
from jmeta.distributions import Distribution, Mixture, Normal, mix

LOC, SCALE = np.array([[-1.0, 0.5], [2.0, 0.0]]), np.array([[0.5, 2.0], [0.1, 1.0]])
WEIGHTS = np.array([0.25, 0.75])


@pytest.fixture
def mixture(float64):
    """Two components of three numbers each."""
    locs = jnp.array([[-1.0, 0.0, 3.0], [1.0, 0.5, 3.0]])
    scales = jnp.array([[0.5, 1.0, 0.1], [0.25, 2.0, 0.1]])
    return Mixture(jnp.broadcast_to(jnp.log(jnp.asarray(WEIGHTS)) + 7.0, (3, 2)), Normal(locs.T, scales.T))


def test_a_normal_is_that_of_scipy(float64):
    normal, y = Normal(jnp.asarray(LOC), jnp.asarray(SCALE)), np.array([[0.3, -2.0], [1.9, 0.7]])
    expected = scipy.stats.norm(LOC, SCALE)
    np.testing.assert_allclose(normal.log_prob(jnp.asarray(y)), expected.logpdf(y), rtol=1e-12)
    np.testing.assert_allclose(normal.cdf(jnp.asarray(y)), expected.cdf(y), rtol=1e-12)
    np.testing.assert_allclose(normal.variance(), expected.var(), rtol=1e-12)


def test_a_mixture_is_the_weighted_sum_of_its_components(mixture):
    y = jnp.array([0.1, -0.4, 3.2])
    each = [scipy.stats.norm(*(np.asarray(leaf[:, i]) for leaf in mixture.components)) for i in range(2)]
    average = lambda values: sum(weight * value for weight, value in zip(WEIGHTS, values, strict=True))
    np.testing.assert_allclose(mixture.log_prob(y), np.log(average([one.pdf(y) for one in each])), rtol=1e-12)
    np.testing.assert_allclose(mixture.cdf(y), average([one.cdf(y) for one in each]), rtol=1e-12)
    np.testing.assert_allclose(mixture.mean(), average([one.mean() for one in each]), rtol=1e-12)
    second_moments = average([one.var() + one.mean() ** 2 for one in each])
    np.testing.assert_allclose(mixture.variance(), second_moments - mixture.mean() ** 2, rtol=1e-12)


def test_samples_have_the_distribution_function(mixture):
    samples = jax.vmap(mixture.sample)(jax.random.split(jax.random.key(0), 4000))
    ranks = np.asarray(jax.vmap(mixture.cdf)(samples))  # uniform, if `cdf` is that of `sample`
    for column in ranks.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-3
    together = np.corrcoef(np.asarray(samples).T)
    assert abs(together - np.eye(3)).max() < 0.06  # numbers are drawn apart; standard error 0.016


def test_a_density_integrates_to_its_distribution_function(mixture):
    grid = jnp.linspace(-30.0, 30.0, 60_001)
    density = np.exp(jax.vmap(lambda y: mixture.log_prob(jnp.full(3, y)))(grid))
    np.testing.assert_allclose(np.trapezoid(density, np.asarray(grid), axis=0), 1.0, rtol=1e-8)


def test_the_loss_is_the_mean_over_real_examples_and_padding_changes_nothing(float64):
    y, mask = np.array([[0.3, -2.0], [np.nan, 9.0]]), jnp.array([True, False])
    batch = Batch(jnp.zeros((2, 1)), jnp.asarray(y), mask)
    prediction = lambda loc: Normal(loc, jnp.asarray(SCALE))
    loss, aux = losses.negative_log_likelihood(prediction(jnp.asarray(LOC)), batch)
    np.testing.assert_allclose(loss, -scipy.stats.norm(LOC[0], SCALE[0]).logpdf(y[0]).sum(), rtol=1e-12)
    np.testing.assert_allclose(aux["squared_error"], ((LOC[0] - y[0]) ** 2).mean(), rtol=1e-12)


def test_outputs_that_are_no_distribution_are_refused():
    batch = Batch(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match="expects a distribution.*outputs of type ArrayImpl"):
        losses.negative_log_likelihood(jnp.zeros((2, 1)), batch)
    with pytest.raises(ValueError, match="one shape"):
        losses.negative_log_likelihood(Normal(jnp.zeros(2), jnp.ones(2)), batch)


def test_particles_that_predict_mixtures_are_mixed_with_their_weights(mixture):
    other = mixture._replace(log_weights=jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])))
    both, y = mix(jax.tree.map(lambda *leaves: jnp.stack(leaves), mixture, other)), jnp.array([0.1, -0.4, 3.2])
    average = lambda name, *args: (getattr(mixture, name)(*args) + getattr(other, name)(*args)) / 2
    np.testing.assert_allclose(both.mean(), average("mean"), rtol=1e-12)
    np.testing.assert_allclose(both.cdf(y), average("cdf", y), rtol=1e-12)
    densities = (np.exp(mixture.log_prob(y)) + np.exp(other.log_prob(y))) / 2
    np.testing.assert_allclose(both.log_prob(y), np.log(densities), rtol=1e-12)


def test_what_is_offered_is_a_distribution():
    assert isinstance(Normal(jnp.zeros(1), jnp.ones(1)), Distribution)
    assert isinstance(Mixture(jnp.zeros((1, 2)), Normal(jnp.zeros((1, 2)), jnp.ones((1, 2)))), Distribution)
