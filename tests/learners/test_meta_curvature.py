"""Meta-Curvature: the matrix on the flattened gradient, MAML at the identity, and the gradient of the matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import adjoints, learners, losses
from jmeta.optimizers import identity_curvature, learned_curvature

from ..differences import assert_gradient_is_central_difference
from ..networks import regression_task, smooth_mlp

LOSS, LR, STEPS = losses.squared_error, 0.1, 2
ADJOINTS = {"second order": adjoints.unrolled(), "first order": adjoints.first_order()}


def make(adjoint=ADJOINTS["second order"], num_steps=STEPS):
    return learners.meta_curvature(smooth_mlp(), LOSS, optax.sgd(LR), num_steps=num_steps, adjoint=adjoint)


def gradient(learner, meta_params, task, key):
    episode_fn = jmeta.episode(learner, LOSS)
    return jax.jit(jax.grad(lambda params: episode_fn(params, task, key)[0]))(meta_params)


def moved(tree):
    """Meta-parameters with matrices that are neither the identity nor symmetric."""
    flat, unravel = jax.flatten_util.ravel_pytree(tree)
    return unravel(flat + 0.2 * jnp.asarray(np.random.default_rng(0).standard_normal(flat.shape)))


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (4, 5), (5,)])
def test_the_modes_are_one_matrix_on_the_flattened_gradient(float64, shape):
    grad = jnp.asarray(np.random.default_rng(1).standard_normal(shape))
    curvature = moved(identity_curvature({"leaf": grad}))
    got = learned_curvature(curvature).update({"leaf": grad}, ())[0]["leaf"]
    modes = jax.tree.map(np.asarray, curvature["leaf"])
    if len(shape) == 1:
        whole = np.diag(modes["entries"])
    else:
        whole = np.kron(modes.get("filter", np.eye(1)), np.kron(modes["inputs"], modes["outputs"]))
    np.testing.assert_allclose(got.ravel(), whole @ np.asarray(grad).ravel(), rtol=1e-12)


@pytest.mark.parametrize("name", ADJOINTS)
def test_the_identity_is_maml(float64, name, key):
    task, adjoint = regression_task(key), ADJOINTS[name]
    curved = make(adjoint)
    maml = learners.maml(smooth_mlp(), LOSS, optax.sgd(LR), num_steps=STEPS, adjoint=adjoint)
    meta_params = curved.init(jax.random.key(1), task)
    adapted = [
        learner.adapt(params, task.support, key)
        for learner, params in ((curved, meta_params), (maml, meta_params["params"]))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), *adapted)
    got, expected = gradient(curved, meta_params, task, key), gradient(maml, meta_params["params"], task, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), got["params"], expected)


def test_the_meta_gradient_is_the_central_difference_away_from_the_identity(float64, key):
    learner, task = make(), regression_task(key)
    episode_fn = jmeta.episode(learner, LOSS)
    meta_params = moved(learner.init(jax.random.key(1), task))
    assert_gradient_is_central_difference(lambda params: episode_fn(params, task, key)[0], meta_params)


@pytest.mark.parametrize("name", ADJOINTS)
def test_after_one_step_a_matrix_has_minus_the_rate_times_a_product_of_two_gradients(float64, name, key):
    """dL/dMₒ = −α Σᵢ (Mᵢ G)ᵢ gᵢᵀ, transposed, with G on the support and g on the query: no second derivative in it."""
    model, learner, task = smooth_mlp(), make(ADJOINTS[name], num_steps=1), regression_task(key)
    meta_params = moved(learner.init(jax.random.key(1), task))
    slope = lambda params, batch: jax.grad(lambda p: LOSS(model.apply(p, batch.x, None), batch)[0])(params)
    layer = lambda tree: tree["params"]["hidden_0"]["kernel"]
    on_support = layer(slope(meta_params["params"], task.support))
    on_query = layer(slope(learner.adapt(meta_params, task.support, key), task.query))
    modes = layer(meta_params["curvature"])
    got = layer(gradient(learner, meta_params, task, key)["curvature"])
    np.testing.assert_allclose(got["outputs"], -LR * on_query.T @ (modes["inputs"] @ on_support), rtol=1e-9)
    np.testing.assert_allclose(got["inputs"], -LR * on_query @ (on_support @ modes["outputs"].T).T, rtol=1e-9)
