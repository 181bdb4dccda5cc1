"""What an environment is: pure functions under the names of gymnax's interface, its parameters being the task.

A family of tasks is one environment and a sampler `key -> params` of its parameters: arms, transitions, masses. Any
environment of gymnax (1.0 or newer) has these names and may stand in for an `Environment`, and an `Environment` may be
given to code that was written for gymnax.

Reference: Lange, "gymnax: A JAX-based Reinforcement Learning Environment Library", 2022; its interface, not its code.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jmeta.types import PyTree, RandomKey


class Discrete(NamedTuple):
    """The numbers 0 .. n-1.

    Example:
      >>> import jax
      >>> space = Discrete(5)
      >>> bool(space.contains(space.sample(jax.random.key(0))))
      True
    """

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one element: a scalar."""
        return ()

    @property
    def dtype(self) -> Any:
        """int32."""
        return jnp.int32

    def sample(self, key: RandomKey) -> Int[Array, ""]:
        """One of them, all alike."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def contains(self, x: Array) -> Bool[Array, ""]:
        """Whether `x` is one of them."""
        return (x >= 0) & (x < self.n)


class Box(NamedTuple):
    """Arrays of one shape, every number of which is between `low` and `high`; either may be infinite.

    Example:
      >>> import jax
      >>> space = Box(-1.0, 1.0, (2,))
      >>> space.sample(jax.random.key(0)).shape
      (2,)
    """

    low: float
    high: float
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Any:
        """float32."""
        return jnp.float32

    def sample(self, key: RandomKey) -> Float[Array, "..."]:
        """Uniform in a bounded box, and else normal."""
        if math.isfinite(self.low) and math.isfinite(self.high):
            return jax.random.uniform(key, self.shape, jnp.float32, self.low, self.high)
        return jnp.clip(jax.random.normal(key, self.shape, jnp.float32), self.low, self.high)

    def contains(self, x: Array) -> Bool[Array, ""]:
        """Whether all numbers of `x` are within the bounds."""
        return jnp.all((x >= self.low) & (x <= self.high))


Space = Discrete | Box


def as_vector(value: Array, space: Any) -> Float[Array, "*steps features"]:
    """An element of a space as a vector: one-hot if it is a choice, and else its numbers; steps come first.

    Example:
      >>> import jax.numpy as jnp
      >>> as_vector(jnp.array([2, -1]), Discrete(3)).tolist()
      [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    if hasattr(space, "n"):
        return jax.nn.one_hot(value, int(space.n), dtype=jnp.float32)
    batch = value.shape[: value.ndim - len(space.shape)]
    return value.reshape(*batch, math.prod(space.shape)).astype(jnp.float32)


def num_features(space: Any) -> int:
    """How many numbers `as_vector` makes of an element of a space.

    Example:
      >>> num_features(Box(0.0, 1.0, (2, 3))), num_features(Discrete(5))
      (6, 5)
    """
    return int(space.n) if hasattr(space, "n") else math.prod(space.shape)


class Environment(NamedTuple):
    """An environment whose parameters are the task.

    Attributes:
      name: of the family.
      reset: `(key, params) -> (observation, state)`, the start of a rollout.
      step: `(key, state, action, params) -> (observation, state, reward, terminated, truncated, info)`. Where a rollout
        ends, by its rules (`terminated`) or its time limit (`truncated`), observation and state are those of the next
        one's start, and `info["final_observation"]` is the last observation of the one that ended.
      reset_env: as `reset`.
      step_env: `(key, state, action, params) -> (observation, state, reward, terminated, info)`, without time limit and
        without a new start.
      observation_space: `params -> Discrete | Box`.
      action_space: `params -> Discrete | Box`.
      default_params: some parameters; of most use for their shapes.
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
    """An environment of a start, a step and a time limit.

    Args:
      name: of the family.
      reset: `(key, params) -> (observation, state)`.
      step: `(key, state, action, params) -> (observation, state, reward, terminated)`; the state counts its time.
      is_truncated: `(state, params) -> bool`, whether the state is at the time limit.
      observation_space, action_space: of all parameters.
      default_params: some parameters.

    Returns:
      The environment; where a rollout ends, its `step` goes on at the next one's start.

    Example:
      >>> import jax, jax.numpy as jnp
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
        return *step(key, state, action, params), {}

    def step_and_start_anew(
        key: RandomKey, state: PyTree, action: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]:
        key_step, key_reset = jax.random.split(key)
        last, after, reward, terminated = step(key_step, state, action, params)
        truncated = is_truncated(after, params)
        start = reset(key_reset, params)
        is_over = terminated | truncated
        observation, state = jax.tree.map(lambda new, old: jnp.where(is_over, new, old), start, (last, after))
        return observation, state, reward, terminated, truncated, {"final_observation": last}

    return Environment(
        name=name,
        reset=reset,
        step=step_and_start_anew,
        reset_env=reset,
        step_env=step_env,
        observation_space=lambda _: observation_space,
        action_space=lambda _: action_space,
        default_params=default_params,
    )
