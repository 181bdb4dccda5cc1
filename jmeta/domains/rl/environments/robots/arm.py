"""The arm: three links that hang from a fixed shoulder, and a hidden place for its tip to find.

It is the smallest of the robots, and adaptation helps it most: the reward gives the distance from tip to goal, a few of
these distances determine the goal, and the torques that hold the arm there depend on its masses.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmeta.types import RandomKey

from ..environment import Environment
from .forces import Hinges, hinge_speeds
from .physics import GRAVITY, Body, Link, Motion, Push, lever, mechanism, places
from .ranges import Ranges, RobotParams
from .robot import Design, posed, robot

__all__ = ["GOAL_DISTANCE", "ANYWHERE", "arm", "arm_design"]

GOAL_DISTANCE = 0.7  # m, of the goal from the shoulder; the arm is 1 m long

ANYWHERE = Ranges(goal=((-math.pi, math.pi),), friction=(0.0, 0.0))
"""Goals all around the shoulder; everything else is fixed."""

_SHAPE = mechanism([Link(0.4, 0.8), Link(0.35, 0.6, parent=0), Link(0.25, 0.3, parent=1)], is_anchored=True)
_HINGES = Hinges(
    rest=np.array([-math.pi / 2, 0.0, 0.0]),
    low=np.array([-4.0, -2.4, -2.4]),
    high=np.array([4.0, 2.4, 2.4]),
    stiffness=0.0,
    damping=np.array([0.8, 0.35, 0.1]),
)


def arm(ranges: Ranges = ANYWHERE, *, num_steps: int = 50, effort_cost: float = 0.01) -> tuple[Environment, Partial]:
    """Build an arm that reaches for a hidden goal, with a reward of minus the tip's distance from it, in m.

    Observations are sines and cosines of the links' angles in the world, and their hinges' speeds. Actions are the
    motors' torques as fractions of their limits, 16, 7 and 2 Nm; holding out the arm takes 7.5, 2.4 and 0.4 Nm. A step
    is 0.05 s. Rollouts start with the arm hanging down, with a little noise, and end by time alone.

    Args:
      ranges: ranges of the tasks. The goal is an angle, in rad, of 0 to the right and π/2 above, 0.7 m from the
        shoulder; the hinges' damping is 1 + `friction` times their own.
      num_steps: time limit of a rollout.
      effort_cost: taken from a step's reward for each motor, times its squared action.

    Returns:
      `(environment, sample)`, with `sample(key) -> RobotParams`.

    Raises:
      ValueError: if a number or a range is invalid.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots import arm
      >>> environment, sample = arm()
      >>> params = sample(jax.random.key(0))._replace(goal=jnp.float32(-jnp.pi / 2))
      >>> observation, state = jax.jit(environment.reset)(jax.random.key(1), params)
      >>> observation, state, reward, *_ = jax.jit(environment.step)(jax.random.key(2), state, jnp.zeros(3), params)
      >>> observation.shape, round(float(reward), 1)  # the tip hangs 0.3 m below that goal
      ((9,), -0.3)
    """
    return robot(arm_design(), ranges, num_steps=num_steps, effort_cost=effort_cost)


def arm_design() -> Design:
    """Return the arm's body, senses and reward; see `arm`.

    Example:
      >>> from jmeta.domains.rl.environments.robots.arm import arm_design
      >>> arm_design().shape.is_anchored
      True
    """

    def start(solid: Body, key: RandomKey) -> Motion:
        noise = 0.1 * jax.random.normal(key, (3,), solid.mass.dtype)
        position = jnp.asarray(posed(_HINGES.rest, _SHAPE, 0.0), solid.mass.dtype) + noise
        return Motion(position, jnp.zeros_like(position))

    def observe(solid: Body, motion: Motion) -> Float[Array, "9"]:
        del solid
        speeds = 0.1 * hinge_speeds(_SHAPE, motion.velocity)
        return jnp.concatenate([jnp.sin(motion.position), jnp.cos(motion.position), speeds])

    def world(solid: Body, motion: Motion, params: RobotParams) -> Push:
        del solid
        own_damping = _SHAPE.hinges.T @ np.diag(_HINGES.damping) @ _SHAPE.hinges
        return Push(jnp.zeros_like(motion.position), params.friction * jnp.asarray(own_damping, motion.position.dtype))

    def rewarded(solid: Body, before: Motion, after: Motion, goal: Float[Array, ""]) -> Float[Array, ""]:
        del before
        away = places(solid, after, solid.levers)[0] - GOAL_DISTANCE * jnp.stack([jnp.cos(goal), jnp.sin(goal)])
        return -jnp.sqrt(jnp.square(away).sum() + 1e-12)  # differentiable at the goal

    return Design(
        name="arm",
        shape=_SHAPE,
        points=lever(_SHAPE, 2, 1.0)[None],
        hinges=_HINGES,
        torque=np.array([16.0, 7.0, 2.0]),
        gravity=GRAVITY,
        dt=0.05,
        num_substeps=8,
        num_sensors=9,
        start=start,
        world=world,
        observe=observe,
        reward=rewarded,
    )
