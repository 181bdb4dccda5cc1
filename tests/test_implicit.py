"""Implicit differentiation: closed forms, the converged unroll, and what the certificate says of a loop that is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import adjoints, learners, losses, models, tasks
from jmeta.adaptation import descend

SIZE = 4


@pytest.fixture
def ridge_problem(float64):
    """Least squares tied to a centre: the minimum is linear in the centre."""
    features = jax.random.normal(jax.random.key(1), (7, SIZE))
    targets = jax.random.normal(jax.random.key(2), (7,))

    def objective(params, centre, step, key):
        del step, key
        return jnp.mean((features @ params - targets) ** 2) + 0.5 * jnp.sum((params - centre) ** 2), {}

    hessian = 2 * features.T @ features / 7 + jnp.eye(SIZE)
    return objective, hessian


def solvers():
    return {
        "conjugate_gradient": adjoints.conjugate_gradient(num_steps=SIZE),
        "neumann_series": adjoints.neumann_series(num_steps=400, step_size=0.2),
    }


@pytest.mark.parametrize("name", solvers())
def test_the_derivative_of_a_minimum_is_the_closed_form(ridge_problem, key, name):
    objective, hessian = ridge_problem
    loop = descend(objective, optax.sgd(0.2), num_steps=400, adjoint=adjoints.implicit(solvers()[name]))
    jacobian = jax.jacrev(lambda centre: loop(jnp.zeros(SIZE), centre, key)[0])(jnp.arange(SIZE, dtype=float))
    np.testing.assert_allclose(jacobian, jnp.linalg.inv(hessian), rtol=1e-9, atol=1e-12)


def test_lineax_solves_it_too(ridge_problem, key):
    lineax = pytest.importorskip("lineax")
    objective, hessian = ridge_problem
    solver = adjoints.lineax_solver(lineax.CG(rtol=1e-12, atol=1e-12))
    loop = descend(objective, optax.sgd(0.2), num_steps=400, adjoint=adjoints.implicit(solver))
    jacobian = jax.jacrev(lambda centre: loop(jnp.zeros(SIZE), centre, key)[0])(jnp.arange(SIZE, dtype=float))
    np.testing.assert_allclose(jacobian, jnp.linalg.inv(hessian), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_steps", [2, 8, 100])
def test_the_certificate_knows_how_wrong_an_unfinished_loop_is(ridge_problem, key, num_steps):
    """The implicit gradient is that of the minimum; the loop's own differs by what it has still to go."""
    objective, _ = ridge_problem
    start, centre = jnp.ones(SIZE), jnp.arange(SIZE, dtype=float)

    def loss(centre, adjoint):
        params, aux = descend(objective, optax.sgd(0.1), num_steps=num_steps, adjoint=adjoint)(start, centre, key)
        return jnp.sum(jnp.sin(params)), aux

    exact, _ = jax.grad(loss, has_aux=True)(centre, adjoints.unrolled())
    gradient, aux = jax.grad(loss, has_aux=True)(centre, adjoints.implicit())
    error = jnp.linalg.norm(gradient - exact) / jnp.linalg.norm(exact)
    assert bool(aux["implicit_is_valid"]) == (num_steps == 100)
    assert error < 3 * aux["implicit_distance"] + 1e-6
    assert aux["implicit_residual"] < 1e-6


def test_the_certificate_sees_a_solver_that_has_not_solved(ridge_problem, key):
    objective, _ = ridge_problem
    adjoint = adjoints.implicit(adjoints.neumann_series(num_steps=2, step_size=0.01))
    _, aux = descend(objective, optax.sgd(0.2), num_steps=400, adjoint=adjoint)(jnp.zeros(SIZE), jnp.ones(SIZE), key)
    assert aux["implicit_residual"] > 0.5
    assert aux["implicit_is_valid"] == 0


def test_the_certificate_sees_a_saddle(float64, key):
    """The start is a stationary point, but no minimum."""

    def objective(params, context, step, key):
        del step, key
        return -jnp.sum(params**2) + 0.0 * context, {}

    _, aux = descend(objective, optax.sgd(0.1), num_steps=3, adjoint=adjoints.implicit())(jnp.zeros(2), 1.0, key)
    assert aux["implicit_stationarity"] == 0
    assert aux["implicit_is_valid"] == 0


