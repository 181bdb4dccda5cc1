"""Environments: pure functions with the names of gymnax's interface, whose parameters are the task.

A family of tasks is one environment and a sampler `key -> params` of its parameters: arms, transitions, masses. Any
environment of gymnax (1.0 or newer) has these names and may replace an `Environment`, and an `Environment` may be
passed to code written for gymnax.

Reference: Lange, "gymnax: A JAX-based Reinforcement Learning Environment Library", 2022; its interface, not its code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jmeta.types import PyTree, RandomKey

from .spaces import described
from .stepping import as_end, as_reset, as_reward, check_alike

__all__ = ["Environment", "environment"]


class Environment(NamedTuple):
    """An environment whose parameters are the task.

    Attributes:
      name: name of the family.
      reset: `(key, params) -> (observation, state)`, the start of a rollout.
      step: `(key, state, action, params) -> (observation, state, reward, terminated, truncated, info)`. Where a rollout
        ends, by its rules (`terminated`) or its time limit (`truncated`), observation and state are those at the start
        of the next one, and `info["final_observation"]` is the last observation of the one that ended.
      reset_env: the same as `reset`.
      step_env: `(key, state, action, params) -> (observation, state, reward, terminated, info)`, without a time limit
        and without a restart.
      observation_space: `params -> space`: a `Discrete`, a `Box`, or a dictionary or tuple of spaces.
      action_space: `params -> space`, a `Discrete` or a `Box` of floating-point numbers of any shape, whose bounds may
        depend on the parameters.
      default_params: example parameters; mostly used for their shapes.
    """

    name: str
    reset: Callable[[RandomKey, PyTree], tuple[PyTree, PyTree]]
    step: Callable[[RandomKey, PyTree, PyTree, PyTree], tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]]
    reset_env: Callable[[RandomKey, PyTree], tuple[PyTree, PyTree]]
    step_env: Callable[[RandomKey, PyTree, PyTree, PyTree], tuple[PyTree, PyTree, Array, Array, dict[str, Any]]]
    observation_space: Callable[[PyTree], Any]
    action_space: Callable[[PyTree], Any]
    default_params: PyTree


def environment(
    name: str,
    reset: Callable[[RandomKey, PyTree], tuple[PyTree, PyTree]],
    step: Callable[[RandomKey, PyTree, PyTree, PyTree], tuple[PyTree, PyTree, Array, Array]],
    is_truncated: Callable[[PyTree, PyTree], Array],
    *,
    observation_space: Any,
    action_space: Any,
    default_params: PyTree,
) -> Environment:
    """Build an environment from a start, a step and a time limit.

    Args:
      name: name of the family.
      reset: `(key, params) -> (observation, state)`.
      step: `(key, state, action, params) -> (observation, state, reward, terminated)`; the state counts its time. The
        reward is a scalar and `terminated` a bool; Python's own `1.0` and `False` will do.
      is_truncated: `(state, params) -> bool`, whether the state is at the time limit.
      observation_space, action_space: spaces for all parameters, or functions `params -> space`.
      default_params: example parameters.

    Returns:
      The environment; where a rollout ends, its `step` continues at the start of the next one.

    Raises:
      ValueError: at trace time if one of the functions returns anything else.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl.environments import Box, Discrete
      >>> walk = environment(
      ...     "walk", lambda key, length: (jnp.float32(0), jnp.int32(0)),
      ...     lambda key, at, action, length: (jnp.float32(at + 1), at + 1, jnp.float32(1), at + 1 == length),
      ...     lambda at, length: at >= 100, observation_space=Box(0.0, 100.0, ()), action_space=Discrete(2),
      ...     default_params=3)
      >>> key, (observation, state) = jax.random.key(0), walk.reset(jax.random.key(0), 2)
      >>> for _ in range(2):
      ...     observation, state, reward, terminated, truncated, info = walk.step(key, state, 0, 2)
      >>> bool(terminated), int(state), float(info["final_observation"])
      (True, 0, 2.0)
    """

    def step_env(
        key: RandomKey, state: PyTree, action: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree, Array, Array, dict[str, Any]]:
        what, returned = f"the step of {name}", step(key, state, action, params)
        if not isinstance(returned, tuple | list) or len(returned) != 4:
            raise ValueError(
                f"{what} returns {described(returned)}; expected a tuple of 4, (observation, state, reward, terminated)"
            )
        observation, after, reward, terminated = returned
        return observation, after, as_reward(reward, what), as_end(terminated, "terminated", what), {}

    def start(key: RandomKey, params: PyTree) -> tuple[PyTree, PyTree]:
        return as_reset(reset(key, params), f"the reset of {name}")

    def step_and_start_anew(
        key: RandomKey, state: PyTree, action: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]:
        key_step, key_reset = jax.random.split(key)
        last, after, reward, terminated, _ = step_env(key_step, state, action, params)
        truncated = as_end(is_truncated(after, params), "truncated", f"is_truncated of {name}")
        new, old = start(key_reset, params), (last, after)
        check_alike(new, old, f"the reset of {name} makes an observation and a state", "its step", dtypes=False)
        is_over = terminated | truncated
        observation, state = jax.tree.map(lambda new, old: jnp.where(is_over, new, old), new, old)
        return observation, state, reward, terminated, truncated, {"final_observation": last}

    return Environment(
        name=name,
        reset=start,
        step=step_and_start_anew,
        reset_env=start,
        step_env=step_env,
        observation_space=observation_space if callable(observation_space) else lambda _: observation_space,
        action_space=action_space if callable(action_space) else lambda _: action_space,
        default_params=default_params,
    )
