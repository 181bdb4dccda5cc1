"""Adjoints that differentiate the steps of the loop: all of them, none, or the last ones; stored or recomputed."""

import math
from typing import Any

from ..bounds import is_whole
from .inner_loop import (
    Adjoint,
    InnerLoop,
    MakeOptimizer,
    Objective,
    inner_gradient,
    rematerialized_scan,
    scanned_loop,
    stopped_gradient,
)

__all__ = ["unrolled", "first_order", "truncated", "rematerialized", "check_block_size", "block_of"]


def unrolled() -> Adjoint:
    """Differentiate through every step: the exact meta-gradient, at the cost of storing every step.

    Example:
      >>> import jax, optax
      >>> from jmeta.adaptation import descend
      >>> objective = lambda params, context, step, key: ((params - context) ** 2, {})
      >>> loop = descend(objective, optax.sgd(0.25), num_steps=2, adjoint=unrolled())
      >>> float(jax.grad(lambda start: loop(start, 1.0, jax.random.key(0))[0])(0.0))
      0.25

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
      arXiv:1703.03400, eq. 1.
    """

    def adjoint(objective: Objective, make_optimizer: MakeOptimizer, num_steps: int) -> InnerLoop:
        return scanned_loop([(inner_gradient(objective), num_steps)], make_optimizer)

    return adjoint


def first_order() -> Adjoint:
    """Treat every inner gradient as a constant: no second derivatives.

    Only the *gradient* is stopped. The meta-gradient still flows through the optimizer, so learned inner learning rates
    still get a gradient (the shortcut "gradient at the adapted parameters" would set it to zero).

    Example:
      >>> import jax, optax
      >>> from jmeta.adaptation import descend
      >>> objective = lambda params, context, step, key: ((params - context) ** 2, {})
      >>> loop = descend(objective, optax.sgd(0.25), num_steps=2, adjoint=first_order())
      >>> float(jax.grad(lambda start: loop(start, 1.0, jax.random.key(0))[0])(0.0))
      1.0

    Reference:
      Finn, Abbeel, Levine, 2017, arXiv:1703.03400, section 5.2.
    """

    def adjoint(objective: Objective, make_optimizer: MakeOptimizer, num_steps: int) -> InnerLoop:
        return scanned_loop([(stopped_gradient(objective), num_steps)], make_optimizer)

    return adjoint


def truncated(num_steps: int) -> Adjoint:
    """Differentiate through the last `num_steps` steps exactly, and through the earlier ones at first order.

    So `truncated(0)` is `first_order()`, and with as many steps as the loop has it is `unrolled()`. Earlier steps cut
    neither the path to the loop's start, so an initialisation can be learned, nor the path to learned rates.

    The gradient is biased. It may even have the wrong sign: where an earlier step overshoots the minimum, the exact
    derivative of that step is negative, and the first-order one is 1. Nothing is stored of earlier steps, unless
    learning rates are learned: then each of those steps stores one number per parameter.

    Args:
      num_steps: number of steps at the end of the loop, at least 0.

    Raises:
      ValueError: if `num_steps` is negative.

    Example:
      >>> import jax, optax
      >>> from jmeta.adaptation import descend
      >>> objective = lambda params, context, step, key: ((params - context) ** 2, {})
      >>> loop = descend(objective, optax.sgd(0.25), num_steps=2, adjoint=truncated(1))
      >>> float(jax.grad(lambda start: loop(start, 1.0, jax.random.key(0))[0])(0.0))
      0.5

    Reference:
      Shaban, Cheng, Hatch, Boots, "Truncated Back-propagation for Bilevel Optimization", 2019, arXiv:1810.10667,
      section 3. Differs from the paper, which cuts earlier steps off: there the gradient of an initialisation is 0.
    """
    if not is_whole(num_steps, least=0):
        raise ValueError(f"num_steps={num_steps}; expected the number of last steps, at least 0")
    num_exact = num_steps

    def adjoint(objective: Objective, make_optimizer: MakeOptimizer, num_steps: int) -> InnerLoop:
        exact = min(num_exact, num_steps)
        phases = [(stopped_gradient(objective), num_steps - exact), (inner_gradient(objective), exact)]
        return scanned_loop([phase for phase in phases if phase[1]] or phases[1:], make_optimizer)

    return adjoint


def rematerialized(policy: Any = None, *, block_size: int | str = 1) -> Adjoint:
    """Differentiate through every step, storing only where steps begin and recomputing the rest: exact, less memory.

    Args:
      policy: which intermediates of a step are stored after all: one of `jax.checkpoint_policies`; none if not given.
      block_size: 1 stores the parameters and the optimizer's state at every step; a larger number stores them at every
        `block_size`-th step and recomputes each step twice; `"sqrt"` takes √T, which stores the fewest.

    Raises:
      ValueError: if `block_size` is neither a positive number nor `"sqrt"`.

    Example:
      >>> import jax, optax
      >>> from jmeta.adaptation import descend
      >>> objective = lambda params, context, step, key: ((params - context) ** 2, {})
      >>> loop = descend(objective, optax.sgd(0.25), num_steps=5, adjoint=rematerialized(block_size="sqrt"))
      >>> float(jax.grad(lambda start: loop(start, 1.0, jax.random.key(0))[0])(0.0))
      0.03125

    Reference:
      Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv:1604.06174, section 4.
    """
    check_block_size(block_size)

    def adjoint(objective: Objective, make_optimizer: MakeOptimizer, num_steps: int) -> InnerLoop:
        scan = rematerialized_scan(block_of(block_size, num_steps), policy)
        return scanned_loop([(inner_gradient(objective), num_steps)], make_optimizer, scan)

    return adjoint


def check_block_size(block_size: int | str) -> None:
    """Raise `ValueError` unless it is a positive number or `"sqrt"`."""
    if block_size != "sqrt" and not is_whole(block_size):
        raise ValueError(f"block_size={block_size!r}; expected a positive number of steps, or 'sqrt'")


def block_of(block_size: int | str, num_steps: int) -> int:
    """Return the number of steps in a block of a loop of `num_steps`."""
    return max(math.isqrt(num_steps), 1) if block_size == "sqrt" else int(block_size)
