"""The crawler: a torso on two legs of two links, 7 degrees of freedom and 4 motors, that walks and hops on the ground.

It cannot fall far, so that a bad gait is slow and not the end. The robot is its own mirror image.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from ...tasks.class_arrays import check_positive
from ...types import RandomKey
from ..environment import Box, Environment, environment
from .forces import Hinges, at_hinges, bending, from_ground, hinge_speeds, together
from .physics import GRAVITY, Body, Link, Motion, advance, body, lever, mechanism, places
from .ranges import Ranges, RobotParams, middle_of, sampler

DT = 0.05  # s, of a step
NUM_SUBSTEPS = 10
TORQUE = np.array([18.0, 15.0, 18.0, 15.0])  # Nm, of back hip, back knee, front hip, front knee
SHAPE = mechanism(
    [
        Link(0.8, 3.0),
        Link(0.3, 0.5, parent=0, at=0.0),
        Link(0.3, 0.3, parent=1),
        Link(0.3, 0.5, parent=0, at=1.0),
        Link(0.3, 0.3, parent=3),
    ]
)
HINGES = Hinges(
    # thighs lean outwards and shins inwards, in mirror image
    rest=np.array([-math.pi / 2 - 0.5, 1.0, -math.pi / 2 + 0.5, -1.0]),
    low=np.array([-0.9, -0.9, -0.9, -0.9]),
    high=np.array([0.9, 0.9, 0.9, 0.9]),
    stiffness=25.0,
    damping=0.6,
)
TOUCHING = np.stack([lever(SHAPE, *point) for point in [(0, 0.0), (0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]])
NUM_SENSORS = 14

WAYS = Ranges(goal=((-1.0, -1.0), (1.0, 1.0)), friction=(0.8, 0.8))
"""Backward or forward; all else alike."""

Reward = Callable[[Float[Array, ""], Float[Array, ""]], Float[Array, ""]]
"""`(velocity, goal) -> reward` of a step, before the cost of its action; both in m/s."""


class RobotState(NamedTuple):
    """Where the robot is in its rollout.

    Attributes:
      motion: of its body.
      time: steps since the rollout's start.
    """

    motion: Motion
    time: Int[Array, ""]


def progress(velocity: Float[Array, ""], goal: Float[Array, ""]) -> Float[Array, ""]:
    """goal · velocity: with goals of ±1 m/s, how fast the robot goes its way.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.environments.robots.crawler import progress
      >>> float(progress(jnp.float32(2.0), jnp.float32(-1.0)))
      -2.0
    """
    return goal * velocity


def on_speed(velocity: Float[Array, ""], goal: Float[Array, ""]) -> Float[Array, ""]:
    """−|velocity − goal|: how well the robot keeps to a velocity.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.environments.robots.crawler import on_speed
      >>> float(on_speed(jnp.float32(2.0), jnp.float32(-1.0)))
      -3.0
    """
    return -jnp.abs(velocity - goal)


def crawler(
    ranges: Ranges = WAYS, *, reward: Reward = progress, num_steps: int = 100, effort_cost: float = 0.05
) -> tuple[Environment, Partial]:
    """doc"""
    check_positive({"num_steps": num_steps})

    def observe(motion: Motion, solid: Body, params: RobotParams) -> Float[Array, "sensors"]:
        q, v = motion.position, motion.velocity
        middle = solid.start + jnp.asarray(lever(SHAPE, 0, 0.5), q.dtype)
        height = places(solid, motion, middle[None])[0, 1]
        ground = jnp.stack([height, jnp.sin(q[2]), jnp.cos(q[2]), v[0], v[1], 0.2 * v[2]])
        pose = jnp.concatenate([bending(SHAPE, HINGES, q), 0.1 * hinge_speeds(SHAPE, v)])
        return jnp.concatenate([ground, pose]) + params.sensor_offset

    def reset(key: RandomKey, params: RobotParams) -> tuple[Float[Array, "sensors"], RobotState]:
        solid = body(SHAPE, params.mass, TOUCHING)
        dtype = params.mass.dtype
        key_bend, key_speed = jax.random.split(key)
        noise = jnp.concatenate([jnp.zeros(2, dtype), 0.05 * jax.random.normal(key_bend, (5,), dtype)])
        angles = np.concatenate([[0.0, 0.0, 0.0], np.linalg.solve(SHAPE.hinges[:, 1:], HINGES.rest)])
        position = jnp.asarray(angles, dtype) + noise
        velocity = 0.05 * jax.random.normal(key_speed, (7,), dtype)
        lowest = places(solid, Motion(position, velocity), solid.levers)[:, 1].min()
        motion = Motion(position.at[1].set(-lowest), velocity)
        return observe(motion, solid, params), RobotState(motion, jnp.zeros((), jnp.int32))

    def step(key, state: RobotState, action, params: RobotParams):
        del key
        solid = body(SHAPE, params.mass, TOUCHING)
        dtype = params.mass.dtype
        action = jnp.clip(action.astype(dtype), -1, 1)
        torque = jnp.asarray(TORQUE, dtype) * params.motor_strength * action

        def one(_, motion):
            push = together(from_ground(solid, motion, params.friction), at_hinges(SHAPE, HINGES, motion, torque))
            return advance(solid, motion, push, gravity=GRAVITY, dt=DT / NUM_SUBSTEPS)

        motion = jax.lax.fori_loop(0, NUM_SUBSTEPS, one, state.motion)
        velocity = (motion.position[0] - state.motion.position[0]) / DT
        gained = reward(velocity, params.goal) - effort_cost * jnp.square(action).sum()
        return observe(motion, solid, params), RobotState(motion, state.time + 1), gained, jnp.array(False)

    sizes = {"num_links": 5, "num_motors": 4, "num_sensors": 14}
    made = environment(
        "crawler",
        reset,
        step,
        lambda state, _params: state.time >= num_steps,
        observation_space=Box(-math.inf, math.inf, (14,)),
        action_space=Box(-1.0, 1.0, (4,)),
        default_params=middle_of(ranges, **sizes),
    )
    return made, sampler(ranges, **sizes)
