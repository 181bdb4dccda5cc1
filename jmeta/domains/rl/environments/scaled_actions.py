"""Actions scaled to an environment's bounds, so that a policy of standard deviation 1 is a sensible start."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jmeta.types import PyTree, RandomKey

from .environment import Environment
from .spaces import Box

__all__ = ["scaled_actions"]


def scaled_actions(environment: Any) -> Environment:
    """Map actions in [−1, 1] to the range from the lowest to the highest action of an environment; others are clipped.

    On point navigation with velocities of at most 0.1, a normal policy of standard deviation 1 chooses almost only the
    two extremes; after scaling, two thirds of its actions lie between them. Returns after adaptation depend on it.

    Args:
      environment: an environment with a bounded `Box` of floating-point actions, of any shape, also one of gymnax.
        Bounds may be arrays, and may depend on the task: an action is scaled by the bounds of the current parameters.

    Raises:
      ValueError: if its actions are not a bounded box under the default parameters.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl import environments
      >>> point, sample = environments.point_navigation()
      >>> scaled = scaled_actions(point)
      >>> params = sample(jax.random.key(0))
      >>> observation, state = scaled.reset(jax.random.key(1), params)
      >>> observation, *_ = scaled.step(jax.random.key(2), state, jnp.array([0.5, -7.0]), params)
      >>> [round(x, 3) for x in observation.tolist()]
      [0.05, -0.1]
    """
    default: Any = environment.action_space(environment.default_params)
    if not _is_bounded_box(default):
        raise ValueError(
            f"scaled_actions needs a bounded Box of floating-point actions, but {environment.name} has {default}"
        )

    def unscaled(action: Array, params: PyTree) -> Array:
        space: Any = environment.action_space(params)
        low, high = _bound(space.low, space), _bound(space.high, space)
        return low + 0.5 * (jnp.clip(action, -1, 1) + 1) * (high - low)

    def step(key: RandomKey, state: PyTree, action: Array, params: PyTree) -> Any:
        return environment.step(key, state, unscaled(action, params), params)

    def step_env(key: RandomKey, state: PyTree, action: Array, params: PyTree) -> Any:
        return environment.step_env(key, state, unscaled(action, params), params)

    return Environment(
        name=environment.name,
        reset=environment.reset,
        step=step,
        reset_env=environment.reset_env,
        step_env=step_env,
        observation_space=environment.observation_space,
        action_space=lambda _: Box(-1.0, 1.0, default.shape, default.dtype),
        default_params=environment.default_params,
    )


def _is_bounded_box(space: Any) -> bool:
    if not all(hasattr(space, name) for name in ("low", "high", "shape", "dtype")):
        return False
    if not jnp.issubdtype(space.dtype, jnp.floating):
        return False
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        width = high - low
    return bool(np.isfinite(width).all() and (width >= 0).all() and (width > 0).any())


def _bound(bound: Any, space: Any) -> Any:
    """Return a number unchanged, and an array in the shape of the actions."""
    if isinstance(bound, int | float):
        return bound
    return jnp.broadcast_to(jnp.asarray(bound, space.dtype), space.shape)
