"""Robots in the plane whose tasks are goals and bodies: physics of our own, light enough for two cores.

A robot is an environment and a sampler of its parameters, `crawler()`, `arm()` or `eel()`. `Ranges` say what differs
between tasks: goals, masses, friction, motor strengths, a dead motor, sensor offsets. `splits` has those that the
recipes train on, and those outside of them that they are tested on.
"""

from .arm import ANYWHERE as ANYWHERE
from .arm import arm as arm
from .crawler import DAMAGED as DAMAGED
from .crawler import DAMAGED_OTHERWISE as DAMAGED_OTHERWISE
from .crawler import FORWARD_OR_BACKWARD as FORWARD_OR_BACKWARD
from .crawler import crawler as crawler
from .crawler import on_speed as on_speed
from .crawler import progress as progress
from .eel import RIGHT_OR_LEFT as RIGHT_OR_LEFT
from .eel import eel as eel
from .ranges import Ranges as Ranges
from .ranges import RobotParams as RobotParams
from .robot import RobotState as RobotState
