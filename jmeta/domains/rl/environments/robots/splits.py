"""The robots of the recipes: bodies and goals for training, and bodies outside these for testing."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jax.tree_util import Partial

from jmeta.tasks import Source

from ..environment import Environment
from ..source import source
from .arm import ANYWHERE, arm, arm_design
from .crawler import DAMAGED, DAMAGED_OTHERWISE, crawler, crawler_design
from .eel import RIGHT_OR_LEFT, eel, eel_design
from .ranges import Ranges
from .robot import Design

__all__ = ["NUM_STEPS", "Robot", "ROBOTS", "RobotName", "TestedOn", "environment_and_source"]

NUM_STEPS = 50
"""Steps of a rollout."""

RobotName = Literal["crawler", "arm", "eel"]
TestedOn = Literal["held_out", "trained"]
"""Ranges that the bodies of meta_test are drawn from."""


class Robot(NamedTuple):
    """A robot, the ranges it is trained on, and ranges outside of these.

    Attributes:
      make: `(ranges, num_steps=...) -> (environment, sample)`.
      design: design of its body, for drawing it.
      trained: ranges of meta_train and meta_valid.
      held_out: ranges of meta_test.
      outside: the difference between the two, in words.
    """

    make: Callable[..., tuple[Environment, Partial]]
    design: Design
    trained: Ranges
    held_out: Ranges
    outside: str


_STRENGTH = (0.8, 1.2)
ROBOTS: dict[RobotName, Robot] = {
    "crawler": Robot(
        crawler,
        crawler_design(),
        DAMAGED,
        DAMAGED_OTHERWISE,
        "heavier, more slippery, a front motor dead, sensors further off",
    ),
    "arm": Robot(
        arm,
        arm_design(),
        ANYWHERE._replace(mass=(0.7, 1.4), motor_strength=_STRENGTH),
        ANYWHERE._replace(mass=(1.4, 1.7), motor_strength=_STRENGTH),
        "heavier",
    ),
    "eel": Robot(
        eel,
        eel_design(),
        RIGHT_OR_LEFT._replace(mass=(0.7, 1.4), motor_strength=_STRENGTH, friction=(0.6, 1.4), dead_motor=(-1, 0, 1)),
        RIGHT_OR_LEFT._replace(mass=(1.4, 2.0), friction=(1.4, 2.0), motor_strength=_STRENGTH, dead_motor=(2, 3)),
        "heavier, thicker water, a hind motor dead",
    ),
}


def environment_and_source(
    name: RobotName, *, num_rollouts: int, tested_on: TestedOn = "held_out"
) -> tuple[Environment, Source]:
    """Return a robot with bodies from the training ranges, and the source of its tasks for an experiment.

    Args:
      name: name in `ROBOTS`.
      num_rollouts: rollouts of an episode, each of `NUM_STEPS` steps; they are named with the tasks.
      tested_on: whether bodies of meta_test are outside of training's ranges, `"held_out"`, or within, `"trained"`.

    Example:
      >>> _, source = environment_and_source("arm", num_rollouts=3)
      >>> source.describe(1000)
      "arm, 3 rollouts of 50 steps, bodies outside of training's ranges (heavier), 1000 tasks"
    """
    robot = ROBOTS[name]
    environment, sample = robot.make(robot.trained, num_steps=NUM_STEPS)
    words = f"{name}, {num_rollouts} rollouts of {NUM_STEPS} steps"
    if tested_on == "trained":
        return environment, source(sample, words)
    _, sample_test = robot.make(robot.held_out, num_steps=NUM_STEPS)
    outside = f"bodies outside of training's ranges ({robot.outside})"
    return environment, source(sample, words, sample_test=sample_test, tested_on=outside)
