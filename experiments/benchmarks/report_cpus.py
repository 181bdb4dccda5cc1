"""The workloads on CPUs: aims, judged on the worst machine, and a table for each workload and machine."""

from collections.abc import Callable, Iterator
from typing import Any

from .speed import CONTENDERS
from .tables import median_of, ratio_of, table_of, where_measured
from .workloads import Workload

PYTORCH = (
    "learn2learn",
    "higher",
    "TorchOpt",
    "torch.func: loop",
    "torch.func: vmap",
    "torch.func: loop, compiled",
    "PyTorch",
)
AIMS: tuple[tuple[Workload, bool, tuple[str, ...], float], ...] = (
    (Workload("W1", 32, 5), False, ("learn2learn",), 1.8),
    (Workload("W1", 4, 5), False, ("learn2learn",), 1.4),
    (Workload("W1", 4, 5), False, ("jax-meta",), 15.0),
    (Workload("W1", 4, 1), False, PYTORCH, 1.1),
    (Workload("W1", 1, 100), False, ("learn2learn",), 2.5),
    (Workload("W2", 25, 1), False, ("learn2learn",), 50.0),
    (Workload("W2", 25, 1), False, ("torch.func: vmap",), 6.0),
    (Workload("W2", 25, 1), False, ("jax-meta",), 1.3),
    (Workload("W2", 25, 5), False, ("learn2learn",), 50.0),
    (Workload("W2", 25, 5), False, ("torch.func: vmap",), 6.0),
    (Workload("W2", 25, 5), False, ("jax-meta",), 1.3),
    (Workload("W2", 1000, 5), False, ("torch.func: vmap",), 1.5),
    (Workload("W3"), False, PYTORCH, 1.5),
    (Workload("W3"), True, PYTORCH, 1.0),
    (Workload("W4-A2C", 512, 100), False, PYTORCH, 1.4),
    (Workload("W4-PPO", 512, 100), False, PYTORCH, 1.6),
)
"""`(workload, whether tuned, contenders, ratio)`: at least this ratio of the fastest contender's time to jmeta's."""
MEMORY_AIMS = ((Workload("W1", 32, 5), 170.0), (Workload("W1", 1, 100), 150.0))
"""`(workload, MB)`: at most this temporary memory of the exact way of jmeta that takes least."""

PEAK_AIMS = ((Workload("W1", 4, 5), 0.55),)
"""`(workload, least share of the speed of a large product of matrices)`, of the fastest way of jmeta."""


def aims_section(rows: list[dict[str, Any]]) -> str:
    """Return the table of aims: the range over machines, and whether the worst machine meets the aim."""
    lines = []
    for workload, is_tuned, contenders, least in AIMS:
        name = "PyTorch" if contenders == PYTORCH else contenders[0]
        title = f"{workload.name}{', huge pages' if is_tuned else ''}: {name}"
        found = _over_machines(rows, workload, is_tuned, lambda row, names=contenders: _fastest_of(row, names))
        lines += _judged(title, found, least=least)
    for workload, most in MEMORY_AIMS:
        found = _over_machines(rows, workload, False, _least_megabytes)
        lines += _judged(f"{workload.name}: temporary MB", found, most=most, digits=0)
    for workload, least in PEAK_AIMS:
        found = _over_machines(rows, workload, False, lambda row, workload=workload: _share_of_peak(row, workload))
        lines += _judged(f"{workload.name}: share of the speed of a large product", found, least=least)
    for workload in CONTENDERS:
        found = _over_machines(rows, workload, False, _auto_over_best)
        lines += _judged(f"{workload.name}: `auto` over the better of `scan` and `vmap`", found, most=1.03)
        found = _over_machines(rows, workload, False, _over_by_hand)
        lines += _judged(f"{workload.name}: jmeta's time over that of code by hand", found, most=1.05)
    table = table_of(["", "aim", "worst", "on", "over machines", ""], lines)
    return f"""## Aims

Ratios of a contender's time to that of jmeta's fastest way, on 2 CPU cores; *PyTorch* is the fastest library that uses
it. The tables below have all contenders.

{table}
"""


