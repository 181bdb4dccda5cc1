"""Implicit differentiation: the meta-gradient of a minimum, however the inner loop got there.

At a minimum φ*(c) of L(φ; c) the gradient vanishes, and keeps vanishing as the context c moves, hence dφ*/dc =
−H⁻¹ ∂²L/∂φ∂c with H the Hessian ∂²L/∂φ². A meta-gradient solves one linear system in H; it neither repeats nor stores
any step of the loop. It is right *at a minimum*: if the loop has not converged, the error is as large as the distance
still to go, and the gradient alone does not show it. So every loop carries a certificate in its `aux`.

A converged loop has forgotten where it started, so an initialisation gets no gradient. The meta-parameters must be in
the objective, such as the centre of a proximal term (iMAML, `learners.imaml`) or a weight of regularisation.

Reference: Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients", 2019, arXiv:1909.04630,
section 3. Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation", 2020,
arXiv:1911.02590, section 2 (Neumann series).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg

from ..bounds import is_real, is_whole
from ..types import Aux, PyTree, RandomKey
from .inner_loop import Adjoint, InnerLoop, MakeOptimizer, Objective, inner_gradient, scanned_loop
from .perturbed import Partition, as_values, is_zero, partition

__all__ = ["MatVec", "Solver", "conjugate_gradient", "neumann_series", "lineax_solver", "implicit"]

MatVec = Callable[[PyTree], PyTree]
"""A symmetric matrix, given as the function that multiplies a vector by it."""

Solver = Callable[[MatVec, PyTree], PyTree]
"""`(matvec, right_hand_side) -> solution`, an approximate one."""


def conjugate_gradient(*, num_steps: int = 20, damping: float = 0.0) -> Solver:
    """Build a conjugate-gradient solver, for positive definite Hessians.

    Args:
      num_steps: maximal number of steps, each one product with the Hessian; as many steps as parameters are exact.
      damping: number added to the diagonal, at least 0.

    Raises:
      ValueError: if a number is out of its range.
    """
    _check_num_steps(num_steps)
    if not is_real(damping, least=0):
        raise ValueError(f"damping={damping}; expected at least 0")

    def solve(matvec: MatVec, right_hand_side: PyTree) -> PyTree:
        damped = lambda v: jax.tree.map(lambda product, leaf: product + damping * leaf, matvec(v), v)  # noqa: E731
        # beyond this precision, cg divides 0 by 0
        precision = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(right_hand_side))).eps)
        solution, _ = cg(damped, right_hand_side, tol=precision, atol=0.0, maxiter=num_steps)
        return solution

    return solve


def neumann_series(*, num_steps: int = 20, step_size: float) -> Solver:
    """Build a solver that sums the first terms of H⁻¹ = α Σₖ (I − αH)ᵏ: gradient descent on the linear system.

    Args:
      num_steps: number of terms, each one product with the Hessian.
      step_size: α, below 2 over the largest eigenvalue, or the series does not converge.

    Raises:
      ValueError: if a number is not positive.
    """
    _check_num_steps(num_steps)
    _check_positive(step_size=step_size)

    def solve(matvec: MatVec, right_hand_side: PyTree) -> PyTree:
        def add_term(_: Any, solution: PyTree) -> PyTree:
            return jax.tree.map(
                lambda now, right, product: now + step_size * (right - product),
                solution,
                right_hand_side,
                matvec(solution),
            )

        return jax.lax.fori_loop(0, num_steps, add_term, jax.tree.map(jnp.zeros_like, right_hand_side))

    return solve


def lineax_solver(solver: Any) -> Solver:
    """Wrap a solver of Lineax (`pip install "jmeta[solvers]"`), such as `lineax.GMRES(rtol=1e-5, atol=1e-5)`.

    Lineax gets the Hessian as a symmetric, positive semidefinite operator; direct solvers materialise it as a matrix.

    Raises:
      ModuleNotFoundError: if Lineax is not installed.
    """
    try:
        import lineax  # optional dependency
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('lineax_solver needs Lineax: pip install "jmeta[solvers]"') from error

    def solve(matvec: MatVec, right_hand_side: PyTree) -> PyTree:
        structure = jax.eval_shape(lambda: right_hand_side)
        operator = lineax.FunctionLinearOperator(matvec, structure, tags=lineax.positive_semidefinite_tag)
        return lineax.linear_solve(operator, right_hand_side, solver, throw=False).value

    return solve


def implicit(solver: Solver | None = None, *, tolerance: float = 0.05, certify: bool = True) -> Adjoint:
    """Differentiate the minimum that the loop reaches, not its steps: exact at a minimum of the objective.

    The loop's `aux` carries a certificate:

    * `implicit_stationarity`: ‖∇L‖ where the loop ended; 0 at a minimum.
    * `implicit_distance`: the length of Newton's step to the minimum over the distance that the loop has covered; about
      the relative error of stopping early.
    * `implicit_residual`: ‖Hv − r‖ / ‖r‖ of the solver on a random r; about the relative error of the solver.
    * `implicit_is_valid`: 1.0 if distance and residual are within `tolerance` and the curvature along the solution is
      positive, else 0.0. Do not use the meta-gradient if it is 0.0: take more steps, or a better solver.

    The start of the loop, learned rates and everything else that the objective does not read get no gradient: a minimum
    does not depend on them. If nothing is left, that is an error; `jmeta.testing.check_meta_gradient` names each leaf.

    The loop uses a `jax.custom_vjp`, so forward mode cannot go through it. The objective is differentiated at step
    `num_steps`, with one key, and should not be random.

    Args:
      solver: solver of the linear system; `conjugate_gradient()` if not given.
      tolerance: largest distance and residual that the certificate accepts.
      certify: whether to compute the certificate, which solves the linear system twice in the forward pass.

    Raises:
      ValueError: if `tolerance` is not positive, or the loop has fewer than two steps; at trace time of a gradient, if
        the objective reads nothing that is differentiated, or if the loop's `aux` is differentiated.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jmeta.adaptation import descend
      >>> def objective(params, centre, step, key):
      ...     return (params - 1) ** 2 + (params - centre) ** 2, {}
      >>> loop = descend(objective, optax.sgd(0.2), num_steps=20, adjoint=implicit())
      >>> def loss(centre):
      ...     params, aux = loop(centre, centre, jax.random.key(0))
      ...     return params, aux["implicit_is_valid"]
      >>> gradient, is_valid = jax.grad(loss, has_aux=True)(0.0)
      >>> round(float(gradient), 4), float(is_valid)
      (0.5, 1.0)

    Reference:
      Rajeswaran et al., "Meta-Learning with Implicit Gradients", 2019, arXiv:1909.04630, algorithm 2.
    """
    _check_positive(tolerance=tolerance)
    solve = conjugate_gradient() if solver is None else solver

    def adjoint(objective: Objective, make_optimizer: MakeOptimizer, num_steps: int) -> InnerLoop:
        if num_steps < 2:
            raise ValueError(
                f"implicit differentiation needs a minimum, which a loop of num_steps={num_steps} does not reach; take "
                "more steps, or another adjoint (MAML++ is a chain of loops of one step)"
            )
        descended = scanned_loop([(inner_gradient(objective), num_steps)], make_optimizer)

        def run(start: PyTree, context: PyTree, key: RandomKey) -> tuple[PyTree, Aux]:
            params, aux = descended(start, context, key)
            if not certify:
                return params, aux
            gradient = _gradient_at_the_end(objective, context, num_steps, key)
            key_probe = jax.random.fold_in(key, num_steps + 1)
            return params, {**aux, **_certificate(gradient, solve, start, params, tolerance, key_probe)}

        return _implicitly_differentiated(run, objective, solve, num_steps)

    return adjoint


def _implicitly_differentiated(run: InnerLoop, objective: Objective, solve: Solver, num_steps: int) -> InnerLoop:
    inner_loop = jax.custom_vjp(run)

    def forward(start: PyTree, context: PyTree, key: PyTree) -> tuple[Any, Any]:
        start, key, parts = as_values(start), as_values(key), partition(context)
        if not _looks_at(objective, start, parts, num_steps, key):
            raise ValueError(
                "a meta-gradient through an implicit inner loop would be zero: the objective looks at nothing that is "
                "differentiated, and a converged loop has forgotten its start and its learning rates. Pass the "
                "meta-parameters to the objective through the context, such as the centre of a proximal term (see "
                "learners.imaml)"
            )
        params, aux = run(start, parts.merged(parts.moving), key)
        return (params, aux), (params, parts, key)

    def backward(residuals: tuple[PyTree, Partition, RandomKey], cotangents: tuple[PyTree, Aux]) -> tuple:
        params, parts, key = residuals
        params_bar, aux_bar = cotangents
        if not all(is_zero(bar) for bar in jax.tree.leaves(aux_bar)):
            raise ValueError("the aux of an implicit inner loop has no derivative; differentiate its parameters only")
        params_bar = jax.tree.map(lambda bar, leaf: jnp.zeros_like(leaf) if is_zero(bar) else bar, params_bar, params)
        at_the_end = _at_the_end(num_steps, key)

        def gradients(params: PyTree) -> tuple[PyTree, list[Any]]:
            def loss(params: PyTree, moving: list[Any]) -> Any:
                return objective(params, parts.merged(moving), *at_the_end())[0]

            return jax.grad(loss, argnums=(0, 1))(params, parts.moving)

        second = lambda direction: jax.jvp(gradients, (params,), (direction,))[1]  # noqa: E731
        direction = solve(lambda direction: second(direction)[0], params_bar)
        return None, parts.cotangent(jax.tree.map(jnp.negative, second(direction)[1])), None

    inner_loop.defvjp(forward, backward, symbolic_zeros=True)
    return inner_loop


def _looks_at(objective: Objective, params: PyTree, parts: Partition, num_steps: int, key: RandomKey) -> bool:
    """Return whether the objective reads any differentiated leaf of the context."""

    def loss(moving: list[Any]) -> Any:
        return objective(params, parts.merged(moving), *_at_the_end(num_steps, key)())[0]

    program = jax.make_jaxpr(loss)(parts.moving).jaxpr
    read = [*program.outvars, *(variable for equation in program.eqns for variable in equation.invars)]
    return any(variable is leaf for variable in read for leaf in program.invars)


def _at_the_end(num_steps: int, key: RandomKey) -> Callable[[], tuple[Any, RandomKey]]:
    """Return a function that gives the step and the key of every evaluation of the objective where the loop ended.

    The key passes through linear solvers as plain numbers, so a check for reused keys does not object.
    """
    bits, impl = jax.random.key_data(jax.random.fold_in(key, num_steps)), jax.random.key_impl(key)
    return lambda: (jnp.asarray(num_steps), jax.random.wrap_key_data(bits, impl=impl))


def _gradient_at_the_end(
    objective: Objective, context: PyTree, num_steps: int, key: RandomKey
) -> Callable[[PyTree], PyTree]:
    gradient, at_the_end = inner_gradient(objective), _at_the_end(num_steps, key)
    return lambda params: gradient(params, context, *at_the_end())[1]


def _certificate(
    gradient: Callable[[PyTree], PyTree], solve: Solver, start: PyTree, params: PyTree, tolerance: float, key: RandomKey
) -> Aux:
    matvec = lambda direction: jax.jvp(gradient, (params,), (direction,))[1]  # noqa: E731
    slope = gradient(params)
    to_go = optax.tree.norm(solve(matvec, slope))
    come = optax.tree.norm(jax.tree.map(jnp.subtract, params, start))
    distance = to_go / jnp.maximum(come, jnp.finfo(come.dtype).tiny)
    probe = optax.tree.random_like(key, params)
    solution = solve(matvec, probe)
    error = jax.tree.map(jnp.subtract, matvec(solution), probe)
    residual = optax.tree.norm(error) / optax.tree.norm(probe)
    is_convex = jnp.asarray(optax.tree.vdot(solution, probe)) > 0
    is_valid = (distance <= tolerance) & (residual <= tolerance) & is_convex
    return {
        "implicit_stationarity": optax.tree.norm(slope),
        "implicit_distance": distance,
        "implicit_residual": residual,
        "implicit_is_valid": is_valid.astype(distance.dtype),
    }


def _check_num_steps(num_steps: int) -> None:
    if not is_whole(num_steps):
        raise ValueError(f"num_steps={num_steps}; expected an integer of at least 1")


def _check_positive(**numbers: float | int) -> None:
    for name, number in numbers.items():
        if not is_real(number, above=0):
            raise ValueError(f"{name}={number}; expected a positive number")