def test_what_has_no_implicit_derivative_is_refused_with_the_reason(ridge_problem, key):
    objective, _ = ridge_problem
    loop = descend(objective, optax.sgd(0.2), num_steps=3, adjoint=adjoints.implicit())
    with pytest.raises(ValueError, match="a converged loop has forgotten its start"):
        jax.grad(lambda start: loop(start, jnp.ones(SIZE), key)[0].sum())(jnp.zeros(SIZE))
    rates = lambda context: optax.sgd(context[0])
    centred = lambda params, context, step, key: objective(params, context[1], step, key)
    by_rate = descend(centred, rates, num_steps=3, adjoint=adjoints.implicit())
    with pytest.raises(ValueError, match="forgotten its start and its learning rates"):
        jax.grad(lambda rate: by_rate(jnp.zeros(SIZE), (rate, jnp.ones(SIZE)), key)[0].sum())(0.2)
    with pytest.raises(ValueError, match="aux of an implicit inner loop has no derivative"):
        jax.grad(lambda centre: loop(centre, centre, key)[1]["inner_losses"].sum())(jnp.zeros(SIZE))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adjoints.implicit(tolerance=0.0), "tolerance=0"),
        (
            lambda: descend(lambda *_: (0.0, {}), optax.sgd(0.1), num_steps=1, adjoint=adjoints.implicit()),
            "which a loop of num_steps=1 does not reach",
        ),
        (lambda: adjoints.conjugate_gradient(num_steps=0), "num_steps=0"),
        (lambda: adjoints.conjugate_gradient(damping=-1.0), "damping=-1"),
        (lambda: adjoints.neumann_series(step_size=0.0), "step_size=0"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_imaml_is_the_converged_unroll_and_says_so(float64, key):
    """Two routes to the meta-gradient of one learner, over a batch of tasks."""
    sample = tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=3, num_features=3)
    drawn = jax.vmap(sample)(jax.random.split(key, 2))
    drawn = jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, drawn)
    model = models.mlp([6, 3], activation=jnp.tanh)
    numbers = {"num_steps": 150, "regularization": 2.0}

    def gradient(adjoint):
        parts = (model, losses.cross_entropy, optax.sgd(0.2))
        one = jax.tree.map(lambda leaf: leaf[0], drawn)
        learner = learners.imaml(*parts, **numbers, adjoint=adjoint)
        meta_params = learner.init(jax.random.key(5), one)
        meta_params = jax.tree.map(lambda leaf: leaf.astype(float), meta_params)
        episode_fn = jmeta.episode(learner, losses.cross_entropy)
        grad_fn = jax.vmap(jax.value_and_grad(episode_fn, has_aux=True), in_axes=(None, 0, None))
        (_, aux), grads = jax.jit(grad_fn)(meta_params, drawn, key)
        return aux, grads

    aux, implicit = gradient(adjoints.implicit(adjoints.conjugate_gradient(num_steps=50)))
    _, unrolled = gradient(adjoints.unrolled())
    assert (aux["implicit_is_valid"] == 1).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), implicit, unrolled)


@pytest.mark.parametrize("scale", [1.0, 1e-15])
def test_conjugate_gradients_stop_at_the_precision_of_float32(scale):
    """Well-conditioned systems are solved in a few steps; further ones would divide nothing by nothing."""
    low_rank = jax.random.normal(jax.random.key(0), (8, 2))
    matrix = 0.1 * jnp.eye(8) + low_rank @ low_rank.T
    right_hand_side = scale * jax.random.normal(jax.random.key(1), (8,))
    solution = adjoints.conjugate_gradient(num_steps=50)(lambda v: matrix @ v, right_hand_side)
    np.testing.assert_allclose(solution, jnp.linalg.solve(matrix, right_hand_side), rtol=1e-3, atol=1e-4 * scale)
