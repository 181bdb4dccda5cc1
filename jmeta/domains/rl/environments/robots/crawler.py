"""The crawler: a torso on two legs of two links, 7 degrees of freedom and 4 motors, that runs on the ground.

It cannot fall far, so a bad gait is slow but does not end the rollout. It is its own mirror image.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmeta.types import RandomKey

from ..environment import Environment
from .forces import Hinges, bending, from_ground, hinge_speeds
from .physics import GRAVITY, Body, Link, Motion, lever, mechanism, places
from .ranges import Ranges
from .robot import Design, posed, robot

__all__ = [
    "FORWARD_OR_BACKWARD",
    "DAMAGED",
    "DAMAGED_OTHERWISE",
    "Reward",
    "progress",
    "on_speed",
    "crawler",
    "crawler_design",
]

FORWARD_OR_BACKWARD = Ranges(goal=((-1.0, -1.0), (1.0, 1.0)), friction=(0.8, 0.8))
"""Two tasks, which differ in the direction to go; everything else is fixed."""

DAMAGED = Ranges(
    goal=((-1.0, -1.0), (1.0, 1.0)),
    mass=(0.6, 1.6),
    friction=(0.4, 1.0),
    motor_strength=(0.7, 1.3),
    dead_motor=(-1, 0, 1),
    sensor_offset=(-0.1, 0.1),
)
"""The same two directions, with different bodies: masses, grip, strengths, a dead back hip or knee, wrong sensors."""

DAMAGED_OTHERWISE = DAMAGED._replace(
    mass=(1.6, 2.0), friction=(0.25, 0.4), dead_motor=(2, 3), sensor_offset=(-0.2, 0.2)
)
"""Outside `DAMAGED`: heavier, more slippery, a dead motor in the front leg, larger sensor errors."""

Reward = Callable[[Float[Array, ""], Float[Array, ""]], Float[Array, ""]]
"""`(velocity, goal) -> reward` of a step, before the cost of its action; both in m/s."""

_SHAPE = mechanism(
    [
        Link(0.8, 3.0),
        Link(0.3, 0.5, parent=0, at=0.0),  # back thigh, shin; front thigh, shin
        Link(0.3, 0.3, parent=1),
        Link(0.3, 0.5, parent=0, at=1.0),
        Link(0.3, 0.3, parent=3),
    ]
)
_HINGES = Hinges(
    # thighs lean outwards and shins inwards, so that feet are below the hips
    rest=np.array([-math.pi / 2 - 0.5, 1.0, -math.pi / 2 + 0.5, -1.0]),
    low=np.full(4, -0.9),
    high=np.full(4, 0.9),
    stiffness=25.0,  # stiff enough to stand without control: m g h is 23 Nm/rad
    damping=np.full(4, 0.6),
)


def progress(velocity: Float[Array, ""], goal: Float[Array, ""]) -> Float[Array, ""]:
    """Return goal · velocity: with goals of ±1, the robot's speed in the goal's direction.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots import progress
      >>> float(progress(jnp.float32(2.0), jnp.float32(-1.0)))
      -2.0
    """
    return goal * velocity


def on_speed(velocity: Float[Array, ""], goal: Float[Array, ""]) -> Float[Array, ""]:
    """Return −|velocity − goal|, which is highest at the goal's velocity.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots import on_speed
      >>> float(on_speed(jnp.float32(2.0), jnp.float32(-1.0)))
      -3.0
    """
    return -jnp.abs(velocity - goal)


def crawler(
    ranges: Ranges = FORWARD_OR_BACKWARD, *, reward: Reward = progress, num_steps: int = 50, effort_cost: float = 0.05
) -> tuple[Environment, Partial]:
    """Build a crawler that walks or runs on the ground: in the goal's direction, or at the goal's velocity.

    Observations are the torso's height, its angle as sine and cosine, the velocity of the centre of mass, the torso's
    spin, and the angles and speeds of the hinges (back hip, back knee, front hip, front knee); all are near 1 in size,
    and none reveals the task. Actions are the motors' torques as fractions of their limits, 18 Nm in a hip and 15 Nm in
    a knee. A step is 0.05 s. Rollouts start at rest on the feet, with a little noise, and end by time alone.

    Args:
      ranges: ranges of the tasks. The goal is a velocity to the right, in m/s, or only its sign, see `reward`;
        `friction` is the ground's coefficient. Other ranges make another sampler of the same environment.
      reward: `(velocity, goal) -> reward` of a step: `progress`, `on_speed`, or another.
      num_steps: time limit of a rollout.
      effort_cost: taken from a step's reward for each motor, times its squared action.

    Returns:
      `(environment, sample)`, with `sample(key) -> RobotParams`.

    Raises:
      ValueError: if a number or a range is invalid.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots import Ranges, crawler
      >>> environment, sample = crawler(Ranges(mass=(0.5, 1.5), friction=(0.5, 1.0), dead_motor=(-1, 0)))
      >>> _, sample_heavier = crawler(Ranges(mass=(1.5, 2.0), friction=(0.5, 1.0), dead_motor=(3,)))
      >>> params = sample(jax.random.key(0))
      >>> observation, state = jax.jit(environment.reset)(jax.random.key(1), params)
      >>> observation, state, reward, *_ = jax.jit(environment.step)(jax.random.key(2), state, jnp.zeros(4), params)
      >>> observation.shape, sample_heavier(jax.random.key(0)).motor_strength.tolist()
      ((14,), [1.0, 1.0, 1.0, 0.0])
    """
    return robot(crawler_design(reward), ranges, num_steps=num_steps, effort_cost=effort_cost)


def crawler_design(reward: Reward = progress) -> Design:
    """Return the crawler's body, senses and reward; see `crawler`.

    Example:
      >>> from jmeta.domains.rl.environments.robots.crawler import crawler_design
      >>> float(crawler_design().shape.masses.sum())
      4.6
    """
    touching = [(0, 0.0), (0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]  # ends of the torso, knees, feet
    dt = 0.05

    def start(solid: Body, key: RandomKey) -> Motion:
        key_pose, key_speed = jax.random.split(key)
        dtype = solid.mass.dtype
        angles = jnp.asarray(posed(_HINGES.rest, _SHAPE, 0.0), dtype) + 0.05 * jax.random.normal(key_pose, (5,), dtype)
        position = jnp.concatenate([jnp.zeros(2, dtype), angles])
        velocity = 0.05 * jax.random.normal(key_speed, (7,), dtype)
        lowest = places(solid, Motion(position, velocity), solid.levers)[:, 1].min()
        return Motion(position.at[1].set(-lowest), velocity)

    def observe(solid: Body, motion: Motion) -> Float[Array, "14"]:
        position, velocity = motion
        middle = solid.start + jnp.asarray(lever(_SHAPE, 0, 0.5), position.dtype)
        height = places(solid, motion, middle[None])[0, 1]
        torso = [height, jnp.sin(position[2]), jnp.cos(position[2]), velocity[0], velocity[1], 0.2 * velocity[2]]
        pose = [bending(_SHAPE, _HINGES, position), 0.1 * hinge_speeds(_SHAPE, velocity)]
        return jnp.concatenate([jnp.stack(torso), *pose])

    def rewarded(solid: Body, before: Motion, after: Motion, goal: Float[Array, ""]) -> Float[Array, ""]:
        del solid
        return reward((after.position[0] - before.position[0]) / dt, goal)

    return Design(
        name="crawler",
        shape=_SHAPE,
        points=np.stack([lever(_SHAPE, link, at) for link, at in touching]),
        hinges=_HINGES,
        torque=np.array([18.0, 15.0, 18.0, 15.0]),
        gravity=GRAVITY,
        dt=dt,
        num_substeps=10,
        num_sensors=14,
        start=start,
        world=lambda solid, motion, params: from_ground(solid, motion, params.friction),
        observe=observe,
        reward=rewarded,
    )
