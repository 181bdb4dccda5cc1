"""Checks of the contract that every environment and every policy obeys; see also `jmeta.testing`."""

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.testing.claims import assert_close, assert_same_avals, check_finite, claim
from jmeta.testing.samplers import Sampler
from jmeta.types import PyTree, RandomKey

from .policies import Policy
from .rollouts import init_policy, run_episode


def check_environment(
    environment: Any, sample: Sampler, key: RandomKey, *, num_steps: int = 8, rtol: float = 1e-4
) -> None:
    """Run an environment and the sampler of its parameters through their contract.

    The sampler makes parameters of the default ones' structure, shapes and dtypes, under `jit`, too. Observations are
    in their space, rewards and ends are scalars of their types, and everything is finite over random actions. States
    keep their structure, shapes and dtypes. `info["final_observation"]` is the observation where a rollout goes on. The
    same key gives the same steps, and `vmap` over tasks is a loop.

    Args:
      environment: an `Environment`, or one of gymnax.
      sample: `key -> params`.
      key: for tasks and actions.
      num_steps: of the rollouts that are tried.
      rtol: relative tolerance of comparisons under `jit` and `vmap`.

    Raises:
      AssertionError: at the first clause that is violated, naming it.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments
      >>> check_environment(*environments.bernoulli_bandit(3), jax.random.key(0))
    """
    keys = jax.random.split(key, 4)
    params = [jax.jit(lambda sample, key: sample(key))(sample, each) for each in keys[:2]]
    assert_same_avals(params[0], environment.default_params, "sampled parameters differ from the default ones")
    assert_close(sample(keys[0]), params[0], rtol, "jax.jit samples other parameters")

    def rollout(params: PyTree, key: RandomKey) -> tuple[PyTree, ...]:
        key_reset, key_steps = jax.random.split(key)
        observation, state = environment.reset(key_reset, params)

        def one_step(state: PyTree, key: RandomKey) -> tuple[PyTree, PyTree]:
            key_action, key_step = jax.random.split(key)
            action = environment.action_space(params).sample(key_action)
            observation, state, *rest = environment.step(key_step, state, action, params)
            return state, (observation, *rest)

        return observation, *jax.lax.scan(one_step, state, jax.random.split(key_steps, num_steps))[1]

    run = jax.jit(rollout)
    first, observations, reward, terminated, truncated, info = run(params[0], keys[2])
    _check_step_types(environment, params[0], first, observations, reward, terminated, truncated)
    check_finite((first, observations, reward), "an observation or reward")
    assert_close(run(params[0], keys[2])[1:3], (observations, reward), 0.0, "the same key gives other steps")
    if "final_observation" in info:
        goes_on = ~(terminated | truncated)
        claim(
            bool((info["final_observation"][goes_on] == observations[goes_on]).all()),
            "where a rollout goes on, info['final_observation'] is not the observation",
        )
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    together = jax.jit(jax.vmap(rollout, (0, None)))(stacked, keys[2])
    alone = [run(each, keys[2]) for each in params]
    looped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    assert_close(together[:3], looped[:3], rtol, "jax.vmap over tasks differs from a loop", atol=1e-4)


def _check_step_types(environment: Any, params: PyTree, first: PyTree, observations: PyTree, *rest: jax.Array) -> None:
    space = environment.observation_space(params)
    claim(
        first.shape == observations.shape[1:] == tuple(space.shape)
        and first.dtype == observations.dtype == space.dtype,
        f"observations have shapes {first.shape} and {observations.shape[1:]} and dtypes {first.dtype} and "
        f"{observations.dtype}, their space {space.shape} and {space.dtype}",
    )
    contained = jax.vmap(space.contains)(jnp.concatenate([first[None], observations]))
    claim(bool(jnp.all(contained)), "an observation is outside of its space")
    reward, terminated, truncated = rest
    claim(jnp.issubdtype(reward.dtype, jnp.floating), f"a reward has dtype {reward.dtype}, it must be a float")
    for name, ends in (("terminated", terminated), ("truncated", truncated)):
        claim(ends.dtype == bool, f"`{name}` has dtype {ends.dtype}, it must be bool")
    shapes = {leaf.shape for leaf in rest}
    claim(len(shapes) == 1, f"reward, terminated and truncated have shapes {shapes}, they must be scalars")


def check_policy(
    policy: Policy,
    environment: Any,
    params: PyTree,
    key: RandomKey,
    *,
    num_steps: int = 6,
    uses_key: bool = False,
    rtol: float = 1e-4,
) -> None:
    """Run a policy through its contract in an environment.

    Steps in turn are `unroll`. Actions have their space's shape and dtype, and choices are in it; numbers may be beyond
    a box, since environments clip them. Log-probabilities and values are finite. Memories keep their structure, shapes
    and dtypes. The same key gives the same episode.

    Args:
      policy: what is checked.
      environment: in which it acts.
      params: of the environment.
      key: for parameters, actions and steps.
      num_steps: of the episode.
      uses_key: whether decisions are random themselves, as in Thompson sampling; then steps are not compared with
        `unroll`, which splits its key.
      rtol: relative tolerance of all comparisons.

    Raises:
      AssertionError: at the first clause that is violated, naming it.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies
      >>> bandit, sample = environments.bernoulli_bandit(3)
      >>> check_policy(policies.actor_critic(models.gru(4), bandit), bandit, bandit.default_params, jax.random.key(0))
    """
    key_init, key_start, key_run, key_unroll = jax.random.split(key, 4)
    policy_params = init_policy(environment, policy)(key_init)
    run = jax.jit(run_episode(environment, policy, num_steps=num_steps))
    trajectory = run(policy_params, params, key_run)
    actions = trajectory.action
    space = environment.action_space(params)
    claim(
        actions.shape[1:] == tuple(space.shape) and actions.dtype == space.dtype,
        f"actions have shape {actions.shape[1:]} and dtype {actions.dtype}, not {space.shape} and {space.dtype}",
    )
    if hasattr(space, "n"):
        claim(bool(jnp.all(jax.vmap(space.contains)(actions))), "an action is outside of its space")
    check_finite((trajectory.log_prob, trajectory.decisions.value), "a log-probability or value")
    assert_close(run(policy_params, params, key_run), trajectory, 0.0, "the same key gives another episode")
    start = policy.start(policy_params, key_start)
    memory, decisions = jax.jit(policy.unroll)(policy_params, start, trajectory.inputs, key_unroll)
    assert_same_avals(memory, start, "a memory after steps has another structure, shape or dtype than the first one")

    if uses_key:
        return

    def one_step(memory: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        return policy.step(policy_params, memory, inputs, key_unroll)

    stepped = jax.jit(lambda inputs: jax.lax.scan(one_step, start, inputs))(trajectory.inputs)
    assert_close(stepped, (memory, decisions), rtol, "steps in turn differ from `unroll`")
