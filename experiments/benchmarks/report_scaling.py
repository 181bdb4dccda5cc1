"""The section of BENCHMARKS.md on many devices: the cost of sharing, the bytes exchanged, and an estimate."""

import statistics
from collections.abc import Callable
from typing import Any

from . import scaling as scale
from .collectives import Collective
from .scaling_worker import SUMS
from .tables import median_of, table_of, where_measured

ONE_OF = {"devices": "device", "processes": "process"}


def scaling_section(found: dict[str, Any]) -> str:
    """Return the section: the cost of many devices, the bytes that they exchange, an estimate for accelerators."""
    parts = [
        f"""## Scaling

`jmeta.sharding.Sharing` shares the tasks among the devices of a mesh; *fixed order* is `num_blocks=8`, with the
same bits on 1, 2, 4 and 8 devices. {where_measured(found)}"""
    ]
    if "timed" in found:
        parts.append(_costs_of_sharing(found))
    if "counted" in found:
        parts += [_exchanged(found), _estimated(found)]
    return "\n\n".join(parts) + "\n"


def _costs_of_sharing(found: dict[str, Any]) -> str:
    text = f"""### Cost of sharing on one machine

**This is overhead, not speed-up**: all devices, which XLA makes of one CPU, and all processes of one device each share
the same few cores, of a machine whose speed drifts, as the spread shows. A ratio of 1 means that sharing costs nothing;
less is possible where the plain trainer leaves a core idle. The ratio is the median over {found["rounds"]} rounds of
the time over that of the plain trainer on one device with as many tasks, with the lowest and the highest in brackets;
in each round every arrangement takes one turn. Times are without compilation. Processes exchange through Gloo, which
sums the arrays of an all-reduce one after another, while the fixed order exchanges all numbers as one array."""
    parts = [text]
    for workload, sizes in found["sizes"].items():
        cases = [each for each in found["timed"] if each["workload"] == workload and each["way"] != scale.PLAIN]
        strong = [each for each in cases if each["tasks"] == sizes["num_tasks"]]
        title = f"{workload}; strong scaling: {sizes['num_tasks']} tasks in a meta-step, ms"
        parts += [f"{title}:", _arrangements(found["timed"], strong, lambda each: 1e3 * median_of(each))]
        weak = [each for each in cases if each["tasks"] == sizes["num_tasks_each"] * each["number"]]
        title = f"{workload}; weak scaling: {sizes['num_tasks_each']} tasks on each device, µs per task"
        parts += [f"{title}:", _arrangements(found["timed"], weak, lambda each: 1e6 * median_of(each) / each["tasks"])]
    return "\n\n".join(parts)


