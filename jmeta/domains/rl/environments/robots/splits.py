"""The robots of the recipes: bodies and goals that are trained on, and bodies outside of these to be tested on."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jmeta.domains.rl.environments import Environment
from jmeta.domains.rl.environments.robots import (
    ANYWHERE,
    DAMAGED,
    DAMAGED_OTHERWISE,
    RIGHT_OR_LEFT,
    Ranges,
    arm,
    crawler,
    eel,
)
from jmeta.domains.rl.environments.robots.arm import arm_design
from jmeta.domains.rl.environments.robots.crawler import crawler_design
from jmeta.domains.rl.environments.robots.eel import eel_design
from jmeta.domains.rl.environments.robots.robot import Design

NUM_STEPS = 50  # of a rollout


class Robot(NamedTuple):
    """A robot, the ranges it is trained on, and ranges outside of these.

    Attributes:
      make: `(ranges, num_steps=...) -> (environment, sample)`.
      design: of its body, to be drawn.
      trained: ranges of meta_train and meta_valid.
      held_out: of meta_test.
      outside: how these differ, in words.
    """

    make: Callable[..., tuple[Environment, Any]]
    design: Design
    trained: Ranges
    held_out: Ranges
    outside: str


_STRENGTH = (0.8, 1.2)
ROBOTS = {
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
