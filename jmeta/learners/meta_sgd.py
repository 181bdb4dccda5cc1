"""Meta-SGD: MAML that also learns the inner learning rate of every single parameter.

An inner step is φₜ₊₁ = φₜ − α ⊙ ∇L(φₜ; support), where α has the shape of the parameters and is meta-learned with them:
it decides how far *and in which direction* a task may move each of them.

Reference: Li, Zhou, Chen, Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017, arXiv:1707.09835,
eq. 1, algorithm 1. Differs from the paper: α starts at one number instead of a random one in [0.005, 0.1]; several
steps are allowed and share α.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..bounds import is_real
from ..models import but_statistics
from ..optimizers import learned_rates
from ..params import merge, partition
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, Learner, LossFn, Model, PyTree, RandomKey, Task

__all__ = ["meta_sgd"]


class _Context(NamedTuple):
    rates: PyTree
    rest: PyTree
    support: Batch


def meta_sgd(
    model: Model,
    loss_fn: LossFn,
    *,
    num_steps: int,
    initial_lr: float,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn an initialisation and a learning rate for each parameter.

    Args:
      model, loss_fn, num_steps, adjoint, is_adapted: as in `maml`.
      initial_lr: inner learning rate that every parameter starts with.

    Returns:
      A learner with meta-parameters `{"params": ..., "lr": ...}`, two trees of one structure (`None` in `lr` for
      parameters that are not adapted), whose adapted state is parameters of `model`.

    Raises:
      ValueError: if `num_steps` is negative, or `initial_lr` not positive; at trace time if no parameter is adapted.

    Example:
      >>> from jmeta import learners, losses, models
      >>> learner = learners.meta_sgd(models.mlp([40, 40, 1]), losses.squared_error, num_steps=1, initial_lr=0.01)

    Reference:
      Li, Zhou, Chen, Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017, arXiv:1707.09835, eq. 1.
    """
    if not is_real(initial_lr, above=0):
        raise ValueError(f"initial_lr={initial_lr}; expected a positive rate, such as 0.01")
    loss_on_support = support_loss(model, loss_fn)

    def objective(params: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        return loss_on_support(merge(params, context.rest), context.support, key)

    inner_loop = descend(objective, lambda context: learned_rates(context.rates), num_steps=num_steps, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        params = model.init(key, task.support.x)
        adapted, _ = partition(params, but_statistics(is_adapted))
        return {"params": params, "lr": jax.tree.map(lambda leaf: jnp.full_like(leaf, initial_lr), adapted)}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_descend, key_statistics = jax.random.split(key)
        start, rest = partition(meta_params["params"], but_statistics(is_adapted))
        adapted, _ = inner_loop(start, _Context(meta_params["lr"], rest, support), key_descend)
        return with_support_statistics(model, merge(adapted, rest), support, key_statistics)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted, x, key)

    return Learner(init, adapt, predict)
