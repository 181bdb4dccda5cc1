"""Observations together with the preceding ones, so that a policy sees whole transitions at once."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.types import PyTree, RandomKey

from .environment import Environment
from .spaces import Box, as_vector, num_features, vector_bounds

__all__ = ["with_previous_observation"]


def with_previous_observation(environment: Any) -> Environment:
    """Wrap an environment to observe `[oₜ, oₜ₋₁]`, as vectors; choices are one-hot, pixels in [0, 1].

    A policy sees the result and reward of an action, and must remember where it was taken. With both observations, a
    step's input is a whole transition, and the question "what was the reward of this action in this state?" takes one
    layer of attention instead of two that must find each other: this is how random tabular MDPs are learned.

    Args:
      environment: the environment to wrap, also one of gymnax.

    Returns:
      The same environment with other observations. An episode's first observation is preceded by zeros; a later
      rollout's first one is preceded by the observation at which the last rollout's last action was taken. States are
      pairs of the last observation and the environment's own state.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments
      >>> mdp, sample = environments.tabular_mdp(num_states=3, num_actions=2)
      >>> mdp, params = with_previous_observation(mdp), sample(jax.random.key(0))
      >>> observation, state = mdp.reset(jax.random.key(1), params)
      >>> observation.tolist()
      [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
      >>> observation, state, *_ = mdp.step(jax.random.key(2), state, 1, params)
      >>> observation[3:].tolist()
      [1.0, 0.0, 0.0]

    Reference:
      Mnih et al., "Human-level control through deep reinforcement learning", 2015, Nature 518: stacked frames, here two
      of them and over the ends of rollouts.
    """
    space = environment.observation_space(environment.default_params)
    count = num_features(space)
    lowest, highest = vector_bounds(space)
    both = Box(min(lowest, 0.0), max(highest, 0.0), (2 * count,))  # zeros precede the first

    def joined(observation: PyTree, previous: Array) -> Float[Array, " features"]:
        return jnp.concatenate([as_vector(observation, space), previous])

    def after_nothing(started: tuple[PyTree, PyTree]) -> tuple[Array, tuple[Array, PyTree]]:
        observation, state = started
        return joined(observation, jnp.zeros((count,), jnp.float32)), (as_vector(observation, space), state)

    def step(key: RandomKey, state: tuple[Array, PyTree], action: PyTree, params: PyTree) -> Any:
        previous, inner = state
        observation, inner, reward, terminated, truncated, info = environment.step(key, inner, action, params)
        if "final_observation" in info:
            info = info | {"final_observation": joined(info["final_observation"], previous)}
        state = (as_vector(observation, space), inner)
        return joined(observation, previous), state, reward, terminated, truncated, info

    def step_env(key: RandomKey, state: tuple[Array, PyTree], action: PyTree, params: PyTree) -> Any:
        previous, inner = state
        observation, inner, reward, terminated, info = environment.step_env(key, inner, action, params)
        return joined(observation, previous), (as_vector(observation, space), inner), reward, terminated, info

    return Environment(
        name=environment.name,
        reset=lambda key, params: after_nothing(environment.reset(key, params)),
        step=step,
        reset_env=lambda key, params: after_nothing(environment.reset_env(key, params)),
        step_env=step_env,
        observation_space=lambda _: both,
        action_space=environment.action_space,
        default_params=environment.default_params,
    )
