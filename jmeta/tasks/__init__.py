"""Where tasks come from: pure samplers `sample(key) -> Task` over arrays that live on the device.

Images by class, and the protocols that say how tasks are drawn from them, are in `jmeta.domains.images`. Data that do
not fit on the device come through `host_fed`.
"""

from . import kernels as kernels
from .class_arrays import group_by_class as group_by_class
from .drawn import drawn as drawn
from .few_shot import few_shot as few_shot
from .few_shot import stacked as stacked
from .gaussian_blobs import gaussian_blobs as gaussian_blobs
from .gaussian_process import gaussian_process as gaussian_process
from .host_fed import host_fed as host_fed
from .ragged import pad_task as pad_task
from .ragged import ragged as ragged
from .sinusoid import sinusoid as sinusoid
from .source import HostTasks as HostTasks
from .source import Source as Source
from .supervised import supervised as supervised
