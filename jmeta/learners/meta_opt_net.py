"""MetaOptNet: a linear classifier of the embedded support, found by convex optimisation and differentiated exactly.

With the embedded support X `[examples, features]`, the head W minimises ½‖W‖² + C Σₙ ℓ(xₙ W; yₙ). For the support
vector machine of Crammer and Singer, ℓ is the hinge maxₖ (xₙ·wₖ + [k ≠ yₙ]) − xₙ·w_yₙ, and W = Xᵀ A with the dual

    A = argmin ½ tr(Aᵀ X Xᵀ A) − Σₙ A[n, yₙ],   Σₖ A[n, k] = 0,   A[n, k] ≤ C [k = yₙ].

So each row of C Y − A lies in a simplex, Y the one-hot labels. Accelerated projected gradient descent finds A. It is
not differentiated: the derivative of A follows from the optimality conditions, by one linear system in the entries that
are at no bound. For ℓ = ‖xₙ W − Yₙ‖² the head is ridge regression, `ridge` with λ = 1 / 2C. Logits are α f(x) W, α
learned.

Reference: Lee, Maji, Ravichandran, Soatto, "Meta-Learning with Differentiable Convex Optimization", 2019,
arXiv:1904.03758, section 3. Differs from the paper: projected gradients in place of an interior-point method; no label
smoothing, which belongs to the loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import adjoints
from ..adjoints.implicit import Solver
from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from .comparison import check_num_ways, embed, embed_support, exclude_absent, one_hot_labels
from .ridge import ridge

__all__ = ["SvmHead", "meta_opt_net"]


class SvmHead(NamedTuple):
    """The adapted state of a support vector machine.

    Attributes:
      params: parameters of the model, with the support's statistics if it stores any.
      weights: `[features, ways]`, W.
      counts: `[ways]`, real examples of each class.
      residual: the largest change that one more iteration would make to A, in units of C; 0 at the solution. If it is
        not small, `num_iterations` is.
    """

    params: PyTree
    weights: Array
    counts: Array
    residual: Array


def meta_opt_net(
    model: Model,
    *,
    num_ways: int,
    head: str = "svm",
    error_weight: float = 0.1,
    num_iterations: int = 200,
    initial_scale: float = 1.0,
    solver: Solver | None = None,
) -> Learner:
    """Classify by a linear head that solves a convex problem on the embedded support.

    Args:
      model: embeds inputs; `apply` returns `[examples, features]`.
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf, and no part in the problem.
      head: `"svm"`, or `"ridge"` for `ridge` with λ, which is learned, initially 1 / 2C.
      error_weight: C, positive: the weight of errors on the support against ½‖W‖².
      num_iterations: steps of projected gradient descent, at least 1; more for more examples. No effect on `"ridge"`.
      initial_scale: initial α, the factor from an output of the head to a logit.
      solver: of the linear system of the derivative, which is symmetric and positive definite;
        `adjoints.conjugate_gradient(num_steps=100)` if not given. No effect on `"ridge"`.

    Returns:
      A learner whose adapted state is an `SvmHead`; its meta-parameters are `{"params": ..., "scale": ...}`. With
      `head="ridge"`, what `ridge` returns.

    Raises:
      ValueError: if `num_ways`, `error_weight` or `num_iterations` is not positive, or `head` is neither of the two; at
        trace time if the model's outputs or the labels do not have the form above.

    Example:
      >>> import jax, jmeta
      >>> learner = jmeta.learners.meta_opt_net(jmeta.models.mlp([32, 16]), num_ways=5)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=2, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = learner.adapt(meta_params, task.support, jax.random.key(2))
      >>> adapted.weights.shape, bool(adapted.residual < 1e-3)
      ((16, 5), True)

    Reference:
      Lee, Maji, Ravichandran, Soatto, "Meta-Learning with Differentiable Convex Optimization", 2019, arXiv:1904.03758,
      section 3.
    """
    check_num_ways(num_ways)
    if head not in ("svm", "ridge"):
        raise ValueError(f"head={head!r}; expected 'svm' or 'ridge'")
    if not error_weight > 0 or num_iterations < 1:
        raise ValueError(f"error_weight={error_weight} and num_iterations={num_iterations}; expected positive numbers")
    solve = adjoints.conjugate_gradient(num_steps=100) if solver is None else solver
    if head == "ridge":
        return ridge(model, num_ways=num_ways, initial_lambda=0.5 / error_weight, initial_alpha=initial_scale)

    def init(key: RandomKey, task: Task) -> PyTree:
        return {"params": model.init(key, task.support.x), "scale": jnp.asarray(initial_scale, jnp.float32)}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> SvmHead:
        embeddings, params = embed_support(model, meta_params["params"], support, key)
        one_hot = one_hot_labels(support, num_ways, embeddings.dtype)
        rows = jnp.where(one_hot.sum(1, keepdims=True) > 0, embeddings, 0.0)
        gram = jnp.matmul(rows, rows.T, precision="highest")
        dual, residual = _solve_dual(jax.lax.stop_gradient(gram), one_hot, error_weight, num_iterations)
        dual = _with_derivative(dual, gram, one_hot, error_weight * one_hot - dual > 0, solve)
        return SvmHead(params, jnp.matmul(rows.T, dual, precision="highest"), one_hot.sum(0), residual)

    def predict(
        meta_params: PyTree, adapted: SvmHead, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        outputs = jnp.matmul(embed(model, adapted.params, x, key), adapted.weights, precision="highest")
        return exclude_absent(meta_params["scale"] * outputs, adapted.counts)

    return Learner(init, adapt, predict)


def _solve_dual(
    gram: Float[Array, "examples examples"], one_hot: Float[Array, "examples ways"], error_weight: float, num_steps: int
) -> tuple[Float[Array, "examples ways"], Float[Array, ""]]:
    """Return the dual variables A and their residual, by Nesterov's method, restarted whenever it turns uphill."""
    upper, totals = error_weight * one_hot, error_weight * one_hot.sum(1)
    is_present = ((one_hot.sum(0) > 0) | (one_hot.sum() == 0))[None]  # padding alone keeps all classes
    step_size = 1.0 / _or_one(jnp.abs(gram).sum(1).max(initial=0.0))  # at most 1 over the largest eigenvalue

    def descended(dual: Float[Array, "examples ways"]) -> Float[Array, "examples ways"]:
        slope = jnp.matmul(gram, dual, precision="highest") - one_hot
        slack = jnp.where(is_present, upper - dual + step_size * slope, -jnp.inf)
        return upper - _onto_simplices(slack, totals)

    def step(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        dual, ahead, momentum = carry
        new = descended(ahead)
        is_uphill = ((ahead - new) * (new - dual)).sum() > 0
        next_momentum = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * jnp.square(momentum)))
        weight = jnp.where(is_uphill, 0.0, (momentum - 1.0) / next_momentum)
        return (new, new + weight * (new - dual), jnp.where(is_uphill, 1.0, next_momentum)), None

    start = jnp.zeros_like(one_hot)
    (dual, _, _), _ = jax.lax.scan(step, (start, start, jnp.ones((), gram.dtype)), None, length=num_steps)
    return dual, jnp.abs(descended(dual) - dual).max(initial=0.0) / error_weight


