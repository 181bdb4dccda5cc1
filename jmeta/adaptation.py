"""Inner loops: gradient descent as a pure, differentiable function of its start and its context.

Optimisation-based learners run one inside `adapt`, and a researcher composes them to write a new learner. How the loop
is differentiated is an argument (see `jmeta.adjoints`), not another loop.
"""

from typing import Any

import optax

from . import adjoints
from .adjoints import Adjoint, InnerLoop, MakeOptimizer, Objective
from .bounds import is_whole
from .losses import checked_loss
from .types import Aux, PyTree, RandomKey

__all__ = ["descend"]


def descend(
    objective: Objective,
    optimizer: optax.GradientTransformation | MakeOptimizer,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
) -> InnerLoop:
    """Build an inner loop: `num_steps` steps of `optimizer` on `objective`.

    Args:
      objective: `(params, context, step, key) -> (loss, aux)`. Put everything that a meta-gradient must flow into in
        `params` or `context`, not in a closure; `step` is an integer scalar that counts from 0; each step gets a fresh
        `key`.
      optimizer: any optax transformation, or a function `context -> transformation` when its hyper-parameters are
        learned. One that divides by a root or a norm, such as Adam, needs `optimizers.safe_at_zero`. It may use the
        loss (`value`, as `optax.contrib.reduce_on_plateau` does); line searches, which evaluate the loss again, are not
        supported.
      num_steps: number of steps, at least 0.
      adjoint: how the loop is differentiated.

    Returns:
      `inner_loop(params, context, key) -> (params, aux)`; `aux["inner_losses"]` is `[num_steps]`, the objective
      *before* each step, and `aux["optimizer_state"]` is the optimizer's final state.

    Raises:
      ValueError: if `num_steps` is not an integer or is negative; at trace time, if the objective returns anything but
        a scalar and a dictionary.

    Example:
      >>> import jax, optax
      >>> objective = lambda params, context, step, key: ((params - context) ** 2, {})
      >>> loop = descend(objective, optax.sgd(0.25), num_steps=2)
      >>> params, aux = loop(0.0, 1.0, jax.random.key(0))
      >>> float(params)
      0.75
    """
    if not is_whole(num_steps, least=0):
        raise ValueError(f"num_steps={num_steps}; expected an integer of at least 0 (0 leaves the model unchanged)")
    make_optimizer = optimizer if callable(optimizer) else lambda _: optimizer

    def checked(params: PyTree, context: PyTree, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        return checked_loss(objective(params, context, step, key), "the result of an inner loop's objective")

    return adjoint(checked, make_optimizer, num_steps)
