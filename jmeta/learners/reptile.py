"""Reptile: move the initialisation towards the result of each task's training.

A task is learned by plain training on minibatches of its support, θ → φ, and the initialisation follows,
θ ← θ + ε(φ − θ), without any derivative through training. Written as an episode, θ − φ is the gradient of the surrogate
½‖θ − φ‖² with φ held constant, so that the same trainer serves.

An inner optimizer like Adam divides by a running mean of squared gradients. If it starts afresh for every task, its
first steps have one length for every parameter, whether its gradient is signal or noise, and meta-training stalls. The
paper's code carries that mean from task to task; here it is meta-learned, by the same rule as the initialisation.

Reference: Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999, algorithm 2.
Differs from the paper's code: there the optimizer's state passes from one task of a meta-step to the next; here every
task of a meta-step starts in the same state and moves it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .. import adjoints
from ..adaptation import descend
from ..bounds import is_whole
from ..losses import checked_loss, real_examples
from ..models import but_statistics
from ..params import merge, partition, path_name
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task

__all__ = ["reptile"]


class _WithState(NamedTuple):
    params: PyTree
    optimizer_state: PyTree


class _Context(NamedTuple):
    rest: PyTree  # parameters that inner steps leave unchanged
    support: Batch
    optimizer_state: PyTree
    key_order: RandomKey


def reptile(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    batch_size: int | None = None,
    learns_optimizer_state: bool = False,
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Train on minibatches of the support, from a learned initialisation.

    Meta-train it with plain SGD as the meta-optimizer, whose rate is the paper's ε. A learned state requires this, with
    ε at most 1: such a step averages, while a step of Adam may take a mean of squares below zero, and training to NaN.

    Args:
      model, loss_fn, inner_optimizer, num_steps: as in `maml`.
      batch_size: examples in an inner step's minibatch, the next ones of a pass over the shuffled support; the whole
        support if `None` or if it is no larger.
      learns_optimizer_state: whether tasks start from a meta-learned state of the inner optimizer, rather than afresh.
        The state must have floating-point numbers only, as that of `optax.rmsprop` does; that of `optax.adam` counts
        steps and does not.
      is_adapted: as in `maml`. Reptile learns from the displacement by inner steps, so a parameter that they leave
        unchanged is never learned either: its meta-gradient θ − φ is zero. That suits a pre-trained part that should
        stay fixed; to learn shared parameters, use `first_order_maml`.

    Returns:
      A learner whose meta-parameters and whose adapted state are both parameters of `model`, or parameters and a state
      of the optimizer. Its training episode's loss is ½‖θ − φ‖², whose gradient is θ − φ; `aux` is that of the loss on
      the query, which has no part in the gradient.

    Raises:
      ValueError: if `num_steps` is negative or `batch_size` is not positive; from `init`, if the optimizer's state
        cannot be learned; at trace time if no parameter is adapted.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> inner = optax.rmsprop(1e-3, decay=0.999, initial_scale=1e-4)
      >>> learner = learners.reptile(
      ...     models.mlp([16, 5]), losses.cross_entropy, inner, num_steps=5, batch_size=10, learns_optimizer_state=True)
      >>> grad_fn = jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True)
      >>> trainer = jmeta.meta_trainer(jmeta.over_tasks(grad_fn), optax.sgd(0.5))  # ε = 0.5

    Reference:
      Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999, algorithm 2.
    """
    if batch_size is not None and not is_whole(batch_size):
        raise ValueError(f"batch_size={batch_size}; a minibatch has at least one example")
    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    loss_on_support = support_loss(model, loss_fn)

    def objective(params: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        batch = _minibatch(context.support, batch_size, step, context.key_order)
        return loss_on_support(merge(params, context.rest), batch, key)

    def make_optimizer(context: _Context) -> optax.GradientTransformation:
        if not learns_optimizer_state:
            return inner_optimizer
        return optax.GradientTransformation(lambda params: context.optimizer_state, inner_optimizer.update)  # noqa: ARG005

    inner_loop = descend(objective, make_optimizer, num_steps=num_steps, adjoint=adjoints.first_order())

    def init(key: RandomKey, task: Task) -> PyTree:
        params = model.init(key, task.support.x)
        if not learns_optimizer_state:
            return params
        state = inner_optimizer.init(partition(params, but_statistics(is_adapted))[0])
        _check_floating(state)
        return _WithState(params, state)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        params, state = meta_params if learns_optimizer_state else (meta_params, None)
        key_descend, key_order, key_statistics = jax.random.split(key, 3)
        start, rest = partition(params, but_statistics(is_adapted))
        adapted, aux = inner_loop(start, _Context(rest, support, state, key_order), key_descend)
        adapted = with_support_statistics(model, merge(adapted, rest), support, key_statistics)
        return _WithState(adapted, aux["optimizer_state"]) if learns_optimizer_state else adapted

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted.params if learns_optimizer_state else adapted, x, key)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[jax.Array, Aux]:
            key_adapt, key_predict = jax.random.split(key)
            adapted = jax.lax.stop_gradient(adapt(meta_params, task.support, key_adapt))
            distance = optax.tree.norm(jax.tree.map(jnp.subtract, meta_params, adapted), squared=True)
            outputs = predict(meta_params, adapted, task.query.x, key_predict)
            _, aux = checked_loss(outer_loss(outputs, task.query), "what loss_fn returns")
            return 0.5 * distance, jax.lax.stop_gradient(aux)

        return episode_fn

    return Learner(init, adapt, predict, episode)


def _check_floating(state: PyTree) -> None:
    others = [
        f"{path_name(path)} ({leaf.dtype})"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if not jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if others:
        raise ValueError(
            f"the inner optimizer's state is to be meta-learned, but of it {', '.join(others)} cannot move by degrees; "
            "use an optimizer that counts no steps, such as optax.rmsprop, or learns_optimizer_state=False"
        )


def _minibatch(support: Batch, batch_size: int | None, step: Any, key: RandomKey) -> Batch:
    """Return the next real examples of passes over the support, each pass in its own random order."""
    num_examples = jax.tree.leaves(support.y)[0].shape[0]
    if batch_size is None or batch_size >= num_examples:
        return support
    is_real = real_examples(support)
    num_real = jnp.maximum(is_real.sum(), 1)

    def example_at(position: Any) -> Any:
        priority = jax.random.uniform(jax.random.fold_in(key, position // num_real), (num_examples,))
        return jnp.argsort(jnp.where(is_real, priority, 2.0))[position % num_real]

    chosen = jax.vmap(example_at)(step * batch_size + jnp.arange(batch_size))
    return jax.tree.map(lambda leaf: leaf[chosen], support)
