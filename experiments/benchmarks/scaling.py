"""Cost of many devices, and the bytes that they exchange: `python -m experiments.benchmarks.scaling [--rounds 5]`.

    workers, in turns ──► seconds │ compiled text ──► bytes │ bytes, FLOP, published speeds ──► an estimate

On a machine of few cores, devices that XLA makes of one CPU and processes of one device each do not run faster than one
device; they show the cost of sharing. The estimate for accelerators is arithmetic, not a measurement.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import tyro

from jmeta.runs import console, files

from .collectives import Collective, total_sent
from .scaling_worker import PLAIN, SUMS, TIMED
from .speed import ROWS, machine, versions

FILE = ROWS / "scaling.json"
ARRANGEMENTS = (("devices", 1), ("devices", 2), ("devices", 4), ("devices", 8))
ARRANGEMENTS += (("processes", 1), ("processes", 2), ("processes", 4))
"""`(kind, number)`: devices of one process, or processes of one device each."""
DEVICES_COUNTED = 8
SECONDS_BETWEEN_LOOKS = 0.02


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the cost of sharing tasks among devices."""

    rounds: int = 5
    """Number of turns of each arrangement."""
    parts: tuple[Literal["bytes", "seconds"], ...] = ("bytes", "seconds")
    """Parts to measure; the earlier measurement of the other part is kept."""


