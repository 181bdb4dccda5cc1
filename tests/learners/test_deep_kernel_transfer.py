"""Deep kernel transfer: multivariate normals of SciPy, the exact process of fixed features, and short trainings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import jmeta
from jmeta import Batch, Task, learners, losses, models, tasks
from jmeta.tasks import kernels

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import in_double, predict
from .regression_tasks import (
    assert_nothing_observed_leaves_the_prior,
    waves,
)
from .short_training import query_losses

NLL = losses.negative_log_likelihood


def scales():
    """ℓ, s and σ in the precision in force."""
    return {"log_length_scale": jnp.log(0.7), "log_scale": jnp.log(1.3), "log_noise": jnp.log(0.2)}


def setting(key, **options):
    """A learner of two numbers on three learned features, and meta-parameters with scales and means of their own."""
    task = waves(key)
    learner = learners.deep_kernel_transfer(smooth_mlp(3), **options)
    meta_params = in_double(learner.init(jax.random.key(1), task))
    return learner, meta_params | {"logs": scales(), "mean": jnp.array([0.4, -0.3])}, task


def noisy_covariance(meta_params, x, jitter=1e-4):
    """s² exp(−r² / 2ℓ²) + (σ² + jitter s²) I in NumPy."""
    features = np.asarray(smooth_mlp(3).apply(meta_params["params"], x, None))
    squares = ((features[:, None] - features[None]) ** 2).sum(-1)
    return 1.3**2 * np.exp(-squares / 2 / 0.7**2) + (0.2**2 + jitter * 1.3**2) * np.eye(len(features))


def joint_log_density(meta_params, batch):
    covariance = noisy_covariance(meta_params, batch.x)
    means = np.asarray(meta_params["mean"])
    return sum(multivariate_normal.logpdf(batch.y[:, i], np.full(len(batch.y), means[i]), covariance) for i in range(2))


def both(task):
    return Batch(*(jnp.concatenate(pair) for pair in zip(task.support[:2], task.query[:2], strict=True)))


def test_training_maximises_the_log_density_of_whole_tasks(float64, key):
    learner, meta_params, task = setting(key)
    loss, aux = jax.jit(jmeta.episode(learner, NLL))(meta_params, task, key)
    np.testing.assert_allclose(loss, -joint_log_density(meta_params, both(task)) / 9, rtol=1e-10)
    reported = jax.jit(jmeta.plain_episode(learner, NLL))(meta_params, task, key)[0]
    np.testing.assert_allclose(aux["negative_log_likelihood"], reported, rtol=1e-10)


def test_predictions_are_the_conditional_normals(float64, key):
    """Marginals of p(query | support), whose joint density is p(support, query) / p(support)."""
    learner, meta_params, task = setting(key)
    covariance = noisy_covariance(meta_params, both(task).x)
    gain = np.linalg.solve(covariance[:5, :5], covariance[:5, 5:]).T
    means = np.asarray(meta_params["mean"]) + gain @ np.asarray(task.support.y - meta_params["mean"][None])
    left = covariance[5:, 5:] - gain @ covariance[:5, 5:]
    prediction = predict(learner, meta_params, task)
    np.testing.assert_allclose(prediction.mean(), means, rtol=1e-9)
    np.testing.assert_allclose(prediction.variance(), np.stack([np.diag(left)] * 2, -1), rtol=1e-9)
    of_query = sum(multivariate_normal.logpdf(task.query.y[:, i], means[:, i], left) for i in range(2))
    of_all, of_support = (joint_log_density(meta_params, batch) for batch in (both(task), task.support))
    np.testing.assert_allclose(of_query, of_all - of_support, rtol=1e-9)


def test_fixed_features_make_it_the_exact_process(float64, key):
    """Identical to `exact_gaussian_process` of the same kernel, whose evidence is the training loss."""
    for base, exact_kernel in (
        (kernels.rbf(length_scale=1.0), kernels.rbf(length_scale=0.7, scale=1.3)),
        (kernels.matern52(length_scale=0.5, scale=2.0), kernels.matern52(length_scale=0.35, scale=2.6)),
    ):
        learner = learners.deep_kernel_transfer(identity(), kernel=base, jitter=0.0)
        task = waves(key, num_numbers=1)
        meta_params = {"params": {}, "logs": scales(), "mean": jnp.zeros(1)}
        exact = learners.exact_gaussian_process(exact_kernel, noise=0.2)
        got, expected = (predict(each, meta_params, task) for each in (learner, exact))
        np.testing.assert_allclose(got.mean(), expected.mean(), rtol=1e-9)
        np.testing.assert_allclose(got.variance(), expected.variance(), rtol=1e-9)
        loss, _ = jax.jit(jmeta.episode(learner, NLL))(meta_params, task, key)
        np.testing.assert_allclose(-9 * loss, learners.evidence(exact_kernel, noise=0.2)(both(task)), rtol=1e-9)


def test_meta_gradient_is_the_central_difference(float64, key):
    learner, meta_params, task = setting(key)
    episode_fn = jmeta.episode(learner, NLL)
    assert_gradient_is_central_difference(lambda meta_params: episode_fn(meta_params, task, key)[0], meta_params)


def test_without_support_the_prior_predicts(float64, key):
    learner, meta_params, task = setting(key)
    assert_nothing_observed_leaves_the_prior(learner, meta_params, task, 1.3**2 * (1 + 1e-4) + 0.2**2)


def test_repeated_inputs_without_noise_stay_finite_in_single_precision(key):
    """Thirty points of three inputs: the kernel's matrix is singular, but for the jitter."""
    x = jnp.repeat(jax.random.normal(key, (3, 2)), 10, axis=0)
    task = Task(Batch(x, jnp.sin(3 * x[:, :1])), Batch(x[:4] + 1e-4, jnp.cos(x[:4, :1])))
    learner = learners.deep_kernel_transfer(identity())
    meta_params = {
        "params": {},
        "logs": {"log_length_scale": jnp.log(3.0), "log_scale": jnp.log(5.0), "log_noise": jnp.float32(-60.0)},
        "mean": jnp.zeros(1),
    }
    for make in (jmeta.episode, jmeta.plain_episode):
        result = jax.jit(jax.value_and_grad(make(learner, NLL), has_aux=True))(meta_params, task, key)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    assert jnp.all(predict(learner, meta_params, task).scale >= 0.99 * 5.0 * 1e-2)


def test_it_learns_sinusoids_of_every_seed():
    learner = learners.deep_kernel_transfer(models.mlp([20, 20, 8], activation=jnp.tanh))
    before, after, _ = query_losses(learner, NLL, tasks.sinusoid(num_shots=5, num_queries=5), tasks_per_step=8)
    assert (after < before - 0.5).all()


def test_mistakes_are_refused(key):
    make = learners.deep_kernel_transfer
    with pytest.raises(ValueError, match=r"initial_noise=0\.0; expected a positive number"):
        make(identity(), initial_noise=0.0)
    with pytest.raises(ValueError, match=r"jitter=-1\.0; expected a number of at least 0"):
        make(identity(), jitter=-1.0)
    with pytest.raises(ValueError, match="the kernel draws 1 hyper-parameters"):
        make(identity(), kernel=kernels.rbf(length_scale=(0.1, 0.6)))
    with pytest.raises(ValueError, match=r"expects targets \[examples, numbers\] in floating point, but y has shape"):
        make(identity()).init(key, tasks.gaussian_blobs(num_ways=2, num_shots=1, num_queries=1)(key))
