"""Forward-over-reverse: second derivatives of the inner loop as directional derivatives of its gradient.

Reverse mode through an inner step needs the cotangent of its gradient g = ∇L(φ; c): the product of a direction ḡ with
the second derivatives of L. Plain reverse-over-reverse records the whole computation of g and goes through the record
backwards. But the Hessian is symmetric, so ḡᵀ ∂²L/∂φ² is the derivative of ∇L along ḡ, and likewise ḡᵀ ∂²L/∂φ∂c is the
derivative of ∂L/∂c along ḡ: one forward-mode pass over the gradient computes both and records nothing. Only the
parameters of every step are stored.

The derivative rule covers the inner gradient alone. The optimizer, its state, learned rates and the loop are
differentiated as usual, so any loop that can be unrolled can run this way.

Reference: Kemaev, Calian, Zintgraf, Farquhar, van Hasselt, "Scalable Meta-Learning via Mixed-Mode Differentiation",
2025, arXiv:2505.00793. Differs from the paper: the rule covers the context, the loss and the optimizer's state alike.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..types import PyTree, RandomKey
from .inner_loop import (
    Adjoint,
    InnerGradient,
    InnerLoop,
    MakeOptimizer,
    Objective,
    inner_gradient,
    rematerialized_scan,
    scanned_loop,
)
from .perturbed import Partition, as_values, is_zero, partition
from .unrolling import block_of, check_block_size

__all__ = ["mixed_mode"]


def mixed_mode(*, block_size: int | str | None = None) -> Adjoint:
    """Differentiate through every step, with second derivatives in forward mode: exact, less memory, often faster.

    The loop uses a `jax.custom_vjp`: reverse mode can go through it once, and forward mode (`jax.jvp`, `jax.jacfwd`,
    `jax.hessian`) not at all.

    Args:
      block_size: `None` stores the parameters of every step; a number, or `"sqrt"`, stores them at the start of each
        block of that many steps and recomputes the others, as in `rematerialized`.

    Raises:
      ValueError: if `block_size` is none of these.

    Example:
      >>> import jax, optax
      >>> from jmeta.adaptation import descend
      >>> objective = lambda params, context, step, key: ((params - context) ** 2, {})
      >>> loop = descend(objective, optax.sgd(0.25), num_steps=2, adjoint=mixed_mode())
      >>> float(jax.grad(lambda start: loop(start, 1.0, jax.random.key(0))[0])(0.0))
      0.25

    Reference:
      Kemaev et al., "Scalable Meta-Learning via Mixed-Mode Differentiation", 2025, arXiv:2505.00793.
    """
    if block_size is not None:
        check_block_size(block_size)

    def adjoint(objective: Objective, make_optimizer: MakeOptimizer, num_steps: int) -> InnerLoop:
        scan = jax.lax.scan
        if block_size is not None:  # a step stores only its parameters, its gradient and the optimizer's state
            scan = rematerialized_scan(block_of(block_size, num_steps), within_blocks=False)
        return scanned_loop([(_mixed_gradient(objective), num_steps)], make_optimizer, scan)

    return adjoint


def _mixed_gradient(objective: Objective) -> InnerGradient:
    """Build `inner_gradient` with the derivative rule of this module."""

    @jax.custom_vjp
    def gradient(params: PyTree, context: PyTree, step: Any, key: RandomKey) -> tuple[Any, PyTree]:
        return inner_gradient(objective)(params, context, step, key)

    def forward(params: PyTree, context: PyTree, step: PyTree, key: PyTree) -> tuple[Any, Any]:
        params, step, key = as_values((params, step, key))
        parts = partition(context)
        return gradient(params, parts.merged(parts.moving), step, key), (params, parts, step, key)

    def backward(residuals: tuple[PyTree, Partition, Any, RandomKey], cotangents: tuple[Any, PyTree]) -> tuple:
        params, parts, step, key = residuals
        loss_bar, direction = cotangents
        direction = jax.tree.map(lambda bar, leaf: jnp.zeros_like(leaf) if is_zero(bar) else bar, direction, params)

        def loss(params: PyTree, moving: list[Any]) -> Any:
            return objective(params, parts.merged(moving), step, key)[0]

        gradients = lambda params: jax.grad(loss, argnums=(0, 1))(params, parts.moving)  # noqa: E731
        first, second = jax.jvp(gradients, (params,), (direction,))
        if not is_zero(loss_bar):
            second = jax.tree.map(lambda change, slope: change + loss_bar.astype(slope.dtype) * slope, second, first)
        params_bar, moving_bar = second
        return params_bar, parts.cotangent(moving_bar), None, None

    gradient.defvjp(forward, backward, symbolic_zeros=True)
    return gradient
