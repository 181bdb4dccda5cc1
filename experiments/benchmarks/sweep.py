"""Time and memory of jmeta's own ways against inner steps and tasks: `python -m experiments.benchmarks.sweep`.

The result is kept in `rows/sweep.json`; `report` makes a table and a picture of it. Ways whose temporary memory is
above a limit are compiled but not run.
"""

import dataclasses
import json
import statistics
import sys
import time
from typing import Any

import tyro

from jmeta.runs import console, files

from .speed import ROWS, machine, versions
from .with_jax import Way, lowered
from .workloads import Workload, arrays

FILE = ROWS / "sweep.json"
STEPS = (1, 5, 20, 100)
TASKS = {"W1": (1, 4, 16, 32), "W2": (1, 10, 100, 1000)}
ADJOINTS = (
    "unrolled",
    "first_order",
    "rematerialized",
    "rematerialized in blocks",
    "mixed_mode",
    "mixed_mode in blocks",
)
ESTIMATORS = ("reverse", "forward_mode", "evolution_strategies")
BATCHINGS = ("vmap", "scan", "auto")


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure jmeta's ways for several numbers of inner steps and of tasks."""

    rounds: int = 3
    """Timed calls of each way; the median is kept."""
    max_gb: float = 8.0
    """Largest temporary memory of a program that is run."""


def points() -> list[tuple[Workload, Way]]:
    """Return all points to measure."""
    over_adjoints = [(Workload("W1", 1, steps), Way(adjoint, "scan")) for steps in STEPS for adjoint in ADJOINTS]
    over_estimators = [
        (Workload("W2", 1, steps), Way("unrolled", "scan", estimator=estimator))
        for steps in STEPS
        for estimator in ESTIMATORS
    ]
    over_tasks = [
        (Workload(kind, tasks, 5), Way("mixed_mode" if kind == "W1" else "unrolled", batching))
        for kind, numbers in TASKS.items()
        for tasks in numbers
        for batching in BATCHINGS
    ]
    return list(dict.fromkeys(over_adjoints + over_estimators + over_tasks))


def measure(workload: Workload, way: Way, options: Options) -> dict[str, Any]:
    """Measure one point: the compiler's memory analysis, and the time if it is run."""
    began = time.perf_counter()
    num_steps = workload.steps_per_dispatch if way.estimator == "reverse" else 10  # other estimators take longer
    compiled, repeat = lowered(workload, arrays(workload), way, num_steps)
    compile_seconds = time.perf_counter() - began
    temporary = compiled.memory_analysis().temp_size_in_bytes
    seconds = None
    if temporary <= options.max_gb * 1e9:
        repeat(1)
        taken = []
        for _ in range(options.rounds):
            start = time.perf_counter()
            repeat(1)
            taken.append((time.perf_counter() - start) / num_steps)
        seconds = statistics.median(taken)
    sizes = {"kind": workload.kind, "tasks": workload.tasks, "steps": workload.steps}
    costs = {"temporary_bytes": temporary, "compile_seconds": compile_seconds, "seconds": seconds}
    return {"workload": workload.name, **sizes, **way._asdict(), **costs}


def run(options: Options) -> None:
    """Measure all points and keep them."""
    measured = []
    for workload, way in points():
        point = measure(workload, way, options)
        measured.append(point)
        shown = "not run" if point["seconds"] is None else f"{point['seconds'] * 1e3:.2f} ms"
        print(
            f"{workload.name} {', '.join(filter(None, way))}: {shown}, {point['temporary_bytes'] / 1e6:.1f} MB",
            flush=True,
        )
    ROWS.mkdir(exist_ok=True)
    content = {"machine": machine(), "versions": versions(), "points": measured}
    files.replace_text(FILE, json.dumps(content, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.benchmarks.sweep")
    return console.run_command(lambda: run(options), if_interrupted="nothing was kept")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
