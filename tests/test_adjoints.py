"""How an inner loop is differentiated: closed forms and two routes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta import adjoints
from jmeta.adaptation import descend
from jmeta.optimizers import learned_rates
from jmeta.params import merge, partition, path_name

from .differences import assert_gradient_is_central_difference

STEPS, LR = 4, 0.1


def quadratic(params, context, step, key):
    del step, key
    matrix, target = context
    return 0.5 * (params - target) @ matrix @ (params - target), {}


@pytest.fixture
def quadratic_context(float64):
    root = jax.random.normal(jax.random.key(1), (3, 3))
    return root @ root.T + jnp.eye(3), jax.random.normal(jax.random.key(2), (3,))


@pytest.mark.parametrize("adjoint", [adjoints.unrolled(), adjoints.first_order()])
def test_every_adjoint_computes_the_closed_form_of_descent_on_a_quadratic(quadratic_context, adjoint, key):
    matrix, target = quadratic_context
    start = jnp.arange(3.0)
    adapted, aux = descend(quadratic, optax.sgd(LR), num_steps=STEPS, adjoint=adjoint)(start, quadratic_context, key)
    expected = target + np.linalg.matrix_power(np.eye(3) - LR * matrix, STEPS) @ (start - target)
    np.testing.assert_allclose(adapted, expected, rtol=1e-12)
    assert aux["inner_losses"].shape == (STEPS,)
    np.testing.assert_allclose(aux["inner_losses"][0], quadratic(start, quadratic_context, 0, key)[0])


def test_unrolled_jacobian_is_the_matrix_power_and_first_order_is_the_identity(quadratic_context, key):
    def jacobian(adjoint):
        loop = descend(quadratic, optax.sgd(LR), num_steps=STEPS, adjoint=adjoint)
        return jax.jacrev(lambda start: loop(start, quadratic_context, key)[0])(jnp.arange(3.0))

    power = np.linalg.matrix_power(np.eye(3) - LR * quadratic_context[0], STEPS)
    np.testing.assert_allclose(jacobian(adjoints.unrolled()), power, rtol=1e-12)
    np.testing.assert_array_equal(jacobian(adjoints.first_order()), np.eye(3))


def test_first_order_keeps_the_gradient_of_a_learned_rate(quadratic_context, key):
    """dφ_T/dα with constant inner gradients is minus their sum; the usual shortcut would say zero."""

    def objective(params, context, step, key):
        return quadratic(params, context[1], step, key)

    def adapted_sum(rate, adjoint, num_steps=STEPS):
        loop = descend(objective, lambda context: learned_rates(context[0]), num_steps=num_steps, adjoint=adjoint)
        return loop(jnp.arange(3.0), (rate, quadratic_context), key)[0].sum()

    got = jax.grad(adapted_sum)(jnp.asarray(LR), adjoints.first_order())
    params, total = jnp.arange(3.0), jnp.zeros(3)
    for _ in range(STEPS):
        gradient = quadratic_context[0] @ (params - quadratic_context[1])
        params, total = params - LR * gradient, total + gradient
    np.testing.assert_allclose(got, -total.sum(), rtol=1e-12)
    assert_gradient_is_central_difference(lambda rate: adapted_sum(rate, adjoints.unrolled()), jnp.asarray(LR))


def test_gradient_flows_into_the_context_when_unrolled_and_not_at_first_order(quadratic_context, key):
    matrix, target = quadratic_context

    def gradient(adjoint):
        loop = descend(quadratic, optax.sgd(LR), num_steps=STEPS, adjoint=adjoint)
        return jax.jacrev(lambda target: loop(jnp.arange(3.0), (matrix, target), key)[0])(target)

    expected = np.eye(3) - np.linalg.matrix_power(np.eye(3) - LR * matrix, STEPS)
    np.testing.assert_allclose(gradient(adjoints.unrolled()), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(gradient(adjoints.first_order()), np.zeros((3, 3)))


@pytest.mark.parametrize(
    "optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1, eps_root=1e-8)], ids=["momentum", "adam"]
)
def test_stateful_inner_optimizers_are_differentiated_exactly(quadratic_context, optimizer, key):
    loop = descend(quadratic, optimizer, num_steps=STEPS)
    assert_gradient_is_central_difference(
        lambda start: jnp.sin(loop(start, quadratic_context, key)[0]).sum(), jnp.arange(3.0) + 0.5
    )


def test_every_step_gets_its_number_and_a_key_of_its_own(key):
    seen = []

    def objective(params, context, step, key):
        del context
        jax.debug.callback(lambda step, bits: seen.append((int(step), int(bits))), step, jax.random.bits(key))
        return jnp.sum(params**2), {}

    descend(objective, optax.sgd(0.1), num_steps=3)(jnp.ones(2), None, key)
    jax.effects_barrier()
    assert sorted(step for step, _ in seen) == [0, 1, 2]
    assert len({bits for _, bits in seen}) == 3


def test_zero_steps_change_nothing(key):
    adapted, aux = descend(quadratic, optax.sgd(1.0), num_steps=0)(jnp.arange(3.0), (jnp.eye(3), jnp.zeros(3)), key)
    np.testing.assert_array_equal(adapted, jnp.arange(3.0))
    assert aux["inner_losses"].shape == (0,)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="num_steps=-1; expected an integer"):
        descend(quadratic, optax.sgd(1.0), num_steps=-1)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda params, context, step, key: params.sum(), "it is a "),
        (lambda params, context, step, key: (params, {}), r"it is a loss of shape \(3,\)"),
        (lambda params, context, step, key: (params.sum(), params), "it is an aux that is a "),
    ],
    ids=["no aux", "a vector", "an aux by position"],
)
def test_an_objective_that_is_no_loss_and_aux_is_refused(key, objective, message):
    with pytest.raises(ValueError, match="the result of an inner loop's objective must be .*" + message):
        descend(objective, optax.sgd(1.0), num_steps=1)(jnp.zeros(3), None, key)


def test_split_and_merge_are_inverse():
    params = {"params": {"conv": {"kernel": 1, "bias": 2}, "head": [3, 4]}}
    adapted, rest = partition(params, lambda path: "head" in path)
    assert jax.tree.leaves(adapted) == [3, 4]
    assert jax.tree.leaves(rest) == [2, 1]
    assert merge(adapted, rest) == params
    assert merge(rest, adapted) == params


def test_paths_are_words_with_slashes():
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({"a": [1, {"b": 2}]})]
    assert paths == ["a/0", "a/1/b"]


def test_adapting_nothing_is_refused_and_the_parameters_are_named():
    with pytest.raises(ValueError, match=r"adapt nothing: none of the parameters \['body'\]"):
        partition({"body": 1}, lambda path: "head" in path)
