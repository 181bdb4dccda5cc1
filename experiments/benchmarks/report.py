"""Write BENCHMARKS.md and its picture from the kept measurements: `python -m experiments.benchmarks.report`."""

import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jmeta.runs import files

from .accelerator.period import Row
from .physics import FILE as PHYSICS
from .profile import FILE as PROFILE
from .report_accelerators import benchmarks_section, recorded
from .report_cpus import aims_section, workload_sections
from .report_scaling import scaling_section
from .scaling import FILE as SCALING
from .speed import ROWS
from .sweep import FILE as SWEEP
from .tables import median_of, ratio_of, table_of, where_measured

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "BENCHMARKS.md"
PICTURE = ROOT / "docs" / "benchmarks.png"

INTRODUCTION = """# Benchmarks

Made by `python -m experiments.benchmarks.report` from the measurements of `experiments.benchmarks.speed`, `.sweep`,
`.profile`, `.physics` and `.scaling`; nothing is typed by hand. The workloads:

* W1: second-order MAML, conv4 with 64 filters, batch norm and max pooling, 28x28 pixels, 5-way 1-shot, 75 queries, S
  inner steps, T tasks
* W2: second-order MAML, sinusoids, network 1-40-40-1, 10 examples and 10 queries
* W3: a training step of prototypical networks, the same conv4, 20-way 5-shot, 15 queries a class
* W4: RL² on T Bernoulli bandits of 5 arms with S pulls, GRU of 256, acting and learning, by A2C or by PPO with two
  epochs of four minibatches; T S environment steps in a meta-step

Every contender runs in its own process, from the same parameters on the same tasks; losses and gradient norms are
compared before anything is timed. In W4 contenders draw their own bandits and actions, and the comparison uses recorded
pulls. Contenders take turns, one running at a time, and a ratio is the median of the ratios of rounds. Times in
different tables cannot be compared, since the machine's speed drifts. Ratios depend on the machine, too: rows are kept
per machine, with the speed of its large matrix products and of its copies, and an aim is judged on the worst machine.

* *ms*: time of a meta-step, that is a meta-gradient and a step of Adam (W4-PPO: acting, and then eight of these); the
  median over rounds, without compilation.
* *ratio*: the contender's time over that of jmeta's fastest way.
* *temporary*: memory that the compiled program allocates for itself; *peak*: the largest resident memory of the
  process, libraries and compiler included.
* *of peak*: useful FLOP (convolutions, each product counted once) per second, over those of a large matrix product.
* *first step apart* is not in the library: it takes the first inner step before the loop, where all tasks still share
  their weights under `vmap`, to see whether that pays.
* *memory in huge pages and kept*: an environment (`speed.TUNED`) in which no contender waits for fresh pages.
"""


def render(
    rows: list[dict[str, Any]],
    sweep: dict[str, Any] | None = None,
    profile: dict[str, Any] | None = None,
    physics: dict[str, Any] | None = None,
    scaling: dict[str, Any] | None = None,
    accelerators: Sequence[Row] = (),
) -> str:
    """Return the text of BENCHMARKS.md."""
    parts = [INTRODUCTION, aims_section(rows), *workload_sections(rows)]
    if profile:
        parts.append(_profile(profile))
    if sweep:
        parts.append(_sweep(sweep))
    if physics:
        parts.append(_physics(physics))
    if scaling:
        parts.append(scaling_section(scaling))
    parts.append(benchmarks_section(accelerators))
    return "\n".join(parts)


def _profile(profile: dict[str, Any]) -> str:
    """Return the section on the time of W1 by kind of work."""
    rows = sorted(profile["milliseconds"].items(), key=lambda item: -item[1])
    total = sum(profile["milliseconds"].values())
    lines = [[name, f"{each:.1f}", f"{each / total:.0%}"] for name, each in rows]
    return f"""## Where the time goes

{profile["workload"]}, {profile["way"]}: time of a meta-step by kind of work, by JAX's profiler, on the threads that
start the operations. {where_measured(profile)} Under the profiler the meta-step took
{profile["wall_milliseconds"]:.0f} ms, in {profile["num_operations"]} operations, and used
{profile["busy_share"]:.0%} of the cores' time.

{table_of(["", "ms", "share"], lines)}
"""


def _physics(physics: dict[str, Any]) -> str:
    """Return the section on the speed of robots."""
    measured = physics["measured"]
    ours = measured["jmeta: crawler"]
    lines = []
    for name, each in sorted(measured.items(), key=lambda item: median_of(item[1])):
        rate = physics["robots"] * physics["steps"] / median_of(each)
        lines.append([name, f"{rate:,.0f}", f"{ratio_of(each, ours):.1f}", f"{each['compile_seconds']:.1f}"])
    return f"""## Robots

Steps per second of {physics["robots"]} robots, each with its own body, under random actions and without a policy, in
turns in one process; the ratio is that of times, relative to the crawler. All but the ant move in a plane. Each step
prepares a new start, as adapters do where a rollout may end. {where_measured(physics)}

{table_of(["", "steps per second", "ratio", "compile s"], lines)}
"""


