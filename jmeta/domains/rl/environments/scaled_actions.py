"""Actions in units of what an environment allows, so that a policy of standard deviation 1 is a sensible beginning."""

from typing import Any

import jax.numpy as jnp

from jmeta.types import PyTree, RandomKey

from .environment import Box, Environment


def scaled_actions(environment: Environment) -> Environment:
    """The environment with actions in [−1, 1], which stand for its lowest to its highest; others are clipped.

    On point navigation with velocities of at most 0.1, a normal policy of standard deviation 1 chooses between little
    else than the two extremes; after scaling, two thirds of its actions are between them. Returns after adaptation
    depend on it.

    Args:
      environment: with a bounded `Box` of actions.

    Raises:
      ValueError: if its actions are no bounded box.

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
    space: Any = environment.action_space(environment.default_params)
    if not isinstance(space, Box) or not (-jnp.inf < space.low < space.high < jnp.inf):
        raise ValueError(f"scaled_actions needs a bounded Box of actions, but {environment.name} has {space}")

    def unscaled(action: PyTree) -> PyTree:
        return space.low + 0.5 * (jnp.clip(action, -1, 1) + 1) * (space.high - space.low)

    def step(key: RandomKey, state: PyTree, action: PyTree, params: PyTree) -> Any:
        return environment.step(key, state, unscaled(action), params)

    def step_env(key: RandomKey, state: PyTree, action: PyTree, params: PyTree) -> Any:
        return environment.step_env(key, state, unscaled(action), params)

    return environment._replace(step=step, step_env=step_env, action_space=lambda _: Box(-1.0, 1.0, space.shape))
