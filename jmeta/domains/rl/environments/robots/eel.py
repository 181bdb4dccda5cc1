"""The eel: a chain of five links in still water, seen from above, that swims by waves of its body.

It moves because a link is harder to drag across than along. Head and tail are alike: it is its own mirror image.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmeta.types import RandomKey

from ..environment import Environment
from .forces import Hinges, bending, from_water, hinge_speeds
from .physics import Body, Link, Motion, Push, lever, mechanism
from .ranges import Ranges, RobotParams
from .robot import Design, posed, robot

__all__ = ["RIGHT_OR_LEFT", "ALONG", "ACROSS", "MIN_FRICTION", "eel", "eel_design"]

RIGHT_OR_LEFT = Ranges(goal=((0.0, 0.0), (math.pi, math.pi)))
"""Two tasks, which differ in the direction to swim; everything else is fixed."""

ALONG, ACROSS = 0.25, 5.0  # N s/m, drag of a point; a link has two
MIN_FRICTION = 0.1  # with less, a body spins ever faster, until its steps are too coarse

_NUM_LINKS = 5
_SHAPE = mechanism([Link(0.2, 0.2, parent=i - 1) for i in range(_NUM_LINKS)])
_HINGES = Hinges(
    rest=np.zeros(_NUM_LINKS - 1),
    low=np.full(_NUM_LINKS - 1, -1.2),
    high=np.full(_NUM_LINKS - 1, 1.2),
    stiffness=0.3,
    damping=np.full(_NUM_LINKS - 1, 0.05),
)


def eel(
    ranges: Ranges = RIGHT_OR_LEFT, *, num_steps: int = 50, effort_cost: float = 0.01
) -> tuple[Environment, Partial]:
    """Build an eel that swims towards the goal; the reward is its centre of mass's velocity that way, in m/s.

    Observations are sine and cosine of the middle link's angle in the world, the velocity of the centre of mass, and
    the angles and speeds of the hinges. Actions are the motors' torques as fractions of their limit of 1 Nm. A step is
    0.1 s. Rollouts start at rest and straight, the first link to the left, with a little noise, and end by time alone.

    Args:
      ranges: ranges of the tasks. The goal is an angle in rad, of 0 to the right; `friction` is a multiple of the
        water's drag.
      num_steps: time limit of a rollout.
      effort_cost: taken from a step's reward for each motor, times its squared action.

    Returns:
      `(environment, sample)`, with `sample(key) -> RobotParams`.

    Raises:
      ValueError: if a number or a range is invalid.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots import eel
      >>> environment, sample = eel()
      >>> params = sample(jax.random.key(0))
      >>> observation, state = jax.jit(environment.reset)(jax.random.key(1), params)
      >>> observation, state, reward, *_ = jax.jit(environment.step)(jax.random.key(2), state, jnp.ones(4), params)
      >>> observation.shape
      (12,)
    """
    if min(ranges.friction) < MIN_FRICTION:
        raise ValueError(f"friction={ranges.friction}, but water drags: pass multiples of at least {MIN_FRICTION}")
    return robot(eel_design(), ranges, num_steps=num_steps, effort_cost=effort_cost)


def eel_design() -> Design:
    """Return the eel's body, senses and reward; see `eel`.

    Example:
      >>> from jmeta.domains.rl.environments.robots.eel import eel_design
      >>> len(eel_design().points)
      10
    """
    dt = 0.1
    links = np.repeat(np.arange(_NUM_LINKS), 2)
    middle = 2 + _NUM_LINKS // 2

    def start(solid: Body, key: RandomKey) -> Motion:
        noise = 0.1 * jax.random.normal(key, (_NUM_LINKS,), solid.mass.dtype)
        angles = jnp.asarray(posed(_HINGES.rest, _SHAPE, 0.0), solid.mass.dtype) + noise
        position = jnp.concatenate([jnp.zeros_like(angles[:2]), angles])
        return Motion(position, jnp.zeros_like(position))

    def observe(solid: Body, motion: Motion) -> Float[Array, "12"]:
        del solid
        position, velocity = motion
        heading = jnp.stack([jnp.sin(position[middle]), jnp.cos(position[middle])])
        pose = [bending(_SHAPE, _HINGES, position), 0.2 * hinge_speeds(_SHAPE, velocity)]
        return jnp.concatenate([heading, velocity[:2], *pose])

    def world(solid: Body, motion: Motion, params: RobotParams) -> Push:
        return from_water(solid, motion, links, ALONG * params.friction, ACROSS * params.friction)

    def rewarded(solid: Body, before: Motion, after: Motion, goal: Float[Array, ""]) -> Float[Array, ""]:
        del solid
        moved = (after.position[:2] - before.position[:2]) / dt
        return moved[0] * jnp.cos(goal) + moved[1] * jnp.sin(goal)

    return Design(
        name="eel",
        shape=_SHAPE,
        # two points a link, those of Gauss's rule: drag and its moment are as of drag even over the link
        points=np.stack(
            [lever(_SHAPE, link, 0.5 + side / math.sqrt(3)) for link in range(_NUM_LINKS) for side in (-0.5, 0.5)]
        ),
        hinges=_HINGES,
        torque=np.full(_NUM_LINKS - 1, 1.0),
        gravity=0.0,
        dt=dt,
        num_substeps=10,
        num_sensors=12,
        start=start,
        world=world,
        observe=observe,
        reward=rewarded,
    )
