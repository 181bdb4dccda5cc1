"""Distributions of actions: every quantity by a second route, and gradients where actions are impossible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jmeta.domains.rl.policies import Categorical, Normal

IMPOSSIBLE = Categorical(jnp.array([0.3, -jnp.inf, 1.2, -0.5]))


def categoricals(key):
    """Two of them, `[6, 4]`."""
    key_one, key_other = jax.random.split(key)
    return Categorical(2 * jax.random.normal(key_one, (6, 4))), Categorical(jax.random.normal(key_other, (6, 4)))


def normals(key):
    """Two of them, `[5, 3]`."""
    keys = jax.random.split(key, 4)
    one, other, third, fourth = (jax.random.normal(each, (5, 3)) for each in keys)
    return Normal(one, 0.5 * other), Normal(third, 0.5 * fourth)


def test_categorical_is_that_of_scipy(float64, key):
    one, other = categoricals(key)
    p, q = np.asarray(jax.nn.softmax(one.logits)), np.asarray(jax.nn.softmax(other.logits))
    for action in range(4):
        expected = [scipy.stats.rv_discrete(values=(range(4), row)).logpmf(action) for row in p]
        np.testing.assert_allclose(one.log_prob(jnp.full(6, action)), expected, rtol=1e-10)
    np.testing.assert_allclose(one.entropy(), scipy.stats.entropy(p, axis=1), rtol=1e-10)
    np.testing.assert_allclose(one.kl(other), scipy.stats.entropy(p, q, axis=1), rtol=1e-9)


def test_normal_is_that_of_scipy(float64, key):
    one, other = normals(key)
    theirs = [scipy.stats.multivariate_normal(m, np.diag(np.exp(2 * s))) for m, s in zip(*one, strict=True)]
    action = other.mean
    expected = [each.logpdf(row) for each, row in zip(theirs, action, strict=True)]
    np.testing.assert_allclose(one.log_prob(action), expected, rtol=1e-10)
    np.testing.assert_allclose(one.entropy(), [each.entropy() for each in theirs], rtol=1e-10)


@pytest.mark.parametrize("make", [categoricals, normals])
def test_entropy_and_divergence_are_expectations_of_log_probabilities(float64, key, make):
    """H = E[−log p] and KL = E[log p − log q]: over drawn actions, to four standard errors of a mean of 20,000."""
    one, other = make(key)
    actions = jax.vmap(one.sample)(jax.random.split(jax.random.key(1), 20_000))
    log_p, log_q = (jax.vmap(each.log_prob)(actions) for each in (one, other))
    for drawn, exact in ((-log_p, one.entropy()), (log_p - log_q, one.kl(other))):
        assert (abs(drawn.mean(0) - exact) < 4 * drawn.std(0) / np.sqrt(20_000)).all()


def test_divergence_of_normals_is_the_sum_over_numbers_by_quadrature(float64):
    one, other = Normal(jnp.array([0.3]), jnp.array([-0.2])), Normal(jnp.array([-0.5]), jnp.array([0.4]))
    x = jnp.linspace(-12, 12, 20_001)[:, None]
    log_p, log_q = (each.log_prob(x) for each in (jax.tree.map(lambda leaf: leaf[None], d) for d in (one, other)))
    integral = jnp.trapezoid(jnp.exp(log_p) * (log_p - log_q), x[:, 0])
    np.testing.assert_allclose(one.kl(other), integral, rtol=1e-8)
    twice = [Normal(jnp.repeat(d.mean, 2), jnp.repeat(d.log_std, 2)) for d in (one, other)]
    np.testing.assert_allclose(twice[0].kl(twice[1]), 2 * integral, rtol=1e-8)


@pytest.mark.parametrize("make", [categoricals, normals])
def test_divergence_is_zero_from_itself_and_positive_from_others(float64, key, make):
    one, other = make(key)
    np.testing.assert_allclose(one.kl(one), 0, atol=1e-12)
    assert (one.kl(other) > 0).all()


@pytest.mark.parametrize("make", [categoricals, normals])
def test_second_derivative_of_the_divergence_is_the_information_of_fisher(float64, key, make):
    """∇²KL(p_θ ‖ p_θ') at θ' = θ is E[∇log p ∇log pᵀ]; over actions drawn, or enumerated."""
    one = jax.tree.map(lambda leaf: leaf[0], make(key)[0])
    flat, unflatten = jax.flatten_util.ravel_pytree(one)
    hessian = jax.jit(jax.hessian(lambda theta: one.kl(unflatten(theta))))(flat)
    score = jax.jit(jax.vmap(lambda action: jax.grad(lambda theta: unflatten(theta).log_prob(action))(flat)))
    if make is categoricals:
        scores, weights = score(jnp.arange(4)), jax.nn.softmax(one.logits)
    else:
        # a product rule of Gauss and Hermite is exact: the integrand is a polynomial of degree 4
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3)
        weights = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * 3, indexing="ij")), 0).reshape(-1)
        scores = score(one.mean[None] + jnp.exp(one.log_std)[None] * grid)
    np.testing.assert_allclose(hessian, (scores * weights[:, None]).T @ scores, atol=1e-9)


def test_mode_is_the_most_probable_action(key):
    one, _ = categoricals(key)
    assert one.mode().dtype == jnp.int32
    every = jnp.stack([one.log_prob(jnp.full(6, action)) for action in range(4)])
    np.testing.assert_array_equal(one.log_prob(one.mode()), every.max(0))
    normal, _ = normals(key)
    np.testing.assert_allclose(jax.grad(lambda action: normal.log_prob(action).sum())(normal.mode()), 0, atol=1e-7)


def test_samples_have_the_stated_frequencies_and_moments(key):
    one = IMPOSSIBLE
    actions = jax.vmap(one.sample)(jax.random.split(key, 20_000))
    assert actions.dtype == jnp.int32
    counts = np.bincount(actions, minlength=4)
    np.testing.assert_allclose(counts / 20_000, jax.nn.softmax(one.logits), atol=0.015)
    assert counts[1] == 0
    normal = Normal(jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.5, 3.0])))
    actions = jax.vmap(normal.sample)(jax.random.split(key, 20_000))
    np.testing.assert_allclose(actions.mean(0), [1, -2], atol=0.1)
    np.testing.assert_allclose(actions.std(0), [0.5, 3], rtol=0.03)


def test_impossible_actions_leave_values_and_gradients_finite():
    """As if there were only the others; the logits of impossible actions have no gradient."""
    others = jnp.array([0, 2, 3])
    finite = Categorical(IMPOSSIBLE.logits[others])
    uniform = Categorical(jnp.array([0.1, -jnp.inf, 0.2, 0.3]))
    quantities = [
        lambda logits, other: Categorical(logits).log_prob(jnp.array(2 if logits.size == 4 else 1)),
        lambda logits, other: Categorical(logits).entropy(),
        lambda logits, other: Categorical(logits).kl(Categorical(other)),
        lambda logits, other: Categorical(other).kl(Categorical(logits)),
    ]
    for quantity in quantities:
        value_and_gradient = jax.jit(jax.value_and_grad(quantity))
        value, gradient = value_and_gradient(IMPOSSIBLE.logits, uniform.logits)
        expected, expected_gradient = value_and_gradient(finite.logits, uniform.logits[others])
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient[others], expected_gradient, rtol=1e-5, atol=1e-7)
        assert gradient[1] == 0


def test_an_impossible_action_has_no_probability_and_is_infinitely_surprising():
    assert jnp.isneginf(IMPOSSIBLE.log_prob(jnp.array(1)))
    assert jnp.isposinf(Categorical(jnp.zeros(4)).kl(IMPOSSIBLE))


@pytest.mark.parametrize("make", [categoricals, normals])
def test_one_at_a_time_is_all_at_once(key, make):
    one, other = make(key)
    action = one.sample(jax.random.key(1))
    np.testing.assert_allclose(jax.vmap(lambda d, a: d.log_prob(a))(one, action), one.log_prob(action), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(lambda d: d.entropy())(one), one.entropy(), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(lambda d, e: d.kl(e))(one, other), one.kl(other), rtol=1e-5)


@pytest.mark.parametrize("make", [categoricals, normals])
def test_types_are_never_promoted(key, make):
    with jax.numpy_dtype_promotion("strict"):
        one, other = make(key)
        action = one.sample(jax.random.key(1))
        assert {x.dtype for x in (one.log_prob(action), one.entropy(), one.kl(other))} == {jnp.dtype(jnp.float32)}
