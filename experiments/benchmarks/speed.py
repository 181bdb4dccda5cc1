"""Speed and memory of jmeta and others: `python -m experiments.benchmarks.speed [--only "W1 T=4 S=5"] [--tuned]`.

Each workload is timed in one interleaved run of all contenders and kept in `rows/MACHINE/`; `report` makes
`BENCHMARKS.md` of what is kept. The other libraries: `pip install "jmeta[peers]"`,
`pip install --no-deps higher torchopt jax-meta`, and learn2learn's source distribution, unpacked, its folder in
`LEARN2LEARN`; those that are missing are reported as such.
"""

import dataclasses
import json
import os
import pathlib
import re
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jmeta.runs import console, files
from jmeta.runs.folder import num_cpus

from .interleaved import Measured, measure
from .workloads import Workload

ROWS = pathlib.Path(__file__).parent / "rows"
TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}
"""Environment with huge pages and memory that is kept: on a CPU, fresh pages cost as much as the arithmetic."""

TORCH = ("learn2learn", "higher", "TorchOpt")
CONTENDERS: dict[Workload, tuple[str, ...]] = {
    Workload("W1", 32, 5): ("jmeta: unrolled, scan", "jmeta: mixed_mode, scan", "by hand: scan", "learn2learn"),
    Workload("W1", 4, 5): (
        "jmeta: unrolled, auto",
        "jmeta: unrolled, scan",
        "jmeta: unrolled, vmap",
        "jmeta: rematerialized, scan",
        "jmeta: mixed_mode, scan",
        "by hand: scan",
        *TORCH,
        "torch.func: loop",
        "torch.func: vmap",
        "torch.func: loop, compiled",
        "jax-meta",
    ),
    Workload("W1", 4, 1): (
        "jmeta: unrolled, scan",
        "jmeta: unrolled, vmap",
        "jmeta: first step apart, vmap",
        "jmeta: unrolled, scan; xla",
        "jmeta: mixed_mode, scan",
        "by hand: scan",
        *TORCH,
        "torch.func: loop",
        "torch.func: vmap",
        "torch.func: loop, compiled",
    ),
    Workload("W1", 1, 20): (
        "jmeta: unrolled, scan",
        "jmeta: mixed_mode, scan",
        "jmeta: rematerialized, scan",
        "learn2learn",
    ),
    Workload("W1", 1, 100): (
        "jmeta: unrolled, scan",
        "jmeta: mixed_mode, scan",
        "jmeta: mixed_mode in blocks, scan",
        "jmeta: rematerialized, scan",
        "learn2learn",
    ),
    Workload("W2", 25, 1): (
        "jmeta: unrolled, auto",
        "jmeta: first step apart, auto",
        "by hand: vmap",
        *TORCH,
        "torch.func: vmap",
        "jax-meta",
    ),
    Workload("W2", 25, 5): (
        "jmeta: unrolled, auto",
        "jmeta: first step apart, auto",
        "by hand: vmap",
        *TORCH,
        "torch.func: vmap",
        "jax-meta",
    ),
    Workload("W2", 1000, 5): (
        "jmeta: unrolled, vmap",
        "jmeta: unrolled, auto",
        "jmeta: unrolled, scan",
        "by hand: vmap",
        "learn2learn",
        "torch.func: vmap",
        "jax-meta",
    ),
    Workload("W3", 1, 0): ("jmeta: unrolled, scan", "by hand: scan", "PyTorch"),
    Workload("W4-A2C", 512, 100): ("jmeta: one pass", "jmeta: collected first", "PyTorch"),
    Workload("W4-PPO", 512, 100): ("jmeta: collected first", "PyTorch"),
}
TOLERANCE = {100: 0.05, 20: 5e-3, 5: 5e-3}
"""Tolerance of losses and gradient norms by number of steps, 10⁻³ for others: float32 results drift apart from step to
step, above all where the order of sums decides which of two nearly equal pixels is the maximum."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Time jmeta and other libraries."""

    only: tuple[str, ...] = ()
    """Names of workloads, such as "W1 T=4 S=5"; all if not given."""
    rounds: int = 5
    """Number of times that each contender is timed."""
    tuned: bool = False
    """Use huge pages and keep memory, for all contenders."""


def record(workload: Workload, options: Options) -> dict[str, Any]:
    """Measure a workload and keep the row."""
    peak, copied = matmul_peak(), copied_bytes_per_second()
    measured, failed = measure(
        workload,
        CONTENDERS[workload],
        rounds=options.rounds,
        tolerance=1e-3 if workload.acts else TOLERANCE.get(workload.steps, 1e-3),
        environment=TUNED if options.tuned else None,
    )
    row = {
        "workload": workload.name,
        "is_tuned": options.tuned,
        "machine": machine(),
        "versions": versions(),
        "matmul_peak": peak,
        "copied_bytes_per_second": copied,
        "measured": {name: each._asdict() for name, each in measured.items()},
        "failed": failed,
    }
    folder = ROWS / re.sub(r"\W+", "_", row["machine"].lower()).strip("_")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{workload.name.replace(' ', '_').replace('=', '')}{'_tuned' if options.tuned else ''}.json"
    files.replace_text(file, json.dumps(row, indent=1) + "\n")
    _show(workload.name, measured, failed)
    return row


def matmul_peak(size: int = 3072) -> float:
    """Return the FLOP per second of the fastest of a few large float32 matrix products: the machine's peak."""
    product = jax.jit(jnp.matmul)
    a = jax.block_until_ready(jnp.ones((size, size)))
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def copied_bytes_per_second(size: int = 2**28) -> float:
    """Bytes a second that NumPy copies from one large array to another, on one core."""
    source = np.ones(size, np.uint8)
    target = np.empty_like(source)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return size / min(seconds[1:])


def machine() -> str:
    """Describe the device and its cores."""
    device = jax.devices()[0]
    model = next(
        (
            re.sub(r"\((R|TM)\)| Processor| CPU| @.*", "", line.split(":")[1]).strip()
            for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "CPU",
    )
    return device.device_kind if device.platform != "cpu" else f"{num_cpus()} cores of {model}"


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries, by name."""
    import importlib.metadata

    found = {}
    for name in ("jax", "jaxlib", "torch", "higher", "torchopt", "jax-meta", "dm-haiku", "brax"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if folder := os.environ.get("LEARN2LEARN"):
        found["learn2learn"] = pathlib.Path(folder).resolve().name.split("-")[-1]
    return found


def _show(title: str, measured: dict[str, Measured], failed: dict[str, str]) -> None:
    first = next(iter(measured.values())).median
    rows = [
        {
            "": name,
            "ms a meta-step": f"{each.median * 1e3:.2f}",
            "time of the first": f"{each.median / first:.2f}",
            "temporary MB": "" if each.temporary_bytes is None else f"{each.temporary_bytes / 1e6:.1f}",
            "peak MB": f"{each.peak_bytes / 1e6:.0f}",
            "compile s": f"{each.compile_seconds:.1f}",
        }
        for name, each in measured.items()
    ]
    console.print_table(title, rows)
    for name, reason in failed.items():
        print(f"{name}: {reason}")


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.benchmarks.speed")
    known = {workload.name: workload for workload in CONTENDERS}

    def command() -> None:
        if unknown := set(options.only) - set(known):
            raise ValueError(f"no workload {', '.join(sorted(unknown))}; the workloads are {', '.join(known)}")
        for name in options.only or known:
            record(known[name], options)

    return console.run_command(command, if_interrupted="finished workloads are kept")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
