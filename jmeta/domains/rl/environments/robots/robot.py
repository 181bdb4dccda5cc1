"""From the design of a robot to an environment and a sampler of its tasks: the common part of all robots.

A rollout starts in a pose, a step holds the motors' torques for a while and lets physics run, and the reward is the
robot's own less a small cost of its commands. The task enters here: masses, motor strengths, offsets.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from jmeta.tasks.class_arrays import check_positive
from jmeta.types import RandomKey

from ..environment import Environment, environment
from ..spaces import Box
from .forces import Hinges, at_hinges, together
from .physics import Body, Mechanism, Motion, Push, advance, body
from .ranges import Ranges, RobotParams, middle_of, sampler

__all__ = ["RobotState", "Design", "robot", "driven", "posed"]


class RobotState(NamedTuple):
    """The state of a robot in its rollout.

    Attributes:
      motion: motion of its body.
      time: steps since the rollout's start.
    """

    motion: Motion
    time: Int[Array, ""]


class Design(NamedTuple):
    """The design of a robot.

    Attributes:
      name: name of its environment.
      shape: its links.
      points: rows of `physics.lever` for the points that the world acts on.
      hinges: springs and ranges of its hinges.
      torque: greatest torque of each hinge's motor, in Nm.
      gravity: gravity in m/s².
      dt: length of a step, in s.
      num_substeps: physics steps within a step.
      num_sensors: numbers in an observation.
      start: `(solid, key) -> motion` at the start of a rollout.
      world: `(solid, motion, params) -> push`: forces on the body other than weight and hinges.
      observe: `(solid, motion) -> observation`, without sensor offsets.
      reward: `(solid, before, after, goal) -> reward` of a step, without its cost.
    """

    name: str
    shape: Mechanism
    points: Float[np.ndarray, "points links"]
    hinges: Hinges
    torque: Float[np.ndarray, "hinges"]
    gravity: float
    dt: float
    num_substeps: int
    num_sensors: int
    start: Callable[[Body, RandomKey], Motion]
    world: Callable[[Body, Motion, RobotParams], Push]
    observe: Callable[[Body, Motion], Array]
    reward: Callable[[Body, Motion, Motion, Array], Array]


def robot(design: Design, ranges: Ranges, *, num_steps: int, effort_cost: float) -> tuple[Environment, Partial]:
    """Build the environment of a robot, and a sampler of its tasks.

    Args:
      design: design of the robot.
      ranges: ranges that tasks are drawn from. The environment is the same for all ranges.
      num_steps: time limit of a rollout.
      effort_cost: taken from a step's reward for each motor at full command, as its square; a dead motor is free.

    Returns:
      `(environment, sample)`, with `sample(key) -> RobotParams`.

    Raises:
      ValueError: if `num_steps` is not positive, `effort_cost` is negative, or a range is invalid.

    Example:
      >>> from jmeta.domains.rl.environments.robots.crawler import crawler_design
      >>> from jmeta.domains.rl.environments.robots.ranges import Ranges
      >>> from jmeta.domains.rl.environments.robots.robot import robot
      >>> environment, sample = robot(crawler_design(), Ranges(mass=(2.0, 3.0)), num_steps=50, effort_cost=0.0)
      >>> environment.name
      'crawler'
    """
    check_positive({"num_steps": num_steps})
    if effort_cost < 0:
        raise ValueError(f"effort_cost={effort_cost} is taken from rewards; pass a number of at least 0")
    sizes = {
        "num_links": len(design.shape.lengths),
        "num_motors": len(design.torque),
        "num_sensors": design.num_sensors,
    }

    def reset(key: RandomKey, params: RobotParams) -> tuple[Float[Array, "sensors"], RobotState]:
        solid = body(design.shape, params.mass, design.points)
        motion = design.start(solid, key)
        return design.observe(solid, motion) + params.sensor_offset, RobotState(motion, jnp.zeros((), jnp.int32))

    def step(
        key: RandomKey, state: RobotState, action: Float[Array, "motors"], params: RobotParams
    ) -> tuple[Float[Array, "sensors"], RobotState, Float[Array, ""], Bool[Array, ""]]:
        del key
        solid = body(design.shape, params.mass, design.points)
        command = jnp.clip(action.astype(params.mass.dtype), -1, 1)
        motion = driven(design, solid, state.motion, command, params)
        effort = jnp.where(params.motor_strength > 0, jnp.square(command), 0).sum()
        reward = design.reward(solid, state.motion, motion, params.goal) - effort_cost * effort
        observation = design.observe(solid, motion) + params.sensor_offset
        return observation, RobotState(motion, state.time + 1), reward, jnp.array(False)

    made = environment(
        design.name,
        reset,
        step,
        lambda state, _params: state.time >= num_steps,
        observation_space=Box(-math.inf, math.inf, (design.num_sensors,)),
        action_space=Box(-1.0, 1.0, (len(design.torque),)),
        default_params=middle_of(ranges, **sizes),
    )
    return made, sampler(ranges, **sizes)


def driven(design: Design, solid: Body, motion: Motion, command: Float[Array, "motors"], params: RobotParams) -> Motion:
    """Return the motion after a step in which the motors hold a command, each number in [-1, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots.crawler import crawler_design
      >>> from jmeta.domains.rl.environments.robots.physics import body
      >>> from jmeta.domains.rl.environments.robots.ranges import Ranges, middle_of
      >>> from jmeta.domains.rl.environments.robots.robot import driven
      >>> design = crawler_design()
      >>> params = middle_of(Ranges(), num_links=5, num_motors=4, num_sensors=14)
      >>> solid = body(design.shape, params.mass, design.points)
      >>> driven(design, solid, design.start(solid, jax.random.key(0)), jnp.ones(4), params).position.shape
      (7,)
    """
    torque = jnp.asarray(design.torque, command.dtype) * params.motor_strength * command

    def substep(motion: Motion, _: None) -> tuple[Motion, None]:
        push = together(design.world(solid, motion, params), at_hinges(design.shape, design.hinges, motion, torque))
        return advance(solid, motion, push, gravity=design.gravity, dt=design.dt / design.num_substeps), None

    return jax.lax.scan(substep, motion, length=design.num_substeps)[0]


def posed(bent: Float[np.ndarray, "hinges"], shape: Mechanism, heading: float) -> Float[np.ndarray, "links"]:
    """Return the angles of the links, in the world, with all hinges at given angles.

    Args:
      bent: angles of the hinges.
      shape: the mechanism; the first link of a free one is at `heading`, which an anchored one ignores.

    Example:
      >>> import numpy as np
      >>> from jmeta.domains.rl.environments.robots.physics import Link, mechanism
      >>> from jmeta.domains.rl.environments.robots.robot import posed
      >>> posed(np.array([0.5]), mechanism([Link(1.0, 1.0), Link(1.0, 1.0, parent=0)]), 1.0).tolist()
      [1.0, 1.5]
    """
    if shape.is_anchored:
        return np.linalg.solve(shape.hinges, bent)
    with_heading = np.concatenate([np.eye(1, len(shape.lengths)), shape.hinges])
    return np.linalg.solve(with_heading, np.concatenate([[heading], bent]))
