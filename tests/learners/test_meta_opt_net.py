"""MetaOptNet's support vector machine: optimality, a dense reference, limits, and the derivative through its dual."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jmeta
from jmeta import losses
from jmeta.learners import meta_opt_net, ridge
from jmeta.learners.meta_opt_net import _onto_simplices, _solve_dual, _with_derivative

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


def learner_and_params(task, num_features=4, num_ways=3, **options):
    learner = meta_opt_net(smooth_mlp(num_features), num_ways=num_ways, num_iterations=400, **options)
    return learner, in_double(learner.init(jax.random.key(1), task))


def problem(num_examples=7, num_features=5, num_ways=3):
    rng = np.random.default_rng(0)
    labels = np.arange(num_examples) % num_ways
    rows = rng.standard_normal((num_ways, num_features))[labels] + rng.standard_normal((num_examples, num_features))
    return jnp.asarray(rows), jnp.eye(num_ways)[labels]


def test_the_projection_is_the_nearest_point_of_a_simplex(float64):
    """Non-negative with the sum asked for, and a positive entry moved by the row's one shift, others by less."""
    points = 2 * jax.random.normal(jax.random.key(0), (50, 4))
    totals = jnp.linspace(0.0, 2.0, 50)
    nearest = np.asarray(_onto_simplices(points, totals))
    np.testing.assert_allclose(nearest.sum(1), totals, atol=1e-14)
    for row, point in zip(nearest[1:], points[1:], strict=True):
        moved = np.asarray(point - row)
        np.testing.assert_allclose(moved[row > 0], moved[row > 0][0])
        assert (row >= 0).all()
        assert (moved[row == 0] <= moved[row > 0][0] + 1e-12).all()


@pytest.mark.parametrize("error_weight", [0.05, 1.0])
def test_the_dual_solution_is_that_of_a_general_solver_and_closes_the_duality_gap(float64, error_weight):
    """The primal loss, written as it is in the docstring, equals minus the dual one only where both are optimal."""
    rows, one_hot = problem()
    gram = rows @ rows.T
    dual, residual = jax.jit(_solve_dual, static_argnums=(2, 3))(gram, one_hot, error_weight, 500)
    assert residual < 1e-10
    dual_loss = lambda a: 0.5 * jnp.sum(a * (gram @ a)) - jnp.sum(a * one_hot)
    weights = rows.T @ dual
    outputs = rows @ weights
    hinge = (outputs + 1 - one_hot).max(1) - (outputs * one_hot).sum(1)
    primal_loss = 0.5 * jnp.sum(weights**2) + error_weight * hinge.sum()
    np.testing.assert_allclose(primal_loss, -dual_loss(dual), rtol=1e-9)
    flat_loss = jax.jit(jax.value_and_grad(lambda flat: dual_loss(flat.reshape(dual.shape))))
    found = scipy.optimize.minimize(
        lambda flat: tuple(map(np.asarray, flat_loss(flat))),
        np.zeros(dual.size),
        jac=True,
        method="SLSQP",
        bounds=[(None, float(bound)) for bound in error_weight * one_hot.ravel()],
        constraints={"type": "eq", "fun": lambda flat: flat.reshape(dual.shape).sum(1)},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    np.testing.assert_allclose(rows.T @ found.x.reshape(dual.shape), weights, rtol=1e-5, atol=1e-6)


def test_the_derivative_of_the_dual_is_the_central_difference_and_so_is_the_second(float64):
    """At a solution with entries at their bounds and free ones; the bounds do not change within the difference."""
    rows, one_hot = problem()

    def weights(rows):
        gram = rows @ rows.T
        dual, _ = _solve_dual(jax.lax.stop_gradient(gram), one_hot, 0.3, 2000)
        solver = jmeta.adjoints.conjugate_gradient(num_steps=100)
        return rows.T @ _with_derivative(dual, gram, one_hot, 0.3 * one_hot - dual > 0, solver), dual

    free = np.asarray(0.3 * one_hot - weights(rows)[1] > 0)
    assert (free.sum(1) > 1).any()
    assert not free.all()
    loss = lambda rows: jnp.sin(weights(rows)[0]).sum()
    assert_gradient_is_central_difference(loss, rows)
    along = jnp.asarray(np.random.default_rng(1).standard_normal(rows.shape))
    slope = lambda rows: jnp.vdot(jax.grad(loss)(rows), along)
    assert_gradient_is_central_difference(slope, rows, relative=1e-5)


def test_few_errors_allowed_leave_the_difference_of_class_sums(float64, key):
    """C → 0 with two classes: every example is at its bound, so W = C (Σ of its class − Σ of the other)."""
    task = blobs(key, num_ways=2)
    learner = meta_opt_net(identity(), num_ways=2, error_weight=1e-7)
    sums = np.stack([np.asarray(task.support.x)[np.asarray(task.support.y) == k].sum(0) for k in range(2)])
    expected = 1e-7 * np.asarray(task.query.x) @ np.stack([sums[0] - sums[1], sums[1] - sums[0]], 1)
    np.testing.assert_allclose(predict(learner, {"params": {}, "scale": 1.0}, task), expected, rtol=1e-6)


def test_the_ridge_head_is_ridge_and_minimises_the_same_form_of_objective(float64, key):
    task, model = blobs(key), smooth_mlp(4)
    learner = meta_opt_net(model, num_ways=3, head="ridge", error_weight=0.2, initial_scale=3.0)
    r2d2 = ridge(model, num_ways=3, initial_lambda=2.5, initial_alpha=3.0)
    meta_params = in_double(learner.init(jax.random.key(1), task))
    np.testing.assert_array_equal(predict(learner, meta_params, task), predict(r2d2, meta_params, task))
    rows = model.apply(meta_params["params"], task.support.x, None)
    objective = lambda w: 0.5 * jnp.sum(w**2) + 0.2 * jnp.sum((rows @ w - jax.nn.one_hot(task.support.y, 3)) ** 2)
    weights = learner.adapt(meta_params, task.support, key).weights
    np.testing.assert_allclose(jax.grad(objective)(weights), 0.0, atol=1e-7)  # λ is kept as a logarithm in float32


def test_the_meta_gradient_is_the_central_difference(float64, key):
    task = blobs(key)
    learner, meta_params = learner_and_params(task)
    episode_fn = jmeta.episode(learner, losses.cross_entropy)
    assert_gradient_is_central_difference(lambda m: episode_fn(m, task, key)[0], meta_params)


def test_order_padding_and_absent_ways_change_nothing(float64, key):
    task = blobs(key)
    learner, meta_params = learner_and_params(task)
    assert_support_order_is_irrelevant(learner, meta_params, task)
    assert_padding_changes_nothing(learner, meta_params, task)
    assert_padding_alone_is_finite(learner, meta_params, task)
    make = lambda num_ways: meta_opt_net(smooth_mlp(4), num_ways=num_ways, num_iterations=400)
    assert_absent_ways_change_nothing(make, meta_params, task, num_ways=3)


def test_mistakes_are_refused():
    for options, words in (
        ({"num_ways": 0}, "num_ways=0; expected"),
        ({"num_ways": 2, "head": "tree"}, "head='tree'; expected 'svm' or 'ridge'"),
        ({"num_ways": 2, "error_weight": 0.0}, "error_weight=0.0 and num_iterations=200; expected positive"),
        ({"num_ways": 2, "num_iterations": 0}, "num_iterations=0; expected positive"),
    ):
        with pytest.raises(ValueError, match=words):
            meta_opt_net(identity(), **options)