def workload_sections(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a section for each workload, with a table for each machine that it was measured on."""
    for workload in CONTENDERS:
        for is_tuned in (False, True):
            chosen = _rows_of(rows, workload, is_tuned)
            if chosen:
                title = f"## {workload.name}{', memory in huge pages and kept' if is_tuned else ''}"
                yield "\n".join([title, "", *(_table(row, workload) for row in chosen)])


def _rows_of(rows: list[dict[str, Any]], workload: Workload, is_tuned: bool) -> list[dict[str, Any]]:
    chosen = [row for row in rows if (row["workload"], row["is_tuned"]) == (workload.name, is_tuned)]
    return sorted(chosen, key=lambda row: row["machine"])


def _over_machines(
    rows: list[dict[str, Any]],
    workload: Workload,
    is_tuned: bool,
    number_of: Callable[[dict[str, Any]], float | None],
) -> dict[str, float]:
    """Return a number for each machine that has one."""
    numbers = {row["machine"]: number_of(row) for row in _rows_of(rows, workload, is_tuned)}
    return {machine: number for machine, number in numbers.items() if number is not None}


def _judged(
    title: str, found: dict[str, float], *, least: float | None = None, most: float | None = None, digits: int = 2
) -> list[list[str]]:
    """Return a line of the table of aims, judged on the worst machine; nothing if no machine has a number."""
    if not found:
        return []
    worst = min(found, key=found.__getitem__) if most is None else max(found, key=found.__getitem__)
    is_met = found[worst] >= least if least is not None else found[worst] <= (most or 0)
    ends = sorted({f"{end:.{digits}f}" for end in (min(found.values()), max(found.values()))}, key=float)
    over = " to ".join(ends) if len(found) > 1 else "one machine"
    aim = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return [[title, aim, f"{found[worst]:.{digits}f}", worst, over, "met" if is_met else "missed"]]


def _fastest_of(row: dict[str, Any], contenders: tuple[str, ...]) -> float | None:
    """Return the time of the fastest of these contenders over jmeta's, or None if none of them ran."""
    measured = row["measured"]
    names = [name for name in contenders if name in measured]
    if not names:
        return None
    return ratio_of(measured[min(names, key=lambda name: median_of(measured[name]))], measured[_ours(measured)])


def _least_megabytes(row: dict[str, Any]) -> float:
    return min(each["temporary_bytes"] / 1e6 for name, each in row["measured"].items() if name.startswith("jmeta"))


def _share_of_peak(row: dict[str, Any], workload: Workload) -> float:
    seconds = median_of(row["measured"][_ours(row["measured"])])
    return workload.useful_flops / seconds / row["matmul_peak"]


def _auto_over_best(row: dict[str, Any]) -> float | None:
    """Return the time of `auto` over that of the better fixed batching of the same adjoint."""
    measured = row["measured"]
    fixed = [each for name in ("scan", "vmap") if (each := measured.get(f"jmeta: unrolled, {name}"))]
    if "jmeta: unrolled, auto" not in measured or not fixed:
        return None
    return ratio_of(measured["jmeta: unrolled, auto"], min(fixed, key=median_of))


def _over_by_hand(row: dict[str, Any]) -> float | None:
    by_hand = [each for name, each in row["measured"].items() if name.startswith("by hand")]
    return 1 / ratio_of(by_hand[0], row["measured"][_ours(row["measured"])]) if by_hand else None


def _ours(measured: dict[str, Any]) -> str:
    """Return the name of the fastest contender that the library offers."""
    offered = [name for name in measured if name.startswith("jmeta") and "first step apart" not in name]
    return min(offered, key=lambda name: median_of(measured[name]))


def _table(row: dict[str, Any], workload: Workload) -> str:
    measured = row["measured"]
    ours = _ours(measured)
    lines = []
    for name, each in sorted(measured.items(), key=lambda item: median_of(item[1])):
        share = ""
        if workload.kind in ("W1", "W3"):
            share = f"{workload.useful_flops / median_of(each) / row['matmul_peak']:.0%}"
        lines.append(
            [
                f"**{name}**" if name == ours else name,
                f"{median_of(each) * 1e3:.2f}",
                f"{ratio_of(each, measured[ours]):.2f}",
                "" if each["temporary_bytes"] is None else f"{each['temporary_bytes'] / 1e6:.1f}",
                f"{each['peak_bytes'] / 1e6:.0f}",
                f"{each['compile_seconds']:.1f}",
                share,
            ]
        )
    table = table_of(["", "ms", "ratio", "temporary MB", "peak MB", "compile s", "of peak"], lines)
    failed = [f"\nNot measured: {name}: {reason}." for name, reason in row["failed"].items()]
    speed = []
    if workload.acts:
        rates = {name: workload.tasks * workload.steps / median_of(each) for name, each in measured.items()}
        shown = "; ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
        speed = [f"\nEnvironment steps per second, acting and learning: {shown}."]
    return "\n".join([f"{where_measured(row)}{_speeds(row)}", "", table, *speed, *failed, ""])


def _speeds(row: dict[str, Any]) -> str:
    copies = f", copies {row['copied_bytes_per_second'] / 1e9:.1f} GB/s" if "copied_bytes_per_second" in row else ""
    return f" Large products {row['matmul_peak'] / 1e9:,.0f} GFLOP/s{copies}."
