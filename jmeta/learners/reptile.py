"""Reptile: move the initialisation towards what each task's training arrives at.

A task is learned by plain training on minibatches of its support, θ → φ, and the initialisation follows,
θ ← θ + ε(φ − θ): no derivative through training at all. Written as an episode, θ − φ is the gradient of the surrogate
½‖θ − stop_gradient(φ)‖² (see `jmeta.episodes.reptile_episode`), so that the same trainer serves.

Reference: Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999, algorithm 2.
Differs from the paper's code: an inner optimizer with state (Adam) starts afresh for every task, and minibatches are
drawn independently, not as parts of a shuffled pass over the support.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from .. import adjoints
from ..adaptation import descend, merge_params, split_params, support_loss, with_support_statistics
from ..models import is_statistic
from ..types import Aux, Batch, Learner, LossFn, Model, PyTree, RandomKey, Task


def reptile(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    batch_size: int | None = None,
) -> Learner:
    """Train on minibatches of the support, from a learned initialisation.

    Meta-train it with `jmeta.episodes.reptile_episode` and a meta-optimizer of plain SGD, whose rate is the paper's ε.

    Args:
      model, loss_fn, inner_optimizer, num_steps: as in `maml`.
      batch_size: examples in an inner step's minibatch, drawn from the support without replacement; all if `None` or if
        the support is no larger.

    Returns:
      A learner whose meta-parameters and whose adapted state are both parameters of `model`.

    Raises:
      ValueError: if `num_steps` is negative or `batch_size` is not positive.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> inner = optax.adam(1e-3, b1=0.0)
      >>> learner = learners.reptile(models.mlp([16, 5]), losses.cross_entropy, inner, num_steps=5, batch_size=10)

    Reference:
      Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999, algorithm 2.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; a minibatch has at least one example")
    loss_on_support = support_loss(model, loss_fn)

    def objective(params: PyTree, context: tuple[PyTree, Batch], step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        rest, support = context
        key_batch, key_model = jax.random.split(key)
        return loss_on_support(merge_params(params, rest), _minibatch(support, batch_size, key_batch), key_model)

    inner_loop = descend(objective, inner_optimizer, num_steps=num_steps, adjoint=adjoints.first_order())

    def init(key: RandomKey, task: Task) -> PyTree:
        return model.init(key, task.support.x)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_descend, key_statistics = jax.random.split(key)
        start, rest = split_params(meta_params, lambda path: not is_statistic(path))
        adapted, _ = inner_loop(start, (rest, support), key_descend)
        return with_support_statistics(model, merge_params(adapted, rest), support, key_statistics)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted, x, key)

    return Learner(init, adapt, predict)


def _minibatch(support: Batch, batch_size: int | None, key: RandomKey) -> Batch:
    num_examples = jax.tree.leaves(support.y)[0].shape[0]
    if batch_size is None or batch_size >= num_examples:
        return support
    # real examples first in a random order, padding last
    priority = jax.random.uniform(key, (num_examples,))
    if support.mask is not None:
        priority = jnp.where(support.mask, priority, 2.0)
    chosen = jnp.argsort(priority)[:batch_size]
    return jax.tree.map(lambda leaf: leaf[chosen], support)
