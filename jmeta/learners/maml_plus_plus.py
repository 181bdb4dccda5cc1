"""MAML++: MAML with the repairs that make it train reliably.

Three of them live here. Each parameter array has its own learned rate for each inner step; each inner step has its own
scales and biases of the norm layers, learned but not adapted; and early in training the query loss is taken after
*every* inner step, Σₜ wₜ L(φₜ; query), the weights moving from uniform to the last step alone.

Reference: Antoniou, Edwards, Storkey, "How to train your MAML", 2019, arXiv:1810.09502, section 4. Differs from the
paper: statistics of norm layers are those that the model's policy says, never running averages; no switch from first to
second order in mid-training; the weights move linearly.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint, InnerLoop
from ..losses import checked_loss
from ..models import is_norm, is_statistic
from ..optimizers import learned_rates
from ..params import merge, partition
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task


class _Context(NamedTuple):
    rates: PyTree  # of this step
    norms: PyTree  # of this step: scales, biases and statistics
    support: Batch


def maml_plus_plus(
    model: Model,
    loss_fn: LossFn,
    *,
    num_steps: int,
    initial_lr: float,
    annealed_until: float = 0.1,
    adjoint: Adjoint = adjoints.unrolled(),
) -> Learner:
    """Learn an initialisation, a rate for each parameter array and step, and norm parameters for each step.

    With more inner steps than were trained, the rates and norms of the last trained step serve for the rest.

    Its training episode is the query loss after every inner step, weighted. The weights are uniform at the start and
    move linearly to the last step alone, while `task.progress` goes from 0 to `annealed_until`; from then on it is the
    plain episode.

    Args:
      model, loss_fn, num_steps, adjoint: as in `maml`.
      initial_lr: inner learning rate that every parameter array and step starts with.
      annealed_until: share of training after which only the last step counts, above 0.

    Returns:
      A learner with meta-parameters `{"params", "norms", "lr"}`; the leaves of the last two have the steps on their
      first axis. Its adapted state is parameters of `model`. The `aux` of its training episode is that of the last
      step.

    Raises:
      ValueError: if `num_steps` is negative or `annealed_until` is not positive; from its `episode`, if `num_steps` is
        0, and at trace time if tasks have no `progress`.

    Example:
      >>> import jax, jmeta, jax.numpy as jnp
      >>> from jmeta import learners, losses, models
      >>> learner = learners.maml_plus_plus(models.mlp([16, 5]), losses.cross_entropy, num_steps=3, initial_lr=0.1)
      >>> episode_fn = jmeta.episode(learner, losses.cross_entropy)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> task = task._replace(progress=jnp.zeros(()))  # in training, `sampled_steps` sets it
      >>> loss, aux = episode_fn(learner.init(jax.random.key(1), task), task, jax.random.key(2))

    Reference:
      Antoniou, Edwards, Storkey, "How to train your MAML", 2019, arXiv:1810.09502, section 4.
    """
    if annealed_until <= 0:
        raise ValueError(f"annealed_until={annealed_until}; expected a positive share of training, such as 0.1")
    inner_step = _one_step(model, loss_fn, adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        params, norms = partition(model.init(key, task.support.x), _is_adapted)
        num_rows = max(num_steps, 1)
        stacked = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], num_rows, 0), norms)
        rates = jax.tree.map(lambda leaf: jnp.full(num_rows, initial_lr, leaf.dtype), params)
        return {"params": params, "norms": stacked, "lr": rates}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_steps, key_statistics = jax.random.split(key)

        def step(params: PyTree, index_and_key: tuple[Any, RandomKey]) -> tuple[PyTree, None]:
            return inner_step(meta_params, params, support, *index_and_key), None

        params, _ = jax.lax.scan(step, meta_params["params"], _steps_and_keys(num_steps, key_steps))
        params = merge(params, _row(meta_params["norms"], jnp.array(max(num_steps - 1, 0))))
        return with_support_statistics(model, params, support, key_statistics)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted, x, key)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps}; the multi-step loss needs at least one inner step")

        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
            if task.progress is None:
                raise ValueError(
                    "MAML++'s multi-step loss needs task.progress; pass num_total_steps to training.sampled_steps, or "
                    "judge by jmeta.plain_episode"
                )
            key_steps, key_query = jax.random.split(key)

            def step(params: PyTree, index_and_key: tuple[Any, RandomKey]) -> tuple[PyTree, tuple[Array, Aux]]:
                index, key_step = index_and_key
                key_descend, key_statistics = jax.random.split(key_step)
                params = inner_step(meta_params, params, task.support, index, key_descend)
                whole = merge(params, _row(meta_params["norms"], index))
                whole = with_support_statistics(model, whole, task.support, key_statistics)
                outputs = model.apply(whole, task.query.x, jax.random.fold_in(key_query, index))
                return params, checked_loss(outer_loss(outputs, task.query), "what loss_fn returns")

            _, (losses, aux) = jax.lax.scan(step, meta_params["params"], _steps_and_keys(num_steps, key_steps))
            loss = jnp.dot(_step_weights(task.progress, num_steps, annealed_until), losses)
            return loss, jax.tree.map(lambda leaf: leaf[-1], aux)

        return episode_fn

    return Learner(init, adapt, predict, episode)


def _step_weights(progress: Float[Array, ""], num_steps: int, annealed_until: float) -> Float[Array, " num_steps"]:
    share_of_last = jnp.clip(progress / annealed_until, 0.0, 1.0)
    last = jnp.zeros(num_steps).at[-1].set(1.0)
    return (1 - share_of_last) / num_steps + share_of_last * last


def _one_step(model: Model, loss_fn: LossFn, adjoint: Adjoint):
    """One inner step, `(meta_params, params, support, step, key) -> params`.

    Gradient descent keeps no state between steps, so a scan over single steps is the whole loop, and every
    intermediate parameter is at hand for the multi-step loss.
    """
    loss_on_support = support_loss(model, loss_fn)

    def objective(params: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        return loss_on_support(merge(params, context.norms), context.support, key)

    descend_once: InnerLoop = descend(
        objective, lambda context: learned_rates(context.rates), num_steps=1, adjoint=adjoint
    )

    def inner_step(meta_params: PyTree, params: PyTree, support: Batch, step: Int[Array, ""], key: RandomKey) -> PyTree:
        context = _Context(_row(meta_params["lr"], step), _row(meta_params["norms"], step), support)
        params, _ = descend_once(params, context, key)
        return params

    return inner_step


def _row(stacked: PyTree, step: Int[Array, ""]) -> PyTree:
    """What belongs to this step; the last row serves for all later ones."""
    return jax.tree.map(lambda leaf: leaf[jnp.minimum(step, leaf.shape[0] - 1)], stacked)


def _is_adapted(path: str) -> bool:
    return not (is_norm(path) or is_statistic(path))


def _steps_and_keys(num_steps: int, key: RandomKey) -> tuple[Int[Array, " num_steps"], Array]:
    return jnp.arange(num_steps), jax.random.split(key, num_steps)
