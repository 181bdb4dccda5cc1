"""Distributions: densities against SciPy's, mixtures against sums written out, and samples against densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jmeta import Batch, losses
from jmeta.distributions import Bernoulli, Binned, Distribution, Mixture, Normal, is_binary, mix

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


def test_a_bernoulli_is_that_of_scipy_and_a_mixture_of_them_is_one(float64):
    logits, y = jnp.array([[-3.0, 0.4], [1.5, -0.2]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    bernoulli = Bernoulli(logits)
    probabilities = 1 / (1 + np.exp(-np.asarray(logits)))
    expected = scipy.stats.bernoulli(probabilities)
    np.testing.assert_allclose(bernoulli.log_prob(jnp.asarray(y)), expected.logpmf(y), rtol=1e-12)
    np.testing.assert_allclose(bernoulli.variance(), expected.var(), rtol=1e-12)
    for value in (-0.5, 0.0, 0.5, 1.0):
        found = bernoulli.cdf(jnp.full((2, 2), value))
        np.testing.assert_allclose(found, expected.cdf(np.full((2, 2), value)), rtol=1e-12)
    samples = jax.vmap(bernoulli.sample)(jax.random.split(jax.random.key(0), 4000))
    assert set(np.unique(samples)) == {0.0, 1.0}
    np.testing.assert_allclose(samples.mean(0), probabilities, atol=0.03)  # four standard errors
    mixture = mix(bernoulli)  # the rows are particles
    np.testing.assert_allclose(np.exp(mixture.log_prob(jnp.ones(2))), probabilities.mean(0), rtol=1e-12)
    np.testing.assert_allclose(mixture.variance(), probabilities.mean(0) * (1 - probabilities.mean(0)), rtol=1e-12)
    assert [is_binary(each) for each in (bernoulli, mixture, mixture.log_weights)] == [True, True, False]
    assert not is_binary(mix(Normal(logits, jnp.exp(logits))))


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


@pytest.fixture
def binned(float64):
    """Two numbers with four bins each, of unequal widths."""
    edges = jnp.array([[-2.0, -1.0, 0.5, 0.75, 3.0], [0.0, 0.25, 0.5, 1.0, 9.0]])
    return Binned(jnp.array([[0.3, -1.0, 2.0, 0.5], [5.0, 0.0, -4.0, 1.0]]), edges)


def test_the_density_of_bins_integrates_to_one_and_to_its_distribution_function(binned):
    """By the trapezoid rule between the edges, where the density jumps; moments, too."""
    total, first, second = np.zeros(2), np.zeros(2), np.zeros(2)
    for low, high in zip(binned.edges.T[:-1], binned.edges.T[1:], strict=True):
        starts = jnp.where(low == binned.edges[:, 0], low - 90, low)  # tails are 0 far out
        ends = jnp.where(high == binned.edges[:, -1], high + 90, high - 1e-12)
        grid = jnp.linspace(starts, ends, 200_001)
        density = np.exp(jax.vmap(binned.log_prob)(grid))
        total += np.trapezoid(density, grid, axis=0)
        first += np.trapezoid(density * grid, grid, axis=0)
        second += np.trapezoid(density * grid**2, grid, axis=0)
        np.testing.assert_allclose(binned.cdf(grid[-1]), total, atol=1e-7)
    np.testing.assert_allclose(total, 1.0, atol=1e-7)
    np.testing.assert_allclose(binned.mean(), first, rtol=1e-6)
    np.testing.assert_allclose(binned.variance(), second - first**2, rtol=1e-5)


def test_the_log_density_of_bins_is_the_logarithm_of_the_derivative_of_its_distribution_function(binned):
    for y in (-7.0, -1.5, -0.3, 0.6, 0.8, 2.0, 4.0, 30.0):
        y = jnp.full(2, y)
        slope = jax.jvp(binned.cdf, (y,), (jnp.ones(2),))[1]
        np.testing.assert_allclose(jnp.exp(binned.log_prob(y)), slope, rtol=1e-10, atol=1e-300)


def test_half_of_an_outer_bin_is_within_its_edge(binned):
    probabilities = np.asarray(jax.nn.softmax(binned.logits))
    np.testing.assert_allclose(binned.cdf(binned.edges[:, 0]), probabilities[:, 0] / 2, rtol=1e-12)
    np.testing.assert_allclose(binned.cdf(binned.edges[:, -1]), 1 - probabilities[:, -1] / 2, rtol=1e-12)
    for i in (1, 2, 3):
        np.testing.assert_allclose(binned.cdf(binned.edges[:, i]), probabilities[:, :i].sum(1), rtol=1e-12)


def test_samples_of_bins_have_the_distribution_function(binned):
    ranks = jax.vmap(lambda key: binned.cdf(binned.sample(key)))(jax.random.split(jax.random.key(0), 4000))
    for column in np.asarray(ranks).T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-3


def test_far_from_all_bins_density_and_gradient_are_finite():
    def loss(logits, y):
        return -Binned(logits, jnp.linspace(-1.0, 1.0, 5)[None]).log_prob(y).sum()

    for y in (-1e4, 0.0, 1e4):
        value, grads = jax.value_and_grad(loss, (0, 1))(jnp.zeros((1, 4)), jnp.full((1,), y))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, grads)))


@pytest.mark.parametrize("kind", ["binned", "mixture"])
def test_particles_whose_leaves_have_axes_of_their_own_are_averaged(kind, request):
    one = request.getfixturevalue(kind)
    other = one._replace(**{one._fields[0]: -one[0]})
    together = mix(jax.tree.map(lambda a, b: jnp.stack([a, b]), one, other))
    y = jnp.linspace(-0.5, 0.7, one.mean().size)
    average = lambda fn: (fn(one) + fn(other)) / 2
    np.testing.assert_allclose(
        jnp.exp(together.log_prob(y)), average(lambda each: jnp.exp(each.log_prob(y))), rtol=1e-12
    )
    np.testing.assert_allclose(together.cdf(y), average(lambda each: each.cdf(y)), rtol=1e-12)
    np.testing.assert_allclose(together.mean(), average(lambda each: each.mean()), rtol=1e-12)
    second = average(lambda each: each.variance() + each.mean() ** 2)
    np.testing.assert_allclose(together.variance(), second - together.mean() ** 2, rtol=1e-11)
    assert together.sample(jax.random.key(0)).shape == y.shape


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


def test_what_is_offered_is_a_distribution():
    assert isinstance(Normal(jnp.zeros(1), jnp.ones(1)), Distribution)
    assert isinstance(Binned(jnp.zeros((1, 2)), jnp.arange(3.0)[None]), Distribution)
    assert isinstance(Mixture(jnp.zeros((1, 2)), Normal(jnp.zeros((1, 2)), jnp.ones((1, 2)))), Distribution)


def test_particles_that_predict_mixtures_are_mixed_with_their_weights(mixture):
    other = mixture._replace(log_weights=jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])))
    both, y = mix(jax.tree.map(lambda *leaves: jnp.stack(leaves), mixture, other)), jnp.array([0.1, -0.4, 3.2])
    average = lambda name, *args: (getattr(mixture, name)(*args) + getattr(other, name)(*args)) / 2
    np.testing.assert_allclose(both.mean(), average("mean"), rtol=1e-12)
    np.testing.assert_allclose(both.cdf(y), average("cdf", y), rtol=1e-12)
    densities = (np.exp(mixture.log_prob(y)) + np.exp(other.log_prob(y))) / 2
    np.testing.assert_allclose(both.log_prob(y), np.log(densities), rtol=1e-12)


def test_a_class_that_no_particle_predicts_has_a_finite_gradient(float64):
    logits = jnp.array([[[1.0, -jnp.inf, 0.0]], [[0.5, -jnp.inf, -jnp.inf]]])
    mixed = mix(logits)
    np.testing.assert_allclose(jnp.exp(mixed), jax.nn.softmax(logits).mean(0), rtol=1e-12)
    assert np.isneginf(mixed[0, 1])
    gradient = jax.grad(lambda logits: mix(logits)[0, 0])(logits)
    shifted = lambda by: mix(logits.at[0, 0, 0].add(by))[0, 0]
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[0, 0, 0], (shifted(1e-6) - shifted(-1e-6)) / 2e-6, rtol=1e-6)
