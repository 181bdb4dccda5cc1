"""jmeta's contenders that act: RL² by A2C or PPO, the whole meta-step compiled."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jmeta
from jmeta import models
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.on_policy import on_policy_trainer
from jmeta.domains.rl.policies import PolicyInput
from jmeta.domains.rl.rollouts import Trajectory
from jmeta.training import MetaState
from jmeta.types import Aux, PyTree, RandomKey, Task

from .contender import Contender
from .with_jax import nested
from .workloads import (
    ACTING_LR,
    ARMS,
    CLIP,
    CLIP_NORM,
    DISCOUNT,
    ENTROPY_WEIGHT,
    GAE_LAMBDA,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    REWARD_SCALE,
    VALUE_WEIGHT,
    WIDTH,
    Pulls,
    Workload,
)

_BANDIT, _SAMPLE = environments.bernoulli_bandit(ARMS)
_POLICY = policies.actor_critic(models.gru(WIDTH), _BANDIT)
_JUDGED: dict[str, Any] = {"discount": DISCOUNT, "gae_lambda": GAE_LAMBDA, "reward_scale": REWARD_SCALE}
_WEIGHTS = {"value_weight": VALUE_WEIGHT, "entropy_weight": ENTROPY_WEIGHT}


def jmeta_way(way: str, workload: Workload, recorded: Pulls) -> Contender:
    """Build the contender that trains by `"one pass"` of A2C, or by an update on rollouts `"collected first"`.

    Raises:
      ValueError: if there is no such way.
    """
    is_ppo, at_once = workload.kind == "W4-PPO", way == "one pass"
    if way not in ("one pass", "collected first") or (is_ppo and at_once):
        raise ValueError(f"{workload.name} is not done by {way!r}")
    run = rollouts.run_episode(_BANDIT, _POLICY, num_steps=workload.steps)
    loss_fn = policy_gradients.ppo_loss(clip=CLIP, **_WEIGHTS) if is_ppo else policy_gradients.a2c_loss(**_WEIGHTS)
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(ACTING_LR))
    on_collected = jmeta.episode(rl.learners.rl2(_POLICY), loss_fn)
    episode_fn = policy_gradients.acting_episode(run, loss_fn, **_JUDGED) if at_once else on_collected
    mean_grad = jax.value_and_grad(jmeta.over_tasks(episode_fn, "vmap"), has_aux=True)
    trainer = jmeta.meta_trainer(mean_grad, optimizer)
    if not at_once:
        trainer = on_policy_trainer(
            trainer,
            policy_gradients.collect_episode(run, **_JUDGED),
            num_epochs=NUM_EPOCHS if is_ppo else 1,
            num_minibatches=NUM_MINIBATCHES if is_ppo else 1,
            prepare=policy_gradients.with_normalized_advantages if is_ppo else lambda tasks: tasks,
        )

    def step(state: MetaState, key: RandomKey) -> tuple[MetaState, Aux]:
        key_tasks, key_update = jax.random.split(jax.random.fold_in(key, state.step))
        return trainer.update(state, jax.vmap(_SAMPLE)(jax.random.split(key_tasks, workload.tasks)), key_update)

    params, key = nested(recorded.params), jax.random.key(0)
    loss, norm = _on_recorded(params, recorded, jmeta.over_tasks(on_collected, "vmap"), normalizes=is_ppo)
    state = trainer.init(params)
    began = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, key).compile()
    compile_seconds = time.perf_counter() - began

    def run_calls(num_calls: int) -> None:
        nonlocal state
        for _ in range(num_calls):
            state, _ = compiled(state, key)
        jax.block_until_ready(state)

    run_calls(1)
    memory = compiled.memory_analysis()
    return Contender(run_calls, 1, loss, norm, compile_seconds, memory.temp_size_in_bytes if memory else None)


def _on_recorded(
    params: PyTree, recorded: Pulls, mean_episode: jmeta.types.EpisodeFn, *, normalizes: bool
) -> tuple[float, float]:
    """Return the loss and the norm of its gradient, on recorded pulls."""

    def judged(action: jax.Array, reward: jax.Array) -> Task:
        nothing, is_over = jnp.zeros((len(action), 1)), jnp.ones(len(action), bool)
        before = jnp.concatenate([jnp.array([-1], jnp.int32), action[:-1]])
        inputs = PolicyInput(nothing, before, jnp.concatenate([jnp.zeros(1), reward[:-1]]), is_over.at[0].set(False))
        _, decisions = _POLICY.unroll(params, _POLICY.start(params, jax.random.key(0)), inputs, jax.random.key(0))
        log_prob = decisions.distribution.log_prob(action)
        return policy_gradients.judged(Trajectory(inputs, decisions, action, log_prob, reward, is_over), **_JUDGED)

    @jax.jit
    def gradient(action: jax.Array, reward: jax.Array) -> tuple[jax.Array, jax.Array]:
        tasks = jax.vmap(judged)(action, reward)
        tasks = policy_gradients.with_normalized_advantages(tasks) if normalizes else tasks
        (loss, _), grads = jax.value_and_grad(mean_episode, has_aux=True)(params, tasks, jax.random.key(0))
        return loss, optax.tree.norm(grads)

    loss, norm = gradient(recorded.action, recorded.reward)
    return float(loss), float(norm)
