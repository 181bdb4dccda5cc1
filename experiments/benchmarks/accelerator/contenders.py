"""Rows of jmeta and PyTorch: contenders take turns on the card, each in its own process."""

import json
import pathlib
from collections.abc import Mapping, Sequence

from ..interleaved import Measured, measure
from ..tables import median_of, ratio_of
from ..workloads import Workload
from .period import Period

ROWS = pathlib.Path(__file__).parents[1] / "rows"
PRECISIONS = {"float32": "float32", "TF32": "tensorfloat32"}
TOLERANCES = {"float32": 0.02, "TF32": 0.1}
"""Relative tolerance for losses and meta-gradient norms: it catches a different computation, not rounding."""

RECORDED = {"W3": Workload("W3"), "W4-A2C": Workload("W4-A2C", 512, 100), "W4-PPO": Workload("W4-PPO", 512, 100)}
"""CPU measurements to compare with, by kind of workload. Unlike all else they are from another machine and day."""


def compare(
    period: Period,
    workload: Workload,
    names: Sequence[str],
    *,
    precision: str,
    variants: Mapping[str, Mapping[str, str]] | None = None,
    together: bool = True,
) -> None:
    """Record rows of `worker`'s contenders, and of those that are missing or did not run.

    Args:
      period: the section's period, which records rows.
      workload: the workload to time.
      names: names of contenders, jmeta's first; the losses and gradients of the others are compared with its.
      precision: `"float32"` or `"TF32"`, for all contenders.
      variants: as in `interleaved.measure`.
      together: whether contenders get ready, and compile, at the same time.
    """
    environment = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # contenders share the card
        "JAX_DEFAULT_MATMUL_PRECISION": PRECISIONS[precision],
    }
    about = {"workload": workload.name, "precision": precision}
    rounds, least = (1, 0.01) if period.is_tiny else (5, 0.5)
    try:
        measured, failed = measure(
            workload,
            names,
            rounds=rounds,
            least_seconds=least,
            tolerance=TOLERANCES[precision],
            environment=environment,
            variants=variants,
            together=together,
        )
    except RuntimeError as error:
        period.record_failure(about, str(error))
        return
    fastest = min((each for name, each in measured.items() if name.startswith("jmeta")), key=lambda each: each.median)
    for name, each in measured.items():
        period.record({**about, "contender": name}, _costs(workload, each, fastest))
    for name, reason in failed.items():
        period.record_failure({**about, "contender": name}, reason.removeprefix(f"{name}: "))


def recorded_rate(workload: Workload) -> tuple[str, float]:
    """Return the machine of a kept row, and the rate of jmeta's fastest way on it: environment steps, or tasks."""
    row = json.loads((ROWS / f"{workload.name.replace(' ', '_').replace('=', '')}.json").read_text())
    fastest = min(median_of(each) for name, each in row["measured"].items() if name.startswith("jmeta"))
    return row["machine"], workload.tasks * (workload.steps if workload.acts else 1) / fastest


def _costs(workload: Workload, each: Measured, fastest: Measured) -> dict[str, float]:
    costs = {"ms a meta-step": each.median * 1e3}
    costs["time over jmeta's fastest"] = ratio_of(each._asdict(), fastest._asdict())
    unit = "environment steps" if workload.acts else "tasks"
    rate = workload.tasks * (workload.steps if workload.acts else 1) / each.median
    costs[f"{unit} a second"] = rate
    if workload.kind in RECORDED:
        machine, recorded = recorded_rate(RECORDED[workload.kind])
        costs[f"rate over that recorded on {machine}"] = rate / recorded
    if each.temporary_bytes is not None:
        costs["temporary MB"] = each.temporary_bytes / 1e6
    return {**costs, "compile s": each.compile_seconds}
