"""W2, second-order MAML on sinusoids: many meta-steps in one dispatch, whose time goes into starting kernels."""

import os

from ..workloads import Workload
from .contenders import compare
from .period import Period

FLAGS = os.environ.get("XLA_FLAGS", "")
VARIANTS = {"no command buffers": {"XLA_FLAGS": f"{FLAGS} --xla_gpu_enable_command_buffer="}}
"""Environment that turns command buffers off. A command buffer (CUDA graph) starts many kernels at once; XLA uses them
by default."""
JMETA = (
    "jmeta: unrolled, vmap",
    "jmeta: straight line, vmap",
    "jmeta: unrolled, vmap (no command buffers)",
    "jmeta: straight line, vmap (no command buffers)",
)
PYTORCH = ("torch.func: vmap", "torch.func: vmap, compiled")


def run(period: Period) -> None:
    """Record rows of 25 and of 1000 tasks."""
    if period.is_tiny:
        compare(
            period, Workload("W2", 5, 2, dispatched=3), (JMETA[0], JMETA[2]), precision="float32", variants=VARIANTS
        )
        return
    for tasks in (25, 1000):
        compare(
            period,
            Workload("W2", tasks, 5, dispatched=200),
            (*JMETA, *PYTORCH),
            precision="float32",
            variants=VARIANTS,
        )
