"""Robots in the plane whose tasks are goals and bodies, with our own physics, light enough for two cores.

A robot is an environment and a sampler of its parameters: `crawler()`, `arm()` or `eel()`. `Ranges` define the
differences between tasks: goals, masses, friction, motor strengths, a dead motor, sensor offsets. `splits` has the
ranges that the recipes train on, and the ranges outside them for tests.
"""

from .arm import ANYWHERE, arm
from .crawler import DAMAGED, DAMAGED_OTHERWISE, FORWARD_OR_BACKWARD, crawler, on_speed, progress
from .eel import RIGHT_OR_LEFT, eel
from .ranges import Ranges, RobotParams
from .robot import RobotState

__all__ = [
    "ANYWHERE",
    "arm",
    "DAMAGED",
    "DAMAGED_OTHERWISE",
    "FORWARD_OR_BACKWARD",
    "crawler",
    "on_speed",
    "progress",
    "RIGHT_OR_LEFT",
    "eel",
    "Ranges",
    "RobotParams",
    "RobotState",
]