def _onto_simplices(
    points: Float[Array, "examples ways"], totals: Float[Array, "examples"]
) -> Float[Array, "examples ways"]:
    """Return the nearest rows of non-negative numbers with these sums; an entry of -inf becomes 0."""
    descending = -jnp.sort(-points, axis=1)
    shifts = (jnp.cumsum(descending, 1) - totals[:, None]) / jnp.arange(1, points.shape[1] + 1, dtype=points.dtype)[
        None
    ]
    num_positive = jnp.maximum((descending > shifts).sum(1), 1)
    return jnp.maximum(points - jnp.take_along_axis(shifts, num_positive[:, None] - 1, 1), 0.0)


def _with_derivative(
    dual: Float[Array, "examples ways"],
    gram: Float[Array, "examples examples"],
    one_hot: Float[Array, "examples ways"],
    is_free: Bool[Array, "examples ways"],
    solve: Solver,
) -> Float[Array, "examples ways"]:
    """Return the dual variables with their derivative with respect to the Gram matrix K, of any order.

    Entries at a bound stay there, and each row keeps its sum. With P the projection onto such changes, optimality is
    P (Y − K A) = 0, so a change of K moves A by the solution D of P K P D = P (Y − K A), which is 0 at the solution
    itself.
    """
    count = jnp.maximum(is_free.sum(1, keepdims=True), 1).astype(dual.dtype)

    def projected(change: Float[Array, "examples ways"]) -> Float[Array, "examples ways"]:
        free = jnp.where(is_free, change, 0.0)
        return jnp.where(is_free, free - free.sum(1, keepdims=True) / count, 0.0)

    scale = jax.lax.stop_gradient(_or_one(jnp.diagonal(gram).max(initial=0.0)))
    damping = 10.0 * jnp.finfo(gram.dtype).eps  # embeddings of fewer features than examples have a singular K

    def matvec(change: Float[Array, "examples ways"]) -> Float[Array, "examples ways"]:
        product = projected(jnp.matmul(gram / scale, projected(change), precision="highest"))
        return product + (change - projected(change)) + damping * change

    slope = projected(one_hot - jnp.matmul(gram, dual, precision="highest")) / scale
    return dual + solve(matvec, slope - jax.lax.stop_gradient(slope))


def _or_one(number: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(number > 0, number, 1.0)
