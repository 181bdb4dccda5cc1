"""Adaptive deep kernels: the minimum of the inner loop, and its hypergradient by three routes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree
from scipy.stats import multivariate_normal

import jmeta
from jmeta import adjoints, learners, losses, models, tasks

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import in_double, predict
from .regression_tasks import (
    waves,
)
from .short_training import query_losses

NLL = losses.negative_log_likelihood
PRIOR_SCALE = 0.5


def setting(key, num_steps=400, **options):
    """A learner whose inner loop reaches the minimum to rounding, and meta-parameters."""
    task = waves(key)
    options = {"prior_scale": PRIOR_SCALE, "initial_noise": 0.3, **options}
    learner = learners.adkf_ift(smooth_mlp(3), optax.sgd(0.3), num_steps=num_steps, **options)
    meta_params = in_double(learner.init(jax.random.key(1), task))
    return learner, meta_params | {"mean": jnp.array([0.2, -0.1])}, task


def noisy_covariance(features, logs):
    """s² (1 + u + u²/3) exp(−u) + (σ² + 10⁻⁴ s²) I, u = √5 r / ℓ, in NumPy."""
    length_scale, scale, noise = (np.exp(float(logs[f"log_{name}"])) for name in ("length_scale", "scale", "noise"))
    u = np.sqrt(5 * ((features[:, None] - features[None]) ** 2).sum(-1)) / length_scale
    noise = (noise**2 + 1e-4 * scale**2) * np.eye(len(features))
    return scale**2 * (1 + u + u**2 / 3) * np.exp(-u) + noise


def log_density(meta_params, batch):
    """The function of the scales' logarithms that gives the log density of the targets."""
    features = np.asarray(smooth_mlp(3).apply(meta_params["params"], batch.x, None))
    away = np.asarray(batch.y - meta_params["mean"][None])

    def of(logs):
        covariance = noisy_covariance(features, logs)
        return sum(multivariate_normal.logpdf(away[:, i], np.zeros(len(away)), covariance) for i in range(2))

    return of


def fitted_logs(learner, meta_params, task):
    return jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2)).process.logs


def test_the_fitted_scales_are_the_most_probable_ones(float64, key):
    """By the simplex method on SciPy's densities."""
    learner, meta_params, task = setting(key)
    names = sorted(meta_params["logs"])
    centre = np.array([meta_params["logs"][name] for name in names])
    of_support = log_density(meta_params, task.support)

    def negative_log_posterior(logs):
        away = ((logs - centre) ** 2).sum() / 2 / PRIOR_SCALE**2
        return away - of_support(dict(zip(names, logs, strict=True)))

    options = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 2000}
    best = scipy.optimize.minimize(negative_log_posterior, centre, method="Nelder-Mead", options=options).x
    fitted = fitted_logs(learner, meta_params, task)
    np.testing.assert_allclose([fitted[name] for name in names], best, atol=1e-6)
    assert np.abs(best - centre).max() > 0.1


def test_training_maximises_the_joint_density_of_the_query_given_the_support(float64, key):
    """log p(support, query) − log p(support) under the fitted scales."""
    learner, meta_params, task = setting(key)
    logs = fitted_logs(learner, meta_params, task)
    both = jmeta.Batch(*(jnp.concatenate(pair) for pair in zip(task.support[:2], task.query[:2], strict=True)))
    expected = log_density(meta_params, both)(logs) - log_density(meta_params, task.support)(logs)
    loss, aux = jax.jit(jmeta.episode(learner, NLL))(meta_params, task, key)
    np.testing.assert_allclose(loss, -expected / 4, rtol=1e-9)
    assert aux["implicit_is_valid"] == 1.0
    assert aux["implicit_stationarity"] < 1e-8
    assert {"negative_log_likelihood", "squared_error"} < set(aux)


def test_the_hypergradient_is_that_of_the_unrolled_loop_and_the_central_difference(float64, key):
    implicit, meta_params, task = setting(key)
    unrolled, *_ = setting(key, adjoint=adjoints.unrolled())
    loss = lambda learner: lambda meta_params: jmeta.episode(learner, NLL)(meta_params, task, key)[0]
    got, expected = (ravel_pytree(jax.jit(jax.grad(loss(each)))(meta_params))[0] for each in (implicit, unrolled))
    assert jnp.linalg.norm(got - expected) < 1e-7 * jnp.linalg.norm(expected)
    assert_gradient_is_central_difference(loss(implicit), meta_params)


def test_the_implicit_part_of_the_hypergradient_matters(float64, key):
    """With scales held fixed where the loop ended, the gradient is another one."""
    learner, meta_params, task = setting(key)
    logs = fitted_logs(learner, meta_params, task)
    direct = setting(key, num_steps=0, adjoint=adjoints.unrolled())[0]
    run = lambda learner: jax.jit(jax.value_and_grad(jmeta.episode(learner, NLL), has_aux=True))
    (loss, _), got = run(learner)(meta_params, task, key)
    (same_loss, _), wrong = run(direct)(meta_params | {"logs": logs}, task, key)
    np.testing.assert_allclose(same_loss, loss, rtol=1e-9)
    got, wrong = (ravel_pytree(grads["params"])[0] for grads in (got, wrong))
    assert jnp.linalg.norm(got - wrong) > 1e-2 * jnp.linalg.norm(got)


def test_without_inner_steps_it_predicts_as_deep_kernel_transfer(float64, key):
    learner, meta_params, task = setting(key, num_steps=0, adjoint=adjoints.unrolled())
    shared = learners.deep_kernel_transfer(smooth_mlp(3), kernel=tasks.kernels.matern52(length_scale=1.0))
    got, expected = (predict(each, meta_params, task) for each in (learner, shared))
    np.testing.assert_array_equal(got.loc, expected.loc)
    np.testing.assert_array_equal(got.scale, expected.scale)


@pytest.mark.slow
def test_it_learns_sinusoids_of_every_seed():
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.2))
    learner = learners.adkf_ift(models.mlp([20, 20, 8], activation=jnp.tanh), clipped, num_steps=10)
    before, after, _ = query_losses(learner, NLL, tasks.sinusoid(num_shots=5, num_queries=5), num_steps=20)
    assert (after < before - 0.5).all()


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"prior_scale=0\.0; expected a positive number"):
        learners.adkf_ift(identity(), optax.sgd(0.1), num_steps=5, prior_scale=0.0)
    with pytest.raises(ValueError, match="num_steps=1 does not reach"):
        learners.adkf_ift(identity(), optax.sgd(0.1), num_steps=1)
