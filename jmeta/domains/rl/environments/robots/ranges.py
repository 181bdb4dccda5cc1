"""The differences between tasks of one robot, and samplers that draw them from ranges.

Training tasks and test tasks outside of them, heavier ones for example, are two ranges of one robot.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jmeta.types import RandomKey

__all__ = ["Range", "RobotParams", "Ranges", "sampler", "middle_of"]

Range = tuple[float, float]


class RobotParams(NamedTuple):
    """A task, hidden from the robot: observations reveal it only through the results of actions.

    Attributes:
      goal: the goal; see the robot for its meaning and unit.
      mass: mass of each link, as a multiple of the robot's own.
      friction: friction coefficient of the ground, or another resistance; see the robot.
      motor_strength: strength of each motor, as a multiple of the robot's own; 0 for a dead one.
      sensor_offset: offset added to each number of the observation.
    """

    goal: Float[Array, ""]
    mass: Float[Array, "links"]
    friction: Float[Array, ""]
    motor_strength: Float[Array, "motors"]
    sensor_offset: Float[Array, "sensors"]


class Ranges(NamedTuple):
    """The bounds between which tasks are drawn, each number uniformly.

    Attributes:
      goal: intervals, each (lowest, highest); a goal comes from one of them, all equally likely. Equal bounds make an
        interval one value: `((-1.0, -1.0), (1.0, 1.0))` is backward or forward.
      mass: multiples of each link's mass, link by link.
      friction: friction of the ground.
      motor_strength: multiples of each motor's strength, motor by motor.
      dead_motor: numbers of motors that may be dead; one of them is, all equally likely. -1 stands for none, so
        `(-1, 0, 1)` kills none, motor 0 or motor 1.
      sensor_offset: offset of each number of the observation.

    Example:
      >>> from jmeta.domains.rl.environments.robots.ranges import Ranges
      >>> Ranges()._replace(mass=(0.5, 2.0), dead_motor=(2,)).mass
      (0.5, 2.0)
    """

    goal: tuple[Range, ...] = ((1.0, 1.0),)
    mass: Range = (1.0, 1.0)
    friction: Range = (1.0, 1.0)
    motor_strength: Range = (1.0, 1.0)
    dead_motor: tuple[int, ...] = (-1,)
    sensor_offset: Range = (0.0, 0.0)


def sampler(ranges: Ranges, *, num_links: int, num_motors: int, num_sensors: int) -> Partial:
    """Build a sampler of a robot's tasks.

    Args:
      ranges: ranges to draw from.
      num_links, num_motors, num_sensors: sizes of the robot.

    Returns:
      `sample(key) -> RobotParams`, float32.

    Raises:
      ValueError: if a range is empty or not physical, or a motor does not exist.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl.environments.robots.ranges import Ranges, sampler
      >>> sample = sampler(Ranges(mass=(0.5, 2.0), dead_motor=(0, 1)), num_links=3, num_motors=2, num_sensors=4)
      >>> params = sample(jax.random.key(0))
      >>> params.mass.shape, float(params.motor_strength.sum())
      ((3,), 1.0)
    """
    return Partial(_FromRanges(_checked(ranges, num_motors), num_links, num_motors, num_sensors))


def middle_of(ranges: Ranges, *, num_links: int, num_motors: int, num_sensors: int) -> RobotParams:
    """Return the task in the middle of ranges, with the first goal and no dead motor; errors are those of `sampler`.

    Example:
      >>> from jmeta.domains.rl.environments.robots.ranges import Ranges, middle_of
      >>> float(middle_of(Ranges(friction=(0.5, 1.0)), num_links=3, num_motors=2, num_sensors=4).friction)
      0.75
    """
    ranges = _checked(ranges, num_motors)

    def middle(bounds: Range, shape: tuple[int, ...]) -> Array:
        return jnp.full(shape, 0.5 * (bounds[0] + bounds[1]), jnp.float32)

    return RobotParams(
        goal=middle(ranges.goal[0], ()),
        mass=middle(ranges.mass, (num_links,)),
        friction=middle(ranges.friction, ()),
        motor_strength=middle(ranges.motor_strength, (num_motors,)),
        sensor_offset=middle(ranges.sensor_offset, (num_sensors,)),
    )


@dataclass(frozen=True)
class _FromRanges:
    ranges: Ranges
    num_links: int
    num_motors: int
    num_sensors: int

    def __call__(self, key: RandomKey) -> RobotParams:
        keys = jax.random.split(key, 7)
        interval = jnp.asarray(self.ranges.goal, jnp.float32)[jax.random.randint(keys[0], (), 0, len(self.ranges.goal))]
        dead = jnp.asarray(self.ranges.dead_motor)[jax.random.randint(keys[1], (), 0, len(self.ranges.dead_motor))]
        strength = _uniform(keys[2], self.ranges.motor_strength, (self.num_motors,))
        return RobotParams(
            goal=jax.random.uniform(keys[3], (), jnp.float32, interval[0], interval[1]),
            mass=_uniform(keys[4], self.ranges.mass, (self.num_links,)),
            friction=_uniform(keys[5], self.ranges.friction, ()),
            motor_strength=jnp.where(jnp.arange(self.num_motors) == dead, 0, strength),
            sensor_offset=_uniform(keys[6], self.ranges.sensor_offset, (self.num_sensors,)),
        )


def _checked(ranges: Ranges, num_motors: int) -> Ranges:
    """Convert ranges to floats: equal ranges are then equal, and a jitted function of their samplers compiles once."""
    named = {"mass": ranges.mass, "friction": ranges.friction, "motor_strength": ranges.motor_strength}
    goals = {f"goal[{i}]": bounds for i, bounds in enumerate(ranges.goal)}
    for name, (low, high) in {**named, **goals, "sensor_offset": ranges.sensor_offset}.items():
        if not low <= high:
            raise ValueError(f"{name}=({low}, {high}) is an empty range; pass (lowest, highest)")
    for name, (low, _) in named.items():
        if low < 0 or (low == 0 and name == "mass"):
            raise ValueError(f"{name} starts at {low}; masses are positive, friction and strength at least 0")
    if not ranges.goal or not ranges.dead_motor:
        raise ValueError("goal and dead_motor name at least one choice each; dead_motor=(-1,) is no dead motor")
    if not all(-1 <= motor < num_motors for motor in ranges.dead_motor):
        raise ValueError(f"dead_motor={ranges.dead_motor}, but motors are 0 to {num_motors - 1}, and -1 is none")
    return Ranges(
        goal=tuple(_pair(bounds) for bounds in ranges.goal),
        mass=_pair(ranges.mass),
        friction=_pair(ranges.friction),
        motor_strength=_pair(ranges.motor_strength),
        dead_motor=tuple(ranges.dead_motor),
        sensor_offset=_pair(ranges.sensor_offset),
    )


def _pair(bounds: tuple[Any, Any]) -> Range:
    return float(bounds[0]), float(bounds[1])


def _uniform(key: RandomKey, bounds: Range, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, jnp.float32, *bounds)
