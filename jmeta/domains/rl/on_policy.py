"""Meta-steps on data that the learner produces: collect with the current parameters, then update on the result.

On-policy reinforcement learning needs the actions of the policy that is being improved. A meta-step is then one
collection, over all its tasks, and several updates of any `MetaTrainer` on it. The result is a trainer like any other,
so scanned runs, checkpoints and sharding apply unchanged.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jmeta.batching import count_tasks
from jmeta.sharding import MeanFn, Sharing
from jmeta.training import MetaState, count_step, with_progress
from jmeta.types import Aux, MetaTrainer, PyTree, RandomKey, Task

from .policy_gradients import Collect

__all__ = ["on_policy_trainer"]


def on_policy_trainer(
    trainer: MetaTrainer,
    collect: Collect,
    *,
    num_epochs: int = 1,
    num_minibatches: int = 1,
    prepare: Callable[[Task], Task] = lambda tasks: tasks,
    num_total_steps: int | None = None,
) -> MetaTrainer:
    """Build a trainer whose tasks are collected at every meta-step, by its own parameters, and used several times.

    Devices may share its tasks (`jmeta.sharding.Sharing.trainer`) if they may share those of `trainer`. Each then
    collects in its own environments and keeps the result; the data that `prepare` reads is gathered on all. A minibatch
    has an equal share of each block, so without blocks the tasks that are updated on together depend on the number of
    devices.

    Args:
      trainer: makes the updates, such as `meta_trainer`'s; its state counts meta-steps.
      collect: `(meta_params, env_params, key) -> Task`, for one task.
      num_epochs: passes over the collected tasks, in a new order each time.
      num_minibatches: updates in an epoch, on equal shares of the tasks; whole episodes, so that a policy's memory at a
        step is what it was then, up to the policy's own change.
      prepare: a function of all collected tasks together, before they are divided, such as
        `policy_gradients.with_normalized_advantages`.
      num_total_steps: meta-steps of the whole run; if given, collected tasks carry the fraction of them that is done as
        their `progress`.

    Returns:
      A trainer whose `update(state, env_params, key)` takes stacked parameters of environments. Its `aux` is the mean
      over updates. A meta-step counts as skipped if any of its updates was.

    Raises:
      ValueError: if a number is not positive; at trace time if the tasks cannot be divided equally.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, models
      >>> from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
      >>> from jmeta.domains import rl
      >>> bandit, sample = environments.bernoulli_bandit(2)
      >>> policy = policies.actor_critic(models.gru(8), bandit)
      >>> run = rollouts.run_episode(bandit, policy, num_steps=5)
      >>> collect = policy_gradients.collect_episode(run, discount=0.99, gae_lambda=0.3)
      >>> episode_fn = jmeta.episode(rl.learners.rl2(policy), policy_gradients.ppo_loss())
      >>> mean_grad = jax.value_and_grad(jmeta.over_tasks(episode_fn, "vmap"), has_aux=True)
      >>> trainer = on_policy_trainer(jmeta.meta_trainer(mean_grad, optax.adam(1e-3)), collect, num_epochs=2)
      >>> state = trainer.init(rollouts.init_policy(bandit, policy)(jax.random.key(0)))
      >>> env_params = jax.vmap(sample)(jax.random.split(jax.random.key(1), 4))
      >>> state, aux = jax.jit(trainer.update)(state, env_params, jax.random.key(2))
      >>> int(state.step)
      1
    """
    if num_epochs < 1 or num_minibatches < 1:
        raise ValueError(f"num_epochs={num_epochs} and num_minibatches={num_minibatches}; expected at least 1")

    def built(updates: MetaTrainer, over: _OverTasks) -> Callable[..., tuple[MetaState, Aux]]:
        return _on_policy_update(updates, over, num_epochs, num_minibatches, num_total_steps)

    collect_all = jax.vmap(collect, in_axes=(None, 0, 0))
    own_tasks = _OverTasks(collect_all, prepare, lambda tasks, rows: jax.tree.map(lambda leaf: leaf[rows[0]], tasks), 1)

    def share(sharing: Sharing) -> MetaTrainer:
        num_blocks = sharing.num_blocks or sharing.mesh.size
        over = _OverTasks(sharing.map(collect_all), sharing.gathered(prepare), sharing.take, num_blocks)
        assert trainer.share is not None
        return MetaTrainer(trainer.init, built(trainer.share(sharing), over))

    return MetaTrainer(trainer.init, built(trainer, own_tasks), None if trainer.share is None else share)


class _OverTasks(NamedTuple):
    """Functions of stacked tasks, which stay in blocks.

    Attributes:
      collect: `(meta_params, env_params, keys) -> tasks`.
      prepare: `tasks -> tasks`.
      take: `(tasks, rows) -> tasks`, those in `[blocks, rows]` of each block.
      num_blocks: number of blocks, of equal size.
    """

    collect: MeanFn
    prepare: Callable[[PyTree], PyTree]
    take: Callable[[PyTree, Int[Array, "blocks rows"]], PyTree]
    num_blocks: int


def _on_policy_update(
    trainer: MetaTrainer, over: _OverTasks, num_epochs: int, num_minibatches: int, num_total_steps: int | None
) -> Callable[..., tuple[MetaState, Aux]]:
    def update(state: MetaState, env_params: PyTree, key: RandomKey) -> tuple[MetaState, Aux]:
        num_tasks, num_blocks = count_tasks(env_params), over.num_blocks
        if num_tasks % (num_minibatches * num_blocks):
            blocks = f" in each of {num_blocks} blocks" if num_blocks > 1 else ""
            raise ValueError(
                f"num_minibatches={num_minibatches} does not divide the {num_tasks} tasks of a meta-step{blocks}"
            )
        key_collect, key_epochs = jax.random.split(key)
        tasks = over.prepare(over.collect(state.meta_params, env_params, jax.random.split(key_collect, num_tasks)))
        tasks = with_progress(tasks, state.step, num_total_steps)

        def one_epoch(inner: MetaState, key: RandomKey) -> tuple[MetaState, Aux]:
            key_order, key_updates = jax.random.split(key)
            if num_minibatches == 1:  # a mean ignores the order, and gathering costs a copy
                inner, aux = trainer.update(inner, tasks, key_updates)
                return inner, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], aux)
            keys = [key_order] if num_blocks == 1 else list(jax.random.split(key_order, num_blocks))
            orders = jnp.stack([jax.random.permutation(key, num_tasks // num_blocks) for key in keys])
            rows = orders.reshape(num_blocks, num_minibatches, -1).swapaxes(0, 1)

            def one_update(inner: MetaState, rows_and_key: tuple[jax.Array, RandomKey]) -> tuple[MetaState, Aux]:
                rows, key = rows_and_key
                return trainer.update(inner, over.take(tasks, rows), key)

            return jax.lax.scan(one_update, inner, (rows, jax.random.split(key_updates, num_minibatches)))

        inner, aux = jax.lax.scan(one_epoch, state, jax.random.split(key_epochs, num_epochs))
        skipped = aux.pop("is_skipped").max()
        counted = count_step(state, skipped)._replace(
            meta_params=inner.meta_params, optimizer_state=inner.optimizer_state
        )
        return counted, {**jax.tree.map(_mean_in_sequence, aux), "is_skipped": skipped}

    return update


def _mean_in_sequence(leaf: Array) -> Array:
    """Return the mean of all numbers, added one after another: XLA would choose an order by the surrounding code."""
    numbers = leaf.reshape(-1).astype(jnp.result_type(leaf.dtype, jnp.float32))
    total, _ = jax.lax.scan(lambda total, number: (total + number, None), jnp.zeros((), numbers.dtype), numbers)
    return total / numbers.size