def _sweep(sweep: dict[str, Any]) -> str:
    """Return the section on inner steps and tasks: tables and the picture."""
    points = sweep["points"]
    names = {"W1": "W1, T=1: adjoints, by number of inner steps", "W2": "W2, T=1: estimators, by number of inner steps"}
    parts = ["## Against inner steps and tasks", "", where_measured(sweep), "", f"![]({PICTURE.relative_to(ROOT)})", ""]
    for kind, label in (("W1", "adjoint"), ("W2", "estimator")):
        chosen = [point for point in points if (point["kind"], point["tasks"], point["batching"]) == (kind, 1, "scan")]
        if kind == "W2":
            chosen = [point for point in chosen if point["adjoint"] == "unrolled"]
        parts += [f"{names[kind]}; ms per meta-step, temporary MB:", "", _grid(chosen, label, "steps"), ""]
    for kind in ("W1", "W2"):
        chosen = [point for point in points if point["kind"] == kind and point["steps"] == 5]
        chosen = [point for point in chosen if point["adjoint"] == ("mixed_mode" if kind == "W1" else "unrolled")]
        chosen = [point for point in chosen if point["estimator"] == "reverse"]
        parts += [f"{kind}, S=5: batching, by number of tasks; ms per meta-step, temporary MB:", ""]
        parts += [_grid(chosen, "batching", "tasks"), ""]
    return "\n".join(parts)


def _grid(points: list[dict[str, Any]], of: str, over: str) -> str:
    numbers = sorted({point[over] for point in points})
    cells = {(point[of], point[over]): _cell(point) for point in points}
    names = list(dict.fromkeys(point[of] for point in points))
    rows = [[name, *(cells.get((name, number), "") for number in numbers)] for name in names]
    return table_of([of, *(f"{'S' if over == 'steps' else 'T'}={number}" for number in numbers)], rows)


def _cell(point: dict[str, Any]) -> str:
    shown = "not run" if point["seconds"] is None else f"{point['seconds'] * 1e3:.3g}"
    return f"{shown}, {point['temporary_bytes'] / 1e6:.3g}"


def draw(sweep: dict[str, Any]) -> None:
    """Draw the picture: memory and time of adjoints over inner steps, and of batchings over tasks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    memory, time, tasks = figure.subplots(1, 3)
    points = [point for point in sweep["points"] if point["seconds"] is not None]
    steps = [point for point in points if (point["kind"], point["tasks"], point["batching"]) == ("W1", 1, "scan")]
    _lines(memory, steps, "adjoint", "steps", lambda point: point["temporary_bytes"] / 1e6)
    memory.set(title="W1, one task", xlabel="inner steps", ylabel="temporary memory, MB")
    _lines(time, steps, "adjoint", "steps", lambda point: point["seconds"] * 1e3)
    time.set(title="W1, one task", xlabel="inner steps", ylabel="a meta-step, ms")
    many = [point for point in points if point["kind"] == "W2" and point["steps"] == 5]
    many = [point for point in many if point["adjoint"] == "unrolled" and point["estimator"] == "reverse"]
    _lines(tasks, many, "batching", "tasks", lambda point: point["seconds"] * 1e6 / point["tasks"])
    tasks.set(title="W2, five inner steps", xlabel="tasks", ylabel="a meta-step, µs a task")
    figure.savefig(PICTURE, dpi=110)


def _lines(
    axes: Any, points: list[dict[str, Any]], of: str, over: str, value: Callable[[dict[str, Any]], float]
) -> None:
    for name in dict.fromkeys(point[of] for point in points):
        line = sorted((point[over], value(point)) for point in points if point[of] == name)
        axes.plot(*zip(*line, strict=True), marker="o", label=name)
    axes.set(xscale="log", yscale="log")
    if points:
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def measured() -> tuple[list[dict[str, Any]], *tuple[Any, ...]]:
    """Read all rows, the sweep, the profile, the physics, the scaling and the accelerators, as far as they exist."""
    rows = [json.loads(path.read_text()) for path in sorted(ROWS.glob("*/W*.json"))]
    others = [json.loads(path.read_text()) if path.exists() else None for path in (SWEEP, PROFILE, PHYSICS, SCALING)]
    return rows, *others, recorded()


def main() -> int:
    """Write the page."""
    rows, sweep, *others = measured()
    if sweep:
        draw(sweep)
    files.replace_text(PAGE, render(rows, sweep, *others))
    print(f"wrote {PAGE.name} from {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
