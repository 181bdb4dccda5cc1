"""W1 compared with PyTorch: `torch.func`, eager and compiled, and learn2learn's loop, eager and as one CUDA graph."""

from ..workloads import Workload
from .contenders import compare
from .period import Period

JMETA = ("jmeta: unrolled, vmap; xla", "jmeta: unrolled, vmap; patches")
EAGER = ("torch.func: vmap", "PyTorch loop", "PyTorch loop: CUDA graph")
COMPILED = ("torch.func: vmap, compiled",)
"""Timed separately, since it can take minutes to compile."""


def run(period: Period) -> None:
    """Record rows of every contender, and name the missing ones."""
    if period.is_tiny:
        compare(period, Workload("W2", 3, 2), (JMETA[0], *EAGER), precision="float32")
        return
    compare(period, Workload("W1", 32, 5), (*JMETA, *EAGER), precision="TF32")
    compare(period, Workload("W1", 32, 5), (JMETA[1], *COMPILED), precision="TF32")
    compare(period, Workload("W1", 32, 5), (*JMETA, *EAGER), precision="float32")
    compare(period, Workload("W1", 4, 1), (*JMETA, *EAGER), precision="TF32")
