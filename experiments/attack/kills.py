"""Kill runs at moments spread over the whole of them, and compare their bits at the end with an undisturbed run's.

    undisturbed run ──► its seconds of CPU time, its bits ─────────────────────────────────────────────────┐
    the same command ──► SIGKILL after a random share of that time ──► the same command ... to its end ──► the same?

The share is uniform: from the first import over compilation, meta-steps, evaluations and saves to the last picture. It
is a share of CPU time, so that other work on the machine does not shift it. A run is killed a few times before it may
end, each time after going on from what the last one left.
"""

import concurrent.futures
import dataclasses
import itertools
import math
import os
import pathlib
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from jmeta import checkpoints
from jmeta.checkpoints import guarded
from jmeta.runs import console

from ..soak import outcome, state_of

__all__ = ["RUNS", "Kill", "attack", "figures"]

_SHORT = (
    "--training.num-steps 24 --training.steps-per-dispatch 2 --training.checkpoint-every 4 "
    "--training.evaluate-every 12 --training.num-valid-tasks 10"
)
RUNS = {
    "sinusoid MAML": f"sinusoid_maml --train-shots 3 --hidden 8 8 --training.tasks-per-step 4 {_SHORT}",
    "glyph MAML": "glyphs_maml --num-ways 2 --num-filters 4 --num-test-steps 1 --training.tasks-per-step 2 " + _SHORT,
    "RL²": f"bandit_rl2 --num-arms 2 --num-pulls 3 --width 4 --training.tasks-per-step 4 {_SHORT}",
}
"""The command lines that are killed, by name: seconds long, with a checkpoint in every second dispatch."""
_KILLS_IN_A_ROW = 4
_SECONDS_TO_END = 3600.0  # so many that a busy machine is not taken for a run that hangs


@dataclasses.dataclass(frozen=True)
class Kill:
    """One run that was killed and went on.

    Attributes:
      run: which of `RUNS`.
      share: share of the CPU time of an undisturbed run after which it was killed.
      saved: the newest checkpoint at that moment; 0 if there was none.
      resumed_from: the step that the same command went on from.
      differing: what differed from the undisturbed run when the run had ended; nothing is expected to.
    """

    run: str
    share: float
    saved: int
    resumed_from: int
    differing: list[str]

    @property
    def is_lost(self) -> bool:
        """Whether a checkpoint that had its name was not resumed from."""
        return self.saved != self.resumed_from


class _Target:
    """One command line: how long it takes, and what its undisturbed run ended in."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.run(folder / "compiled")  # another run, since this one compiles
        self.seconds = self.run(folder / "whole")
        self.like = state_of(folder / "whole" / "seed_0")
        self.expected = outcome(folder / "whole" / "seed_0", self.like)
        if differing := self.differing(folder / "compiled"):
            raise console.StoppedError(f"two undisturbed runs of {name} differ in {', '.join(differing)}")

    def run(self, folder: pathlib.Path, seconds: float = math.inf) -> float:
        """Run the command, killed after so many seconds of CPU time; return those it took to its end, or infinity."""
        command = [sys.executable, "-m", "jmeta", "train", *shlex.split(RUNS[self.name]), "--run-dir", str(folder)]
        # bits depend on the size of XLA's thread pool
        environment = {"NPROC": "2", **os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        environment["JAX_COMPILATION_CACHE_DIR"] = str(self.folder / "compiled_programs")
        log, taken, until = folder.with_suffix(".log"), 0.0, time.monotonic() + _SECONDS_TO_END
        with log.open("w") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process:
            try:
                while process.poll() is None and taken < seconds:
                    taken = max(taken, _cpu_seconds(process.pid))
                    if time.monotonic() > until:
                        raise console.StoppedError(f"{self.name} hangs after {taken:.1f} s of CPU time; see {folder}")
                    time.sleep(0.01)
            finally:
                process.kill()
        if process.returncode == 0:
            return taken
        if taken < seconds:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise console.StoppedError(f"{self.name} ended with status {process.returncode}:\n{tail}")
        return math.inf

    def differing(self, folder: pathlib.Path) -> list[str]:
        """Return what a run in this folder ended in that the undisturbed one did not."""
        found = outcome(folder / "seed_0", self.like)
        return [what for what in self.expected if found[what] != self.expected[what]]

    def killed(self, folder: pathlib.Path, shares: list[float]) -> list[Kill]:
        """Kill a run after these shares of its time, each time going on, until it has ended; remove it if all is well.

        It may end before the last of them, since a run that goes on takes less time than a new one.
        """
        seed, kills = folder / "seed_0", list[tuple[float, int, int]]()
        for share in [*shares, math.inf]:
            if math.isfinite(self.run(folder, share * self.seconds)):
                break
            num_starts = len(list(guarded.read_lines(seed / "sessions.jsonl")))
            kills.append((share, num_starts, max(checkpoints.steps(seed / "checkpoints"), default=0)))
        starts = [line["resumed_from"] for line in guarded.read_lines(seed / "sessions.jsonl")]
        differing = self.differing(folder)
        done = [Kill(self.name, round(share, 4), saved, starts[n], differing) for share, n, saved in kills]
        if not any(kill.differing or kill.is_lost for kill in done):
            shutil.rmtree(folder)
            folder.with_suffix(".log").unlink()
        return done


def attack(count: int, seed: int, folder: pathlib.Path, num_at_once: int) -> Iterator[Kill]:
    """Kill runs of each kind in turn; a run that ends in other bits, or loses a checkpoint, is left in `folder`.

    Args:
      count: least number of kills.
      seed: of the moments.
      folder: a folder without runs, on the disk to be tried.
      num_at_once: runs at the same time.

    Raises:
      StoppedError: if a run hangs, or ends with an error.
    """
    with concurrent.futures.ThreadPoolExecutor(num_at_once) as pool:
        targets = list(pool.map(lambda i: _Target(list(RUNS)[i], folder / f"target_{i}"), range(len(RUNS))))

        def chain(i: int) -> list[Kill]:
            moments = random.Random(f"{seed}, {i}")
            shares = [moments.random() for _ in range(_KILLS_IN_A_ROW)]
            return targets[i % len(targets)].killed(folder / f"killed_{i}", shares)

        done, numbers = 0, itertools.count()
        running = {pool.submit(chain, next(numbers)) for _ in range(num_at_once)}
        while running:
            ended, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for kills in (future.result() for future in ended):
                done += len(kills)
                yield from kills
            if done < count:
                running |= {pool.submit(chain, next(numbers)) for _ in ended}


def figures(kills: list[Kill]) -> list[dict[str, Any]]:
    """Return one row for each kind of run."""
    rows = []
    for name in dict.fromkeys(kill.run for kill in kills):
        found = [kill for kill in kills if kill.run == name]
        rows.append(
            {
                "run": name,
                "kills": len(found),
                "before_a_checkpoint": sum(not kill.saved for kill in found),
                "lost_checkpoints": sum(kill.is_lost for kill in found),
                "other_bits": sum(bool(kill.differing) for kill in found),
                "shares": [min(kill.share for kill in found), max(kill.share for kill in found)],
            }
        )
    return rows


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken (in /proc, so on Linux only); 0 once it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
