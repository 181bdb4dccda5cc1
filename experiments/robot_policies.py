"""Policies of robots that differ in what they know of the task, all trained by PPO on the returns of whole episodes."""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import learners, models, policies, policy_gradients, rollouts
from jmeta.collecting import collecting_trainer
from jmeta.environments import Box, Environment
from jmeta.environments.robots import RobotParams
from jmeta.policies import Policy
from jmeta.types import PyTree, RandomKey, SequenceModel

REMEMBERS, FORGETS, TOLD, UNTRAINED = "remembers (RL²)", "has no memory", "is told the task", "is not trained"
TASKS_PER_STEP = 100
STEPS_PER_DISPATCH = 10


def forgetful(width: int, num_features: int) -> SequenceModel:
    """A sequence model that sees the first few features of the present step only: the observation."""
    network = models.mlp([width, width])

    def init(key: RandomKey, x: jax.Array) -> PyTree:
        return network.init(key, x[:, :num_features])

    def unroll(params: PyTree, memory: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]:
        if x.shape[0] == 0:
            return memory, jnp.zeros((0, width), x.dtype)
        return memory, jnp.tanh(network.apply(params, x[:, :num_features], None))

    def step(params: PyTree, memory: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]:
        memory, outputs = unroll(params, memory, x[None])
        return memory, outputs[0]

    return SequenceModel(init, lambda _: (), step, unroll)


def telling(environment: Environment) -> Environment:
    """The environment with the task's numbers in its observations."""
    numbers = sum(leaf.size for leaf in environment.default_params)
    (sensors,) = environment.observation_space(environment.default_params).shape

    def told(observation: jax.Array, params: RobotParams) -> jax.Array:
        return jnp.concatenate([observation, *[jnp.ravel(leaf) for leaf in params]])

    def reset(key: RandomKey, params: RobotParams) -> tuple[jax.Array, PyTree]:
        observation, state = environment.reset(key, params)
        return told(observation, params), state

    def step(key: RandomKey, state: PyTree, action: jax.Array, params: RobotParams) -> Any:
        observation, *others = environment.step(key, state, action, params)
        return told(observation, params), *others

    space = Box(-math.inf, math.inf, (sensors + numbers,))
    return environment._replace(reset=reset, step=step, observation_space=lambda _: space)


def policy_of(kind: str, environment: Environment) -> tuple[Environment, Policy]:
    """What a policy of some kind acts in, and the policy."""
    there = telling(environment) if kind == TOLD else environment
    (sensors,) = there.observation_space(there.default_params).shape
    memory = models.gru(64) if kind == REMEMBERS else forgetful(64, sensors)
    return there, policies.actor_critic(memory, there, initial_log_std=-0.5)


def trained(
    there: Environment, policy: Policy, sample: Any, *, num_steps: int, minutes: float, reward_scale: float, seed: int
) -> tuple[PyTree, int]:
    """The parameters of a policy after some minutes of PPO, compiling left out, and the number of meta-steps.

    Args:
      there, policy: as `policy_of` returns them.
      sample: of tasks to train on.
      num_steps: of an episode, over all its rollouts.
      minutes: of training; whole dispatches.
      reward_scale: see `policy_gradients.collect_episode`.
      seed: of parameters and tasks.
    """
    run = rollouts.run_episode(there, policy, num_steps=num_steps)
    on_collected = jmeta.episode(learners.rl2(policy), policy_gradients.ppo_loss())
    mean_grad = jax.value_and_grad(jmeta.over_tasks(on_collected, "vmap"), has_aux=True)
    trainer = collecting_trainer(
        jmeta.meta_trainer(mean_grad, optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3))),
        policy_gradients.collect_episode(run, discount=0.98, gae_lambda=0.95, reward_scale=reward_scale),
        num_epochs=4,
        num_minibatches=2,
        prepare=policy_gradients.with_normalized_advantages,
    )

    def one_step(state: Any, key: RandomKey) -> tuple[Any, None]:
        key_tasks, key_update = jax.random.split(key)
        env_params = jax.vmap(sample)(jax.random.split(key_tasks, TASKS_PER_STEP))
        state, _ = trainer.update(state, env_params, key_update)
        return state, None

    many = jax.jit(lambda state, key: jax.lax.scan(one_step, state, jax.random.split(key, STEPS_PER_DISPATCH))[0])
    key_init, key_train = jax.random.split(jax.random.key(seed))
    state = trainer.init(rollouts.init_policy(there, policy)(key_init))
    many = many.lower(state, key_train).compile()
    begin = time.perf_counter()
    while time.perf_counter() - begin < 60 * minutes:
        state = jax.block_until_ready(many(state, jax.random.fold_in(key_train, state.step)))
    return state.meta_params, int(state.step)


def rewards_of(
    there: Environment, policy: Policy, params: PyTree | None, sample: Any, *, num_steps: int, num_tasks: int, seed: int
) -> np.ndarray:
    """`[tasks, steps]`, of a policy's most probable actions; without parameters, of actions drawn by a new policy."""
    run = rollouts.run_episode(there, policy, num_steps=num_steps, is_greedy=params is not None)
    key_tasks, key_run, key_init = jax.random.split(jax.random.key(seed), 3)
    params = rollouts.init_policy(there, policy)(key_init) if params is None else params
    env_params = jax.vmap(sample)(jax.random.split(key_tasks, num_tasks))
    episodes = jax.jit(jax.vmap(run, in_axes=(None, 0, 0)))
    return np.asarray(episodes(params, env_params, jax.random.split(key_run, num_tasks)).reward)
