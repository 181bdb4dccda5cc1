"""Amortized Bayesian meta-learning by other routes: Bayesian linear regression, its evidence, and MAML in a limit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta import Batch, Model, Task, learners, losses, models
from jmeta.params import path_name
from jmeta.uncertain_params import NormalParams, kl_divergence

from ..differences import assert_gradient_is_central_difference
from ..networks import regression_task, smooth_mlp
from .short_training import WAVES, query_losses

LOSS, INNER, NOISE = losses.negative_log_likelihood, optax.sgd(0.05), 0.5
LINE = models.normal_outputs(
    Model(lambda key, x: jnp.zeros((x.shape[1], 1)), lambda w, x, key: x @ w), scale=NOISE
)  # y = xᵀ w + noise
PRIOR = NormalParams(jnp.array([[0.5], [-1.0], [0.0]]), jnp.log(jnp.array([[1.0], [0.5], [1.2]])))


def gaussian_mlp():
    return models.normal_outputs(smooth_mlp(), scale=0.5)


def separable_support():
    """Every example has one feature, so the posterior's covariance is diagonal; the third weight is barely seen."""
    x = np.zeros((5, 3))
    x[[0, 1, 2, 3, 4], [0, 0, 1, 1, 2]] = [1.0, -0.5, 0.8, 1.2, 0.1]
    return Batch(jnp.asarray(x), jnp.array([[1.2], [-0.4], [0.3], [-0.9], [0.5]]))


def prior_in_double():
    return jax.tree.map(lambda leaf: leaf.astype(float), PRIOR)


def exact_posterior(support, prior):
    """Σ⁻¹ = S⁻¹ + XᵀX / s², μ = Σ (S⁻¹ m + Xᵀy / s²), as mean and covariance."""
    x, y = np.asarray(support.x), np.asarray(support.y)[:, 0]
    precision = np.diag(np.exp(-2 * np.asarray(prior.log_scale)[:, 0]))
    covariance = np.linalg.inv(precision + x.T @ x / NOISE**2)
    return covariance @ (precision @ np.asarray(prior.mean)[:, 0] + x.T @ y / NOISE**2), covariance


def log_evidence(support, prior):
    """log N(y; X m, X S Xᵀ + s² I)."""
    x, scales = np.asarray(support.x), np.exp(np.asarray(prior.log_scale)[:, 0])
    covariance = x @ np.diag(scales**2) @ x.T + NOISE**2 * np.eye(len(x))
    mean = x @ np.asarray(prior.mean)[:, 0]
    return scipy.stats.multivariate_normal(mean, covariance).logpdf(np.asarray(support.y)[:, 0])


def test_many_steps_reach_the_posterior_of_bayesian_linear_regression(float64, key):
    support, prior = separable_support(), prior_in_double()
    optimizer = optax.sgd(optax.exponential_decay(0.2, 600, 0.02))
    learner = learners.abml(LINE, LOSS, optimizer, num_steps=1200, num_samples=5000, num_inner_samples=8)
    meta_params = {"params": prior.mean, "log_scale": prior.log_scale}
    adapted = jax.jit(learner.adapt)(meta_params, support, key)
    mean, covariance = exact_posterior(support, prior)
    scales = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((adapted.posterior.mean[:, 0] - mean) / scales, 0.0, atol=0.03)
    np.testing.assert_allclose(jnp.exp(adapted.posterior.log_scale[:, 0]), scales, rtol=0.02)
    prediction = learner.predict(meta_params, adapted, support.x, None)
    np.testing.assert_allclose(prediction.mean()[:, 0], support.x @ mean, atol=0.06)
    np.testing.assert_allclose(
        prediction.variance()[:, 0], NOISE**2 + np.diag(support.x @ covariance @ support.x.T), rtol=0.08
    )


@pytest.mark.parametrize("away", [0.0, 0.3])
def test_the_bound_is_the_evidence_less_the_divergence_from_the_posterior(float64, away, key):
    """ELBO(q) = log p(y) − KL(q ‖ p(w | y)), so at the posterior it is the evidence."""
    support, prior = separable_support(), prior_in_double()
    mean, covariance = exact_posterior(support, prior)
    posterior = NormalParams(jnp.asarray(mean)[:, None], 0.5 * jnp.log(jnp.diag(covariance))[:, None])
    q = jax.tree.map(lambda leaf: leaf + away, posterior)
    rest = jax.tree.map(lambda leaf: None, prior.mean)
    bound = jax.jit(learners.negative_elbo(LINE, LOSS, num_samples=100_000))
    loss, aux = bound(q, prior, rest, support, key)
    expected = log_evidence(support, prior) - float(kl_divergence(q, posterior))
    np.testing.assert_allclose(-5 * loss, expected, atol=0.03)
    assert aux["kl"] > 1
    assert away == 0 or float(kl_divergence(q, posterior)) > 0.3


def test_a_bound_with_padding_is_that_of_the_real_examples(key):
    support = separable_support()
    bound = learners.negative_elbo(LINE, LOSS, num_samples=2)
    filled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.full_like(leaf[:2], jnp.nan)]), support)
    padded = Batch(filled.x, filled.y, jnp.arange(7) < 5)
    q = jax.tree.map(lambda leaf: leaf + 0.1, PRIOR)
    rest = jax.tree.map(lambda leaf: None, PRIOR.mean)
    np.testing.assert_allclose(bound(q, PRIOR, rest, padded, key)[0], bound(q, PRIOR, rest, support, key)[0], rtol=1e-5)


