"""The approximate posterior: highest bound by another optimizer, dense algebra, and how far from the exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit

import jmeta
from jmeta import Batch, Task, learners, losses, models, tasks
from jmeta.learners.deep_kernel_classifier import _log_probability
from jmeta.tasks import kernels

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import (
    assert_absent_ways_change_nothing,
    blobs,
    in_double,
    predict,
)
from .short_training import query_losses

NODES = np.linspace(-10, 10, 20001)
DENSITY = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()


def setting(key, num_steps=200):
    """A learner on three learned features, run until it is stationary, and meta-parameters."""
    task = blobs(key)
    learner = learners.deep_kernel_classifier(smooth_mlp(3), num_ways=3, num_steps=num_steps)
    return learner, in_double(learner.init(jax.random.key(1), task)) | {"mean": jnp.array(-0.4)}, task


def adapt(learner, meta_params, task):
    return jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(7))


def covariance(meta_params, a, b):
    """s² exp(−r² / 2ℓ²) in NumPy."""
    a, b = (np.asarray(smooth_mlp(3).apply(meta_params["params"], x, None)) for x in (a, b))
    length_scale, scale = (np.exp(float(meta_params["logs"][f"log_{name}"])) for name in ("length_scale", "scale"))
    return scale**2 * np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2 / length_scale**2)


def negative_bound(flat, prior, labels, prior_mean):
    """−E[log likelihood's bound] + KL(q ‖ prior), of q = N(m, L Lᵀ), with ξ² = E[f²] where the bound is tightest."""
    size = len(labels)
    mean, factor = flat[:size], jnp.zeros((size, size)).at[jnp.tril_indices(size)].set(flat[size:])
    squares = jnp.square(mean) + jnp.square(factor).sum(1)
    likelihood = (jax.nn.log_sigmoid(jnp.sqrt(squares)) + (labels - 0.5) * mean - jnp.sqrt(squares) / 2).sum()
    away, half = mean - prior_mean, jnp.linalg.cholesky(prior)
    whitened = jnp.linalg.solve(half, jnp.concatenate([factor, away[:, None]], 1))
    log_ratio = jnp.log(jnp.abs(jnp.diagonal(factor))).sum() - jnp.log(jnp.diagonal(half)).sum()
    return (jnp.square(whitened).sum() - size) / 2 - log_ratio - likelihood


def test_the_posterior_has_the_highest_bound(float64, key):
    """It is stationary, and a quasi-Newton method from the prior finds no higher bound."""
    learner, meta_params, task = setting(key)
    adapted = adapt(learner, meta_params, task)
    prior = covariance(meta_params, task.support.x, task.support.x)
    value_and_grad = jax.jit(jax.value_and_grad(negative_bound))
    lower = np.tril_indices(6)
    for k in range(3):
        arguments = jnp.asarray(prior), jnp.asarray(task.support.y == k, float), meta_params["mean"]
        mean = -0.4 + prior @ adapted.weights[k]
        spread = np.linalg.inv(np.linalg.inv(prior) + np.diag(adapted.roots[k] ** 2))
        found, slope = value_and_grad(np.concatenate([mean, np.linalg.cholesky(spread)[lower]]), *arguments)
        np.testing.assert_allclose(slope, 0.0, atol=1e-8)
        start = np.concatenate([np.full(6, -0.4), np.linalg.cholesky(prior)[lower]])
        as_numpy = lambda flat, arguments=arguments: [np.asarray(each) for each in value_and_grad(flat, *arguments)]
        best = scipy.optimize.minimize(as_numpy, start, jac=True, method="BFGS", options={"gtol": 1e-7})
        np.testing.assert_allclose(found, best.fun, rtol=1e-9)


def test_predictions_average_the_sigmoid_over_the_dense_posterior(float64, key):
    learner, meta_params, task = setting(key)
    adapted = adapt(learner, meta_params, task)
    prior = covariance(meta_params, task.support.x, task.support.x)
    across = covariance(meta_params, task.support.x, task.query.x)
    gain = np.linalg.solve(prior, across)
    expected = []
    for k in range(3):
        mean = -0.4 + across.T @ adapted.weights[k]
        spread = np.linalg.inv(np.linalg.inv(prior) + np.diag(adapted.roots[k] ** 2))
        at_query = covariance(meta_params, task.query.x, task.query.x) - across.T @ gain + gain.T @ spread @ gain
        deviation = np.sqrt(np.diag(at_query))
        expected.append(expit(mean[:, None] + deviation[:, None] * NODES) @ DENSITY)
    expected = np.stack(expected, 1)
    np.testing.assert_allclose(
        jnp.exp(predict(learner, meta_params, task)), expected / expected.sum(1, keepdims=True), atol=2e-4
    )


def test_averaged_sigmoids_are_close_to_a_fine_sum(float64):
    means, deviations = np.meshgrid(np.linspace(-20, 20, 41), [0.01, 0.5, 2.9, 3.1, 5.0, 30.0])
    means, deviations = means.ravel(), deviations.ravel()
    expected = expit(means[:, None] + deviations[:, None] * NODES) @ DENSITY
    got = jnp.exp(_log_probability(jnp.asarray(means), jnp.asarray(deviations**2)))
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("scale", [3.0, 10.0])
def test_one_example_is_believed_as_the_exact_posterior_does_and_laplace_does_not(float64, scale):
    """The probability of its class at the example itself, of one class against the rest, with a mean of 0."""
    exact = (DENSITY * expit(scale * NODES) ** 2).sum() / (DENSITY * expit(scale * NODES)).sum()
    mode = scipy.optimize.brentq(lambda f: f - scale**2 * (1 - expit(f)), 0, scale**2)
    deviation = (scale**-2 + expit(mode) * (1 - expit(mode))) ** -0.5
    laplace = (DENSITY * expit(mode + deviation * NODES)).sum()
    learner = learners.deep_kernel_classifier(identity(), num_ways=2)
    logs = {"log_length_scale": jnp.zeros(()), "log_scale": jnp.log(scale)}
    batch = Batch(jnp.zeros((1, 1)), jnp.zeros(1, jnp.int32))
    adapted = adapt(learner, {"params": {}, "logs": logs, "mean": jnp.zeros(())}, Task(batch, batch))
    mean = scale**2 * adapted.weights[0, 0]
    deviation = (scale**-2 + adapted.roots[0, 0] ** 2) ** -0.5
    ours = (DENSITY * expit(float(mean) + float(deviation) * NODES)).sum()
    assert abs(ours - exact) < 0.03
    assert laplace < min(0.75, exact - 0.04)


def test_meta_gradient_is_the_central_difference(float64, key):
    learner, meta_params, task = setting(key, num_steps=4)
    episode_fn = jmeta.episode(learner, losses.cross_entropy)
    assert_gradient_is_central_difference(lambda meta_params: episode_fn(meta_params, task, key)[0], meta_params)


def test_absent_ways_change_nothing(float64, key):
    _, meta_params, task = setting(key, num_steps=4)
    make = lambda num_ways: learners.deep_kernel_classifier(smooth_mlp(3), num_ways=num_ways, num_steps=4)
    assert_absent_ways_change_nothing(make, meta_params, task, num_ways=3)


def test_repeated_inputs_and_extreme_scales_stay_finite_in_single_precision(key):
    """Among the inputs are equal ones of unequal labels; queries lie on the support; one class is absent."""
    x = jnp.repeat(jax.random.normal(key, (4, 2)), 5, axis=0)
    labels = jnp.where(jnp.arange(20) % 7 == 0, 2, jnp.arange(20) // 5 % 2).astype(jnp.int32)
    task = Task(Batch(x, labels), Batch(x[::3] + 1e-5, labels[::3]))
    learner = learners.deep_kernel_classifier(identity(), num_ways=4)
    run = jax.jit(jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True))
    for scale in (1e-4, 30.0, 1e4):
        logs = {"log_length_scale": jnp.zeros(()), "log_scale": jnp.log(scale)}
        results = run({"params": {}, "logs": logs, "mean": jnp.zeros(())}, task, key)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


@pytest.mark.slow
def test_it_learns_blobs_of_every_seed():
    learner = learners.deep_kernel_classifier(models.mlp([20, 8]), num_ways=3, num_steps=5)
    sample = tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=3, num_features=4, spread=2.0)
    before, after, _ = query_losses(learner, losses.cross_entropy, sample, tasks_per_step=8, lr=3e-2)
    assert (after < 0.85 * before).all()


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_ways=0; expected"):
        learners.deep_kernel_classifier(identity(), num_ways=0)
    for name, number in {"num_steps": 0, "initial_scale": -1.0}.items():
        with pytest.raises(ValueError, match=f"{name}={number}; expected"):
            learners.deep_kernel_classifier(identity(), num_ways=2, **{name: number})
    with pytest.raises(ValueError, match="the kernel draws 1 hyper-parameters"):
        learners.deep_kernel_classifier(identity(), num_ways=2, kernel=kernels.rbf(length_scale=(0.1, 0.6)))
