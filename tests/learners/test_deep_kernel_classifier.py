"""Laplace's approximation: the mode by gradient ascent, dense algebra in NumPy, and averages over the posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Batch, Task, learners, losses, models, tasks
from jmeta.tasks import kernels

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import (
    assert_absent_ways_change_nothing,
    assert_padding_alone_is_finite,
    assert_padding_changes_nothing,
    assert_support_order_is_irrelevant,
    blobs,
    in_double,
    predict,
)
from .short_trainings import losses_of_seeds

KEY_ADAPT = jax.random.key(7)


def setting(key, num_ways=3, **options):
    """A learner on three learned features, and meta-parameters."""
    task = blobs(key, num_ways)
    learner = learners.deep_kernel_classifier(smooth_mlp(3), num_ways=num_ways, num_pairs=8, **options)
    return learner, in_double(learner.init(jax.random.key(1), task)), task


def prior_covariance(meta_params, a, b):
    """s² exp(−r² / 2ℓ²) in NumPy."""
    a, b = (np.asarray(smooth_mlp(3).apply(meta_params["params"], x, None)) for x in (a, b))
    length_scale, scale = (np.exp(float(meta_params["logs"][f"log_{name}"])) for name in ("length_scale", "scale"))
    return scale**2 * np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2 / length_scale**2)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def mode_and_curvature(prior, labels, num_ways):
    """By long gradient ascent on the whitened latent values, f = L v; W is the dense block matrix."""
    one_hot, factor, whitened = np.eye(num_ways)[labels], np.linalg.cholesky(prior), np.zeros((len(labels), num_ways))
    rate = 1 / (1 + np.linalg.eigvalsh(prior)[-1] / 2)  # the likelihood's curvature is at most ½
    for _ in range(20000):
        whitened += rate * (factor.T @ (one_hot - softmax(factor @ whitened)) - whitened)
    latent = factor @ whitened
    probabilities = softmax(latent)
    of_points = [np.diag(p) - np.outer(p, p) for p in probabilities]
    curvature = np.einsum("ij,iab->iajb", np.eye(len(labels)), of_points).reshape(latent.size, latent.size)
    return latent, curvature


def test_the_mode_is_that_of_a_long_gradient_ascent_and_stationary(float64, key):
    learner, meta_params, task = setting(key)
    prior = prior_covariance(meta_params, task.support.x, task.support.x)
    latent, _ = mode_and_curvature(prior, task.support.y, 3)
    adapted = jax.jit(learner.adapt)(meta_params, task.support, KEY_ADAPT)
    np.testing.assert_allclose(prior @ adapted.weights, latent, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(adapted.weights, np.eye(3)[task.support.y] - softmax(latent), rtol=1e-7, atol=1e-9)


def test_predictions_average_the_softmax_over_the_dense_posterior(float64, key):
    """Mean and covariance of the latent values by (K⁻¹ + W)⁻¹ of all points and classes; the same standard numbers."""
    learner, meta_params, task = setting(key)
    prior = prior_covariance(meta_params, task.support.x, task.support.x)
    latent, curvature = mode_and_curvature(prior, task.support.y, 3)
    noise = np.asarray(jax.jit(learner.adapt)(meta_params, task.support, KEY_ADAPT).noise)
    posterior = np.linalg.inv(np.linalg.inv(np.kron(prior, np.eye(3))) + curvature)
    across = prior_covariance(meta_params, task.support.x, task.query.x)
    expected = []
    for column in across.T:
        to_query = np.kron(column @ np.linalg.inv(prior), np.eye(3))  # of the points' latent values
        left = prior_variance(meta_params) - column @ np.linalg.solve(prior, column)
        covariance = left * np.eye(3) + to_query @ posterior @ to_query.T
        samples = to_query @ latent.ravel() + noise @ np.linalg.cholesky(covariance).T
        expected.append(softmax(samples).mean(0))
    got = predict(learner, meta_params, task)
    np.testing.assert_allclose(np.exp(got), expected, rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(got).sum(1), 1.0, rtol=1e-12)


def prior_variance(meta_params):
    return np.exp(2 * float(meta_params["logs"]["log_scale"]))


def test_two_classes_are_logistic_regression_on_the_difference(float64, key):
    """With f = f₁ − f₀ ~ GP(0, 2k), the mode of Rasmussen and Williams, algorithm 3.1, and its variance."""
    learner, meta_params, task = setting(key, num_ways=2)
    prior = 2 * prior_covariance(meta_params, task.support.x, task.support.x)
    labels, latent = np.asarray(task.support.y), np.zeros(len(task.support.y))
    for _ in range(50):
        probabilities = 1 / (1 + np.exp(-latent))
        weights = probabilities * (1 - probabilities)
        target = weights * latent + labels - probabilities
        latent = prior @ np.linalg.solve(np.eye(len(latent)) + weights[:, None] * prior, target)
    adapted = jax.jit(learner.adapt)(meta_params, task.support, KEY_ADAPT)
    np.testing.assert_allclose((prior / 2 @ adapted.weights) @ np.array([-1, 1]), latent, rtol=1e-8)
    across = 2 * prior_covariance(meta_params, task.support.x, task.query.x)
    mean = across.T @ np.linalg.solve(prior, latent)
    variance = 2 * prior_variance(meta_params) - np.einsum(
        "ij,ij->j", across, np.linalg.solve(prior + np.diag(1 / weights), across)
    )
    many = learners.deep_kernel_classifier(smooth_mlp(3), num_ways=2, num_pairs=100_000)
    nodes, rule = np.polynomial.hermite_e.hermegauss(60)
    averages = (rule / rule.sum() / (1 + np.exp(-mean[:, None] - np.sqrt(variance)[:, None] * nodes))).sum(1)
    np.testing.assert_allclose(np.exp(predict(many, meta_params, task))[:, 1], averages, atol=3e-3)


def test_meta_gradient_is_the_central_difference(float64, key):
    learner, meta_params, task = setting(key, num_steps=15)
    episode_fn = jmeta.episode(learner, losses.cross_entropy)
    assert_gradient_is_central_difference(lambda meta_params: episode_fn(meta_params, task, key)[0], meta_params)


def test_order_padding_and_absent_ways_change_nothing(float64, key):
    learner, meta_params, task = setting(key)
    assert_support_order_is_irrelevant(learner, meta_params, task)
    assert_padding_changes_nothing(learner, meta_params, task)
    assert_padding_alone_is_finite(learner, meta_params, task)
    make = lambda num_ways: learners.deep_kernel_classifier(smooth_mlp(3), num_ways=num_ways, num_pairs=8)
    assert_absent_ways_change_nothing(make, meta_params, task, num_ways=3)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e3])
def test_repeated_inputs_and_extreme_scales_stay_finite_in_single_precision(key, scale):
    """Among the inputs are equal ones of unequal labels; queries lie on the support."""
    x = jnp.repeat(jax.random.normal(key, (4, 2)), 5, axis=0)
    labels = jnp.where(jnp.arange(20) % 7 == 0, 2, jnp.repeat(jnp.arange(4, dtype=jnp.int32), 5) % 2).astype(jnp.int32)
    task = Task(Batch(x, labels), Batch(x[::3] + 1e-5, labels[::3]))
    learner = learners.deep_kernel_classifier(identity(), num_ways=4)  # one class is absent
    logs = {"log_length_scale": jnp.zeros(()), "log_scale": jnp.log(scale)}
    run = jax.jit(jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True))
    results = run({"params": {}, "logs": logs}, task, key)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


def test_it_learns_blobs_of_every_seed():
    learner = learners.deep_kernel_classifier(models.mlp([20, 8], activation=jnp.tanh), num_ways=3, num_pairs=8)
    sample = tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=3, num_features=4, spread=2.0)
    found = losses_of_seeds(learner, losses.cross_entropy, sample)
    assert np.isfinite(found).all()
    assert (found[:, -5:].mean(1) < 0.8 * found[:, :5].mean(1)).all()


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_ways=0; expected"):
        learners.deep_kernel_classifier(identity(), num_ways=0)
    for name, number in {"num_steps": 0, "num_pairs": 0, "initial_scale": -1.0, "jitter": 0.0}.items():
        with pytest.raises(ValueError, match=f"{name}={number}; expected a positive number"):
            learners.deep_kernel_classifier(identity(), num_ways=2, **{name: number})
    with pytest.raises(ValueError, match="the kernel draws 1 hyper-parameters"):
        learners.deep_kernel_classifier(identity(), num_ways=2, kernel=kernels.rbf(length_scale=(0.1, 0.6)))