def environment(num_devices: int) -> dict[str, str]:
    """Return the environment of a process with this number of CPU devices; all processes have equally many threads."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}".strip()
    mine = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": str(DEVICES_COUNTED)}
    return {**os.environ, **mine}


class _Job:
    """An arrangement: its processes, compiled and waiting for their turns."""

    def __init__(self, kind: str, number: int, plain_totals: Sequence[int], folder: pathlib.Path) -> None:
        self.kind, self.number, self._folder = kind, number, folder
        folder.mkdir()
        worker = ["experiments.benchmarks.scaling_worker", "time", str(folder), *map(str, plain_totals)]
        launcher = ["jmeta", "launch", "--processes", str(number), "--devices", "1", "--grace-seconds", "1", "-m"]
        command = worker if kind == "devices" else [*launcher, *worker]
        with (folder / "output").open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=environment(number if kind == "devices" else 1),
                stdout=output,
                stderr=output,
            )
        self.facts: list[dict[str, Any]] = []
        self._num_turns = 0

    def wait_until_ready(self) -> None:
        self.facts = [{**each, "seconds": []} for each in self._await("ready.json")]

    def turn(self) -> None:
        (self._folder / f"turn_{self._num_turns}").touch()
        seconds = self._await(f"done_{self._num_turns}.json")
        for each, taken in zip(self.facts, seconds, strict=True):
            each["seconds"].append(taken)
        self._num_turns += 1

    def end(self) -> None:
        (self._folder / "turn_end").touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()  # the launcher stops its processes
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _await(self, name: str) -> Any:
        while not (self._folder / name).exists():
            if self._process.poll() is not None:
                output = (self._folder / "output").read_text()
                raise RuntimeError(f"{self.number} {self.kind} ended with status {self._process.returncode}: {output}")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return json.loads((self._folder / name).read_text())


@contextlib.contextmanager
def _jobs(arrangements: Sequence[tuple[str, int]]) -> Iterator[list[_Job]]:
    """Start all arrangements, compiled one after another; the first also times the plain trainer."""
    numbers = sorted({number for _, number in arrangements})
    jobs: list[_Job] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for kind, number in arrangements:
                plain_totals = [] if jobs else numbers
                jobs.append(_Job(kind, number, plain_totals, pathlib.Path(folder, f"{kind}_{number}")))
                jobs[-1].wait_until_ready()
            yield jobs
            for job in jobs:
                job.end()
        finally:
            for job in jobs:
                job.stop()


def time_arrangements(rounds: int, arrangements: Sequence[tuple[str, int]] = ARRANGEMENTS) -> list[dict[str, Any]]:
    """Return the seconds of a meta-step of every case, one for each round, in which all arrangements take a turn."""
    with _jobs(arrangements) as jobs:
        for _ in range(rounds):
            for job in jobs:
                job.turn()
        return [{"kind": job.kind, "number": job.number, **each} for job in jobs for each in job.facts]


def count() -> dict[str, Any]:
    """Count the bytes exchanged and the FLOP of a step, in a process with eight devices."""
    command = [sys.executable, "-m", "experiments.benchmarks.scaling_worker", "count"]
    done = subprocess.run(command, env=environment(DEVICES_COUNTED), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def exchange(row: dict[str, Any]) -> dict[str, float]:
    """Return the bytes that one device sends, from a row of counted collectives.

    Returns:
      `sent`, and its parts: `sums`, of gradients with the loss and other means; `parameters`, gathered where they are
      divided; `others`, everything else. And `least`: all-reduces of nothing but the gradients.
    """
    num_devices = math.prod(row["mesh"].values())
    found = [Collective(**each) for each in row["collectives"]]
    parts = {"sums": 0.0, "parameters": 0.0, "others": 0.0}
    for each in found:
        parts[part_of(each, row)] += each.sent
    least = row["updates"] * 2 * (num_devices - 1) / num_devices * row["gradient_bytes"]
    return {"sent": total_sent(found), **parts, "least": least}


def part_of(found: Collective, row: dict[str, Any]) -> Literal["sums", "parameters", "others"]:
    """Return the purpose of an exchange: `"sums"`, `"parameters"` or `"others"`.

    In fixed order an all-to-all brings whole gradients to the devices that add them, and an all-gather returns the sum.
    """
    if found.kind in ("all-reduce", "reduce-scatter") or found.num_bytes >= row["gradient_bytes"]:
        return "sums"
    return "parameters" if row["divided_bytes"] and found.kind == "all-gather" else "others"


class Accelerators(NamedTuple):
    """A kind of accelerator and its network. Bytes per second are what one accelerator sends, one way.

    Attributes:
      name, source: name of the accelerator, and source of its numbers.
      peak_flops: peak FLOP per second, bfloat16, dense.
      link: bytes per second within a node, or over all links of a torus.
      network: bytes per second between nodes; 0 for a torus, which has none.
      node: number of accelerators in a node.
      latency, network_latency: seconds of a hop; assumed.
    """

    name: str
    source: str
    peak_flops: float
    link: float
    network: float
    node: int
    latency: float
    network_latency: float


H100 = Accelerators(
    "H100 SXM",
    "nvidia.com/en-us/data-center/h100 (989 TFLOP/s in bfloat16 without sparsity; NVLink 900 GB/s, both ways together) "
    "and NVIDIA's data sheet of DGX H100 (a ConnectX-7 of 400 Gb/s for each GPU)",
    peak_flops=989e12,
    link=450e9,
    network=50e9,
    node=8,
    latency=3e-6,
    network_latency=8e-6,
)
TPU_V5P = Accelerators(
    "TPU v5p",
    "cloud.google.com/tpu/docs/v5p (459 TFLOP/s in bfloat16; links of 4,800 Gb/s, both ways 1,200 GB/s; 3D torus)",
    peak_flops=459e12,
    link=600e9,
    network=0.0,
    node=1,
    latency=1e-6,
    network_latency=0.0,
)
SHARE_OF_PEAK, SHARE_OF_LINK = 0.3, 0.8
"""Assumed share of the published speeds that is reached."""
NUMBERS = (8, 64, 512)


class Model(NamedTuple):
    """The model whose training is estimated.

    Attributes:
      name: its description.
      flops: FLOP of a meta-step on one device.
      num_bytes: bytes that are summed over devices.
    """

    name: str
    flops: float
    num_bytes: float


LARGE_PARAMETERS, LARGE_TASKS, LARGE_STEPS, LARGE_SUPPORT, LARGE_QUERY = 1e8, 4, 5, 25, 75


def large_model() -> Model:
    """Build the large model by a formula: second-order MAML in which an example uses each parameter once.

    A forward pass takes 2 FLOP for each parameter. An inner step takes 3 passes for the loss and its gradient, and 6
    more for differentiating them; a query takes 3.
    """
    passes = 9 * LARGE_STEPS * LARGE_SUPPORT + 3 * LARGE_QUERY
    return Model(
        f"MAML, {LARGE_PARAMETERS / 1e6:.0f}M parameters, {LARGE_STEPS} inner steps on {LARGE_SUPPORT} examples, "
        f"{LARGE_QUERY} queries",
        LARGE_TASKS * passes * 2 * LARGE_PARAMETERS,
        4 * LARGE_PARAMETERS,
    )


def small_model(found: dict[str, Any]) -> Model:
    """Build the small model from the counted FLOP and bytes of prototypical networks with conv4."""
    rows = [row for row in found["counted"] if row["method"].startswith("ProtoNet") and row["way"] == "one all-reduce"]
    return Model(found["full_size"]["name"], found["full_size"]["flops"], rows[0]["collectives"][0]["num_bytes"])


def all_reduce_seconds(num_bytes: float, number: int, kind: Accelerators) -> float:
    """Return the seconds of one all-reduce with the best algorithm of the hardware.

    With nodes: reduce within a node, so that each of its n accelerators has a share; all-reduce the shares between m
    nodes; gather within a node: 2 (n-1)/n B / link + 2 (m-1)/m B/n / network. In a torus: 2 (N-1)/N B over all links.
    Both take twice the hops of one way.
    """
    if not kind.network:
        return 2 * (number - 1) / number * num_bytes / _torus(number, kind)[1] + 2 * hops_seconds(number, kind)
    inside, nodes = min(number, kind.node), max(1, number // kind.node)
    within = 2 * (inside - 1) / inside * num_bytes / (SHARE_OF_LINK * kind.link)
    between = 2 * (nodes - 1) / nodes * num_bytes / inside / (SHARE_OF_LINK * kind.network)
    return within + between + 2 * hops_seconds(number, kind)


def in_order_seconds(num_bytes: float, number: int, kind: Accelerators) -> float:
    """Return the seconds of a sum in fixed order: each device sends every other a part and gets its sum back.

    Parts travel unsummed, so between m nodes of n accelerators each sends (N-n)/N B, while in an all-reduce it sends
    only (m-1)/m B/n. In a torus of side d half of all bytes, N B/2, cross the middle, half of them each way, over d²
    links, or 2 d² where rings are closed. The way back is half an all-reduce.
    """
    if kind.network:
        inside = min(number, kind.node)
        there = (inside - 1) / number * num_bytes / (SHARE_OF_LINK * kind.link)
        there += (number - inside) / number * num_bytes / (SHARE_OF_LINK * kind.network)
    else:
        side, links = _torus(number, kind)
        across = (2 if side >= 4 else 1) * side**2 * SHARE_OF_LINK * kind.link / 6
        there = max(number * num_bytes / 4 / across, (number - 1) / number * num_bytes / links)
    return there + hops_seconds(number, kind) + all_reduce_seconds(num_bytes, number, kind) / 2


def hops_seconds(number: int, kind: Accelerators) -> float:
    """Return the seconds of all hops of one way: log₂ hops within a node and between nodes, or those along a torus."""
    if not kind.network:
        return 3 * (_torus(number, kind)[0] - 1) * kind.latency
    inside, nodes = min(number, kind.node), max(1, number // kind.node)
    return math.log2(inside) * kind.latency + math.log2(nodes) * kind.network_latency


def _torus(number: int, kind: Accelerators) -> tuple[int, float]:
    """Return the side of the cube, and the bytes per second over the links of one accelerator that are connected.

    At side 2 there is one link along each axis, not two.
    """
    side = round(number ** (1 / 3))
    return side, SHARE_OF_LINK * kind.link / (1 if side >= 4 else 2)


def estimate(model: Model, kind: Accelerators, number: int) -> dict[str, float]:
    """Estimate the seconds of a meta-step on this number of accelerators, with tasks in proportion and no overlap.

    Returns:
      `compute`, and for each way of summing the seconds of the exchange and the `efficiency`: compute's share.
    """
    compute = model.flops / (SHARE_OF_PEAK * kind.peak_flops)
    ways: dict[str, Callable[..., float]] = dict(zip(SUMS, (all_reduce_seconds, in_order_seconds), strict=True))
    found = {"compute": compute}
    for name, seconds in ways.items():
        found[name] = seconds(model.num_bytes, number, kind)
        found[f"{name}: efficiency"] = compute / (compute + found[name])
    return found


def estimates(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the estimates of both models on both kinds of accelerators."""
    return [
        {"model": model.name, "accelerators": kind.name, "number": number, **estimate(model, kind, number)}
        for model in (small_model(found), large_model())
        for kind in (H100, TPU_V5P)
        for number in NUMBERS
    ]