def _arrangements(
    timed: list[dict[str, Any]], cases: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]
) -> str:
    rows = []
    for kind, number in dict.fromkeys((each["kind"], each["number"]) for each in cases):
        those = [each for each in cases if (each["kind"], each["number"]) == (kind, number)]
        cells = [f"{number} {kind}" if number > 1 else f"1 {ONE_OF[kind]}"]
        cells.append(_three_digits(value(scale.plain_case(timed, those[0]))))
        for each in sorted(those, key=lambda each: list(SUMS).index(each["way"])):
            ratios = scale.ratios(timed, each)
            cells += [
                _three_digits(value(each)),
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        rows.append(cells)
    head = ["", "plain"]
    for name in SUMS:
        head += [name, "ratio"]
    return table_of(head, rows)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _exchanged(found: dict[str, Any]) -> str:
    """Return the text and table of the bytes exchanged in a meta-step."""
    lines, excess = [], []
    for row in found["counted"]:
        parts = scale.exchange(row)
        mesh = ", ".join(f"{name} {size}" for name, size in row["mesh"].items())
        names = ["sums", "parameters", "others", "sent", "least"]
        ratio = f"{parts['sent'] / parts['least']:.4f}"
        numbers = [row["gradient_bytes"], *(parts[name] for name in names)]
        lines.append([row["method"], mesh, row["way"], *(f"{number:,.0f}" for number in numbers), ratio])
        if row["divided_bytes"] and SUMS[row["way"]] is not None:
            model = row["mesh"]["model"]
            saved = (model - 1) / model * row["divided_bytes"]
            excess.append(
                f"Where parameters are divided, each step gathers them, and each device gets its part of the sum of "
                f"their gradients, by a reduce-scatter before the all-reduce. In fixed order it gets the whole sum, "
                f"{saved:,.0f} bytes more, since a norm of divided gradients would depend on how they are divided."
            )
    acting = [row for row in found["counted"] if row["updates"] > 1]
    for row in acting[:1]:
        gathered = [Collective(**each) for each in row["collectives"]]
        gathered = [each for each in gathered if scale.part_of(each, row) == "others"]
        size = sum(each.num_bytes for each in gathered)
        arrays = f"{len(gathered)} array{'s' * (len(gathered) > 1)}"
        excess.append(
            f"{row['method']} computes {row['updates']} gradients in a meta-step; its others are {arrays} of collected "
            f"data, {size:,} bytes in all, gathered once to normalise advantages over all tasks."
        )
    head = ["", "mesh", "sum", "gradient", "sent: sums", "parameters", "others", "all", "least", "all over least"]
    return f"""### Bytes exchanged

Bytes that one of eight devices sends in a meta-step of {found["num_tasks_counted"]} tasks, counted in the compiled
program: 2 (N-1)/N of the result of an all-reduce, (N-1)/N of that of an all-gather or all-to-all, N-1 times that of a
reduce-scatter. *sums* are gradients, the loss and a few other means, and in fixed order a few zeros that make parts
equal; *others* are data, keys or perturbations. *least* is an all-reduce of the gradient alone, 2 (N-1)/N of its bytes
for each update.

{table_of(head, lines)}

Rows without *others* exchange nothing but sums: tasks and perturbations are drawn where they are used.
{" ".join(excess)}"""


def _estimated(found: dict[str, Any]) -> str:
    """Return the text and table of the estimate."""
    lines = []
    for each in scale.estimates(found):
        cells = [each["model"], each["accelerators"], str(each["number"]), f"{1e6 * each['compute']:,.0f}"]
        for name in SUMS:
            cells += [f"{1e6 * each[name]:,.0f}", f"{each[f'{name}: efficiency']:.0%}"]
        lines.append(cells)
    head = ["", "accelerators", "number", "computing, µs"]
    for name in SUMS:
        head += [f"{name}, µs", "efficiency"]
    full, large = found["full_size"], scale.large_model()
    kinds = "\n".join(f"* {kind.name}: {kind.source}. Assumed: {_hops(kind)}." for kind in (scale.H100, scale.TPU_V5P))
    return f"""### Estimate for 8, 64 and 512 accelerators

**An estimate, not a measurement**: arithmetic from the bytes above, from the FLOP of a meta-step and from published
speeds. It assumes that {scale.SHARE_OF_PEAK:.0%} of the peak arithmetic and {scale.SHARE_OF_LINK:.0%} of the speed of
links are reached, that there are {full["num_tasks"]} tasks on each accelerator, that numbers are summed in float32, and
that nothing is computed while they are exchanged. Efficiency is the share of the time spent computing.

* The small model has {full["parameters"]:,} parameters and takes {full["flops"] / 1e9:.1f} GFLOP on each accelerator by
  the compiler's count (`cost_analysis`). A network so small reaches a smaller share of the peak, and then the exchange
  matters less.
* The large model has {large.num_bytes / 4e6:.0f}M parameters and takes {large.flops / 1e12:.2f} TFLOP on each by a
  formula: each example uses each parameter once. Where it uses them once for each of many tokens or pixels, the
  exchange matters less.
{kinds}

An all-reduce adds within a node first, or along the axes of a torus. In fixed order numbers travel unsummed to the
devices that add them, which sends {scale.H100.node} times as many bytes between nodes: the same bits cost little within
a node, and much between many. Hops are counted alike for both sums.

{table_of(head, lines)}"""


def _hops(kind: scale.Accelerators) -> str:
    """Describe the assumptions about a kind of accelerator."""
    hops = f"{1e6 * kind.latency:.0f} µs a hop"
    if not kind.network:
        return f"a cube of chips whose rings are closed from side 4 on, {hops}"
    between = f"{1e6 * kind.network_latency:.0f} µs between nodes"
    return f"nodes of {kind.node}, {hops}, {between}, a network without congestion"
