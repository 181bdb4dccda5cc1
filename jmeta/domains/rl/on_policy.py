"""Meta-steps on data that the learner brings about itself: collect with the present parameters, then update on that.

On-policy reinforcement learning needs what was done by the policy that is being improved. A meta-step is then one
collection, over all its tasks, and several updates of any `MetaTrainer` on it; the trainer that comes out is one like
any other, so that scanned runs, checkpoints and sharding apply unchanged.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jmeta.episodes import count_tasks
from jmeta.sharding import map_over_devices, on_gathered, take_in_blocks
from jmeta.sharding.in_order import by_itself
from jmeta.tasks.drawn import Drawn, draw
from jmeta.training import MetaState, with_progress
from jmeta.types import Aux, MetaTrainer, PyTree, RandomKey, Task

from .policy_gradients import Collect


def on_policy_trainer(
    trainer: MetaTrainer,
    collect: Collect,
    *,
    num_epochs: int = 1,
    num_minibatches: int = 1,
    prepare: Callable[[Task], Task] = lambda tasks: tasks,
    num_total_steps: int | None = None,
    mesh: Mesh | None = None,
    num_blocks: int | None = None,
) -> MetaTrainer:
    """Make a trainer whose tasks are collected at every meta-step, by its own parameters, and used several times.

    Args:
      trainer: makes the updates, such as `meta_trainer`'s; its state counts meta-steps.
      collect: `(meta_params, env_params, key) -> Task`, of one task.
      num_epochs: times that what was collected is gone through, in a new order each time.
      num_minibatches: updates in an epoch, on equal shares of the tasks; whole episodes, so that what a policy
        remembers at a step is what it remembered then, up to its own change. On devices, an equal share of each block;
        without `num_blocks`, which tasks are updated on together depends on the number of devices.
      prepare: of all collected tasks together, before they are shared out, such as
        `policy_gradients.with_normalized_advantages`. On devices, what it reads is gathered on all.
      num_total_steps: meta-steps of the whole run; when given, collected tasks carry the share of them that is done as
        their `progress`.
      mesh: of devices that collect, each in its share of the environments, and keep what they collect; `trainer` is
        then one of `sharding.over_devices` on the same mesh with the same blocks.
      num_blocks: see `sharding.over_devices`.

    Returns:
      A trainer whose `update(state, env_params, key)` takes stacked parameters of environments. Its `aux` is the mean
      over updates. A meta-step counts as skipped if any of its updates was.

    Raises:
      ValueError: if a number is not positive; at trace time if the tasks cannot be shared out equally.

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
      >>> state, aux = trainer.update(state, env_params, jax.random.key(2))
      >>> int(state.step)
      1
    """
    if num_epochs < 1 or num_minibatches < 1:
        raise ValueError(f"num_epochs={num_epochs} and num_minibatches={num_minibatches}; expected at least 1")

    collect_all = jax.vmap(collect, in_axes=(None, 0, 0))
    num_parts = 1  # blocks of tasks that stay where they are
    means = functools.partial(jax.tree.map, jnp.mean)
    if mesh is not None:
        means = functools.partial(by_itself, means)  # whose order would depend on what is around
        collect_all = map_over_devices(collect_all, mesh, num_blocks=num_blocks)
        prepare, num_parts = on_gathered(prepare, mesh), num_blocks or mesh.size

    def update(state: MetaState, env_params: PyTree, key: RandomKey) -> tuple[MetaState, Aux]:
        env_params = env_params if mesh is not None else draw(env_params)
        num_tasks = count_tasks(env_params.keys if isinstance(env_params, Drawn) else env_params)
        if num_tasks % (num_minibatches * num_parts):
            blocks = f" in each of {num_parts} blocks" if num_parts > 1 else ""
            raise ValueError(
                f"num_minibatches={num_minibatches} does not divide the {num_tasks} tasks of a meta-step{blocks}"
            )
        key_collect, key_epochs = jax.random.split(key)
        tasks = prepare(collect_all(state.meta_params, env_params, jax.random.split(key_collect, num_tasks)))
        tasks = with_progress(tasks, state.step, num_total_steps)

        def minibatch(rows: jax.Array) -> Task:
            if mesh is None:
                return jax.tree.map(lambda leaf: leaf[rows[0]], tasks)
            return take_in_blocks(tasks, rows, mesh)

        def one_epoch(inner: MetaState, key: RandomKey) -> tuple[MetaState, Aux]:
            key_order, key_updates = jax.random.split(key)
            in_parts = [jax.random.permutation(key, num_tasks // num_parts) for key in _keys(key_order, num_parts)]
            order = jnp.stack(in_parts).reshape(num_parts, num_minibatches, -1).swapaxes(0, 1)

            def one_update(inner: MetaState, rows_and_key: tuple[jax.Array, RandomKey]) -> tuple[MetaState, Aux]:
                rows, key = rows_and_key
                return trainer.update(inner, minibatch(rows), key)

            if num_minibatches == 1:  # order is nothing to a mean, and gathering costs a copy
                inner, aux = trainer.update(inner, tasks, key_updates)
                return inner, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], aux)
            return jax.lax.scan(one_update, inner, (order, jax.random.split(key_updates, num_minibatches)))

        inner, aux = jax.lax.scan(one_epoch, state, jax.random.split(key_epochs, num_epochs))
        skipped = aux.pop("is_skipped").max()
        counted = inner._replace(
            step=state.step + 1,
            num_skipped=state.num_skipped + skipped,
            num_skipped_in_a_row=(state.num_skipped_in_a_row + 1) * skipped,
            last_skipped_step=jnp.where(skipped == 1, state.step, state.last_skipped_step),
        )
        return counted, {**means(aux), "is_skipped": skipped}

    return MetaTrainer(trainer.init, update)


def _keys(key: RandomKey, count: int) -> list[RandomKey]:
    return [key] if count == 1 else list(jax.random.split(key, count))