def plain_case(timed: list[dict[str, Any]], case: dict[str, Any]) -> dict[str, Any]:
    """Return the case of the plain trainer on one device with as many tasks as this case."""
    same = (case["workload"], case["tasks"])
    return next(each for each in timed if each["way"] == PLAIN and (each["workload"], each["tasks"]) == same)


def ratios(timed: list[dict[str, Any]], case: dict[str, Any]) -> list[float]:
    """Return the time of a case over that of the plain trainer, round by round."""
    return [a / b for a, b in zip(case["seconds"], plain_case(timed, case)["seconds"], strict=True)]


def _measured(part: str, rounds: int) -> dict[str, Any]:
    """Measure one part and return the record to keep."""
    where = {"machine": machine(), "versions": {name: versions()[name] for name in ("jax", "jaxlib")}}
    if part == "bytes":
        return {**where, **count()}
    sizes = {name: each._asdict() for name, each in TIMED.items()}
    return {**where, "rounds": rounds, "sizes": sizes, "timed": time_arrangements(rounds)}


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.benchmarks.scaling")

    def command() -> None:
        jax.config.update("jax_platforms", "cpu")
        found = json.loads(FILE.read_text()) if FILE.exists() else {}
        for part in options.parts:
            found |= _measured(part, options.rounds)
            files.replace_text(FILE, json.dumps(found, indent=1) + "\n")
        rows = [
            {
                "": f"{each['number']} {each['kind']}: {each['workload']}, {each['tasks']} tasks, {each['way']}",
                "ms a meta-step": f"{1e3 * statistics.median(each['seconds']):.2f}",
                "time of the plain one": f"{statistics.median(ratios(found['timed'], each)):.2f}",
            }
            for each in found.get("timed", [])
        ]
        console.print_table("on one machine", rows)
        print(f"wrote {FILE.name}; `python -m experiments.benchmarks.report` writes the page from it")

    return console.run_command(command, if_interrupted="parts that were finished are kept")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
