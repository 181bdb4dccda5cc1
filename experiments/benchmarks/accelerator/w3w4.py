"""W3, a step of prototypical networks, and W4, RL² with its environments, compared with PyTorch."""

from ..workloads import Workload
from .contenders import compare
from .period import Period

PROTONETS = ("jmeta: unrolled, vmap; xla", "jmeta: unrolled, vmap; patches", "PyTorch")
ACTING = {
    "W4-A2C": ("jmeta: one pass", "jmeta: collected first", "PyTorch"),
    "W4-PPO": ("jmeta: collected first", "PyTorch"),
}


def run(period: Period) -> None:
    """Record rows of W3, and of W4 with more and more bandits."""
    if period.is_tiny:
        compare(period, Workload("W4-A2C", 8, 6), (ACTING["W4-A2C"][0], "PyTorch"), precision="float32")
        return
    compare(period, Workload("W3"), PROTONETS, precision="TF32")
    for kind, names in ACTING.items():
        compare(period, Workload(kind, 4096, 100), names, precision="TF32")
    for kind, names in ACTING.items():  # only one way of jmeta, since contenders share the card's memory
        pair = (names[0], names[-1])
        compare(period, Workload(kind, 65_536, 100), pair, precision="TF32", together=False)