def test_without_support_or_steps_the_posterior_is_the_prior(key):
    task = regression_task(key)
    nothing = task.support._replace(mask=jnp.zeros(5, bool))
    model = models.normal_outputs(models.mlp([4, 1]), scale=0.5)
    for num_steps, support in ((0, task.support), (3, nothing)):
        learner = learners.abml(model, LOSS, INNER, num_steps=num_steps, num_samples=1)
        meta_params = learner.init(jax.random.key(1), task)
        posterior = learner.adapt(meta_params, support, key).posterior
        jax.tree.map(np.testing.assert_array_equal, posterior.mean, meta_params["params"])
        jax.tree.map(np.testing.assert_array_equal, posterior.log_scale, meta_params["log_scale"])


def test_a_certain_prior_without_divergence_is_maml_judged_on_both_batches(float64, key):
    """Parameters without noise descend as MAML's; the bound is the mean loss of support and query together."""
    model, task = gaussian_mlp(), regression_task(key)
    learner = learners.abml(model, LOSS, INNER, num_steps=3, num_samples=2, initial_scale=1e-40, kl_weight=0.0)
    maml = learners.maml(model, LOSS, INNER, num_steps=3)
    both = Batch(*(jnp.concatenate(pair) for pair in zip(task.support[:2], task.query[:2], strict=True)))
    meta_params = learner.init(jax.random.key(1), task)
    compiled = lambda learner: jax.jit(jax.value_and_grad(jmeta.episode(learner, LOSS), has_aux=True))
    run = lambda learner, start, task: compiled(learner)(start, task, key)
    (loss, _), grads = run(learner, meta_params, task)
    (expected_loss, _), expected = run(maml, meta_params["params"], Task(task.support, both))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), grads["params"], expected)


def test_the_meta_gradient_is_the_central_difference(float64, key):
    learner = learners.abml(gaussian_mlp(), LOSS, INNER, num_steps=2, num_samples=2, initial_scale=0.3)
    task = regression_task(key)
    episode_fn, meta_params = jmeta.episode(learner, LOSS), learner.init(jax.random.key(1), task)
    assert_gradient_is_central_difference(lambda params: episode_fn(params, task, key)[0], meta_params)


def test_the_hyperprior_is_normal_in_means_and_gamma_in_precisions(float64, key):
    task = regression_task(key)

    def loss(weight):
        learner = learners.abml(
            gaussian_mlp(), LOSS, INNER, num_steps=0, num_samples=1, initial_scale=0.3,
            hyperprior_weight=weight, precision_prior=(2.5, 0.4),
        )  # fmt: skip
        meta_params = learner.init(jax.random.key(1), task)
        return jmeta.episode(learner, LOSS)(meta_params, task, key)[0], ravel_pytree(meta_params["params"])[0]

    (with_it, means), (without, _) = loss(0.7), loss(0.0)
    density = scipy.stats.norm.logpdf(means).sum()
    density += len(means) * scipy.stats.gamma(2.5, scale=1 / 0.4).logpdf(1 / 0.3**2)
    np.testing.assert_allclose(with_it - without, -0.7 * density / 10, rtol=1e-10)


def test_shared_parameters_are_certain_and_the_others_drawn(key):
    task = regression_task(key)
    is_adapted = lambda path: "/head/" in path
    model = models.normal_outputs(models.mlp([4, 1]), scale=0.5)
    learner = learners.abml(model, LOSS, INNER, num_steps=1, num_samples=3, is_adapted=is_adapted)
    meta_params = learner.init(jax.random.key(1), task)
    particles = learner.adapt(meta_params, task.support, key).particles
    pairs = zip(jax.tree_util.tree_leaves_with_path(particles), jax.tree.leaves(meta_params["params"]), strict=True)
    for (path, leaf), start in pairs:
        if is_adapted(path_name(path)):
            assert (jnp.ptp(leaf, axis=0) > 0).all()
        else:
            np.testing.assert_array_equal(leaf, jnp.broadcast_to(start, leaf.shape))


@pytest.mark.slow
def test_short_trainings_on_sinusoids_learn_with_every_seed():
    model = models.normal_outputs(models.mlp([20, 20, 1]), scale=0.3)
    learner = learners.abml(model, LOSS, optax.sgd(1e-3), num_steps=2, num_samples=2)
    before, after, aux = query_losses(learner, LOSS, WAVES)
    np.testing.assert_array_less(after, 0.9 * before)
    assert (jnp.abs(aux["kl"]) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples=0; expected at least one"),
        ({"num_inner_samples": 0}, "num_inner_samples=0; expected at least one"),
        ({"initial_scale": 0.0}, "initial_scale=0.0; expected a positive"),
        ({"kl_weight": float("nan")}, "kl_weight=nan; expected a number of at least 0"),
        ({"hyperprior_weight": -1.0}, "hyperprior_weight=-1.0; expected"),
        ({"precision_prior": (1.0, 0.0)}, "expected a positive shape and a positive rate"),
        ({"num_steps": -1}, "num_steps=-1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        learners.abml(gaussian_mlp(), LOSS, INNER, **{"num_steps": 5, "num_samples": 2, **arguments})
