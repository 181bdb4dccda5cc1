"""Samplers of tasks: pure functions `sample(key) -> Task` over arrays that live on the device.

`jmeta.domains.images` has images by class and named protocols for drawing tasks from them. `host_fed` serves data that
do not fit on the device.
"""

from . import kernels, mechanisms
from .class_arrays import ClassArrays, group_by_class
from .completion import completion, pixel_at, pixel_positions
from .few_shot import few_shot, stacked
from .finite import finite
from .gaussian_blobs import gaussian_blobs
from .gaussian_process import gaussian_process
from .host_fed import host_fed
from .mixture import mixture
from .ragged import pad_task, ragged
from .regression_protocols import Process, Region, RegressionProtocol, regression_protocol
from .sawtooth import sawtooth
from .sinusoid import finite_sinusoid_source, sinusoid
from .sinusoid_or_line import sinusoid_or_line, sinusoid_or_line_source
from .source import HostTasks, Source
from .supervised import supervised
from .tables import tables

__all__ = [
    "ClassArrays",
    "group_by_class",
    "completion",
    "few_shot",
    "stacked",
    "finite",
    "finite_sinusoid_source",
    "gaussian_blobs",
    "gaussian_process",
    "host_fed",
    "kernels",
    "mechanisms",
    "mixture",
    "pad_task",
    "pixel_at",
    "pixel_positions",
    "ragged",
    "Process",
    "Region",
    "RegressionProtocol",
    "regression_protocol",
    "sawtooth",
    "sinusoid",
    "sinusoid_or_line",
    "sinusoid_or_line_source",
    "HostTasks",
    "Source",
    "supervised",
    "tables",
]
