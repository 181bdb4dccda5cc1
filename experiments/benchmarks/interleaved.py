"""Time contenders in turns: each in its own process, one at a time, so that a drift of the machine affects all alike.

Only ratios within one such round mean anything. All losses and gradient norms must agree before anything is timed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .workloads import Workload


class Measured(NamedTuple):
    """The measurements of one contender.

    Attributes:
      seconds: time of a meta-step, one for each round.
      compile_seconds: time of tracing and compiling.
      temporary_bytes: temporary memory by the compiler's analysis; `None` where nothing is compiled.
      peak_bytes: largest resident memory of the process, libraries included.
      loss, grad_norm: loss and norm of the meta-gradient at the initial parameters.
    """

    seconds: list[float]
    compile_seconds: float
    temporary_bytes: int | None
    peak_bytes: int
    loss: float
    grad_norm: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class _Worker:
    def __init__(self, name: str, workload: Workload, environment: Mapping[str, str]) -> None:
        words = [name.split(" (")[0], workload.kind, str(workload.tasks), str(workload.steps)]
        words += [] if workload.dispatched is None else [str(workload.dispatched)]
        command = [sys.executable, "-m", "experiments.benchmarks.worker", *words]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, and not a pipe: a chatty library fills it
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors, "text": True}
        self.name = name
        variables = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", **environment}  # compile times are measured
        self._process = subprocess.Popen(command, env=variables, **pipes)
        self.facts: dict[str, Any] = {}
        self.seconds: list[float] = []
        self._calls = 1

    def get_ready(self) -> None:
        """Wait until the worker is ready and has printed its facts."""
        self.facts = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            self._errors.seek(0)
            error = self._errors.read()
            self._errors.close()
            raise RuntimeError(f"{self.name}: {error.strip().splitlines()[-1] if error.strip() else 'died'}")
        return line

    def run(self, num_calls: int) -> float:
        """Make that many calls and return the seconds of one meta-step."""
        assert self._process.stdin is not None
        print(num_calls, file=self._process.stdin, flush=True)
        return float(self._line()) / num_calls / self.facts["meta_steps_per_call"]

    def warm_up(self, least_seconds: float) -> None:
        """Run once, and set the number of calls that take at least that long."""
        seconds = self.run(1) * self.facts["meta_steps_per_call"]
        self._calls = max(1, round(least_seconds / seconds))

    def round(self) -> None:
        self.seconds.append(self.run(self._calls))

    def finish(self) -> Measured:
        facts = {name: self.facts[name] for name in ("compile_seconds", "temporary_bytes", "loss", "grad_norm")}
        output, _ = self._process.communicate()  # closes its input: the worker prints its peak, and ends
        self._errors.close()
        return Measured(self.seconds, peak_bytes=int(output), **facts)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._errors.close()


def measure(
    workload: Workload,
    names: Sequence[str],
    *,
    rounds: int = 5,
    least_seconds: float = 0.5,
    tolerance: float = 1e-3,
    environment: Mapping[str, str] | None = None,
    variants: Mapping[str, Mapping[str, str]] | None = None,
    together: bool = False,
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Time contenders on a workload, in turns.

    Args:
      workload: the workload to time.
      names: names of contenders, as in `worker.contender_of`; the loss and gradient of each are compared with those of
        the first.
      rounds: number of times that each is timed.
      least_seconds: shortest time of a round of each.
      tolerance: largest relative difference of a loss or gradient norm from the first one's.
      environment: environment variables of all contenders.
      variants: environment variables of some; `"NAME (VARIANT)"` is the contender NAME with those of VARIANT.
      together: whether all get ready at the same time: faster where there are cores for it, but compile times are then
        those of many compilations at once.

    Returns:
      The measurements by name; and the reasons, by name, of contenders that did not run or whose numbers differ.
    """
    workers, failed = [], {}
    try:
        for name in names:
            own = (variants or {}).get(name.partition(" (")[2].removesuffix(")"), {})
            workers.append(_Worker(name, workload, {**(environment or {}), **own}))
            if not together:
                _drop_unless_ready(workers, workers[-1], failed)
        for worker in list(workers) if together else []:
            _drop_unless_ready(workers, worker, failed)
        if names[0] in failed:
            raise RuntimeError(f"{names[0]}, which all others are compared with, did not run: {failed[names[0]]}")
        for worker in list(workers):
            if reason := _differs(worker.facts, workers[0].facts, tolerance):
                failed[worker.name] = reason
                workers.remove(worker)
                worker.stop()
        for worker in workers:
            worker.warm_up(least_seconds)
        for _ in range(rounds):
            for worker in workers:
                worker.round()
        return {worker.name: worker.finish() for worker in workers}, failed
    finally:
        for worker in workers:
            worker.stop()


def _drop_unless_ready(workers: list[_Worker], worker: _Worker, failed: dict[str, str]) -> None:
    try:
        worker.get_ready()
    except RuntimeError as error:
        failed[worker.name] = str(error)
        workers.remove(worker)


def _differs(facts: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> str | None:
    for name in ("loss", "grad_norm"):
        if not abs(facts[name] - expected[name]) <= tolerance * abs(expected[name]):
            return f"its {name} is {facts[name]:.6g} and not {expected[name]:.6g}"
    return None
