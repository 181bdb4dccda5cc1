"""Long inner loops: time and memory of 100 and 1,000 inner steps of W1, by adjoint."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from ..with_jax import Way, lowered
from ..workloads import Arrays, Workload, arrays
from .period import Period
from .timing import compiled_together, in_turns

ADJOINTS = ("mixed_mode in blocks", "rematerialized in blocks", "mixed_mode", "rematerialized", "unrolled")
SHARE_OF_MEMORY = 0.9
"""Largest share of the card's memory; a program that needs more is compiled but not run."""


def run(period: Period) -> None:
    """Record rows by adjoint and number of steps, from the program with the smallest memory on.

    A device counts its peak memory since the process began. So the smallest program runs first, and a later one's peak
    is its own if it is above those before it.
    """
    if period.is_tiny:
        workloads, adjoints = [Workload("W2", 1, 4)], ADJOINTS[:2]
    else:
        workloads, adjoints = [Workload("W1", 8, steps) for steps in (100, 1000)], ADJOINTS
    for workload in workloads:
        data = arrays(workload)
        builds = {name: functools.partial(_built, workload, data, name) for name in adjoints}
        done, failed = compiled_together(builds)
        for name, reason in failed.items():
            period.record_failure(_case(workload, name), reason)
        for name, built in sorted(done.items(), key=lambda item: _temporary(item[1])):
            _measure(period, workload, name, built)


def _measure(period: Period, workload: Workload, name: str, built: tuple[Any, Callable[[int], None], float]) -> None:
    case, before, limit = _case(workload, name), *memory()
    if limit is not None and _temporary(built) > SHARE_OF_MEMORY * limit:
        period.record_failure(case, f"it would need {_temporary(built) / 1e9:,.0f} GB, by the compiler's analysis")
        return
    seconds, failed = in_turns({name: built[1]}, rounds=1 if period.is_tiny else 3, least_seconds=0.01)
    if failed:
        period.record_failure(case, failed[name])
        return
    peak, _ = memory()
    costs: dict[str, Any] = {"ms a meta-step": statistics.median(seconds[name]) * 1e3}
    costs["temporary MB"] = _temporary(built) / 1e6
    if peak is not None and before is not None:
        costs |= {"peak MB on the device": peak / 1e6, "the peak is its own": peak > before}
    period.record(case, {**costs, "compile s": built[2]})


def memory() -> tuple[int | None, int | None]:
    """Return `(peak bytes in use, bytes in all)` from the device's own counters; `None` where it has none."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use"), stats.get("bytes_limit")


def _case(workload: Workload, name: str) -> dict[str, str]:
    return {"workload": workload.name, "adjoint": name}


def _built(workload: Workload, data: Arrays, adjoint: str) -> tuple[Any, Callable[[int], None], float]:
    began = time.perf_counter()
    return *lowered(workload, data, Way(adjoint, "vmap")), time.perf_counter() - began


def _temporary(built: tuple[Any, Callable[[int], None], float]) -> int:
    return built[0].memory_analysis().temp_size_in_bytes
