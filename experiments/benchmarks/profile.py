"""Time of a meta-step by kind of work: `python -m experiments.benchmarks.profile`.

JAX's profiler names every operation that the compiled program runs, and the program's text names the layer of each. The
result is kept in `rows/profile.json`; `report` puts it on the page.
"""

import collections
import json
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

import jax

from jmeta.runs import console, files
from jmeta.runs.folder import num_cpus

from .speed import ROWS, machine, versions
from .with_jax import Way, lowered
from .workloads import Workload, arrays

FILE = ROWS / "profile.json"
WORKLOAD, WAY = Workload("W1", 4, 5), Way("mixed_mode", "scan")
NUM_CALLS = 3


def profile(workload: Workload, way: Way) -> dict[str, Any]:
    """Run a few meta-steps under the profiler."""
    compiled, call = lowered(workload, arrays(workload), way)
    call(1)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began, used = time.perf_counter(), time.process_time()
            for _ in range(NUM_CALLS):
                call(1)
            wall, used = (time.perf_counter() - began) / NUM_CALLS, (time.process_time() - used) / NUM_CALLS
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        events = _events(jax.profiler.ProfileData.from_file(str(file)))
    kinds = _kinds(compiled.as_text())
    milliseconds: collections.defaultdict[str, float] = collections.defaultdict(float)
    num_operations = 0
    for name, nanoseconds in events:
        if name in kinds:
            milliseconds[kinds[name]] += nanoseconds / 1e6 / NUM_CALLS
            num_operations += 1
    return {
        "workload": workload.name,
        "way": f"{way.adjoint}, {way.batching}",
        "machine": machine(),
        "versions": versions(),
        "wall_milliseconds": wall * 1e3,
        "num_operations": round(num_operations / NUM_CALLS),
        "busy_share": used / (wall * (num_cpus() or 1)),
        "milliseconds": dict(milliseconds),
    }


def _events(data: Any) -> list[tuple[str, float]]:
    """Return the name and duration of everything that the worker threads ran."""
    lines = [line for plane in data.planes for line in plane.lines if line.name.startswith("tf_XLAEigen")]
    return [(event.name, event.duration_ns) for line in lines for event in line.events]


def _kinds(program: str) -> dict[str, str]:
    """Return the kind of work of every operation of a compiled program; loops and calls appear as their parts."""
    kinds = {}
    for match in re.finditer(r"%([\w.-]+) = \S+ ([\w-]+)\(.*", program):
        name, operation = match.groups()
        source = re.search(r'op_name="([^"]*)"', match[0])
        if operation not in ("while", "call", "parameter", "constant", "tuple", "get-tuple-element", "bitcast"):
            kinds[name] = _kind(operation, source[1] if source else "")
    return kinds


def _kind(operation: str, source: str) -> str:
    layer = re.search(r"/(conv_0|conv|norm|head)", source)
    is_product = "dot_general" in source or operation == "dot" or source.endswith("conv_0/transpose")
    if layer is None:
        return "maxima, ReLU, sums of gradients" if "Conv4" in source else "parameters, optimizer, loops"
    if layer[1] == "norm":
        return "norms"
    if layer[1] == "head":
        return "head"
    return "convolutions: products of matrices" if is_product else "convolutions: gathering rows, moving and adding"


def main() -> int:
    """Measure a profile and keep it."""

    def command() -> None:
        found = profile(WORKLOAD, WAY)
        ROWS.mkdir(exist_ok=True)
        files.replace_text(FILE, json.dumps(found, indent=1) + "\n")
        print(json.dumps(found, indent=1))

    return console.run_command(command, if_interrupted="nothing was kept")


if __name__ == "__main__":
    sys.exit(main())
