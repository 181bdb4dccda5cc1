"""Disturb a job for a long time: `python -m experiments.soak --minutes 30 --processes 2`.

    seed ──► an undisturbed run, in one process ────────────────────────────┐
         └─► the same in several processes, killed again and again ──► the same bits?  memory and handles level?

A small recipe is trained in several processes. Every now and then one of them gets SIGKILL or SIGTERM, or the launcher
gets SIGKILL; then the same command is started again, until the run is complete. Its result is compared, bit by bit,
with that of an undisturbed run in a single process. Further seeds follow until the time is over. All the while the
memory and the open file handles of every process are sampled (in /proc, so on Linux only) and kept in the record.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any

import jax
import numpy as np
import tyro

from jmeta import checkpoints
from jmeta.runs import console, evaluate, files
from jmeta.runs.folder import num_cpus
from jmeta.runs.launch import EXIT_LOST, EXIT_PREEMPTED
from jmeta.runs.log import read_metrics
from jmeta.runs.state import RunState, init_state

from .watching import Level, Sample, children_of, look_at, seconds_of, wait_until_gone

NUM_BLOCKS = 8
"""Number of blocks of tasks; with it one process and several compute the same bits (see `jmeta.sharding`)."""
RECIPE = [
    "sinusoid_maml",
    *["--train-shots", "3", "--hidden", "8", "8", "--training.tasks-per-step", "8"],
    *["--training.num-blocks", str(NUM_BLOCKS), "--training.num-valid-tasks", "10", "--training.steps-per-dispatch"],
    *["20", "--training.evaluate-every", "1000", "--training.checkpoint-every", "500"],
]

KILL, ASK, KILL_LAUNCHER = "SIGKILL to a process", "SIGTERM to a process", "SIGKILL to the launcher"
STATUSES = {KILL: {EXIT_LOST}, ASK: {EXIT_PREEMPTED, EXIT_LOST}, KILL_LAUNCHER: {-signal.SIGKILL}, "": {0}}
"""Exit statuses of a launcher allowed after each disturbance. A process that gets SIGTERM before it has joined the
others counts as lost."""
DECK = [KILL, KILL, ASK, KILL_LAUNCHER]

SECONDS_TO_JUDGE = 30.0
"""Shortest training in which a process's memory is judged: a shorter one is still compiling."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Kill the processes of a job again and again, and check that it ends as if undisturbed."""

    minutes: float = 30.0
    """Minutes of disturbed jobs. After that nothing is killed any more, and the last run finishes."""
    processes: int = 2
    """Processes of the disturbed run."""
    devices: int = 1
    """CPU devices of each process."""
    seconds_between: tuple[float, float] = (20.0, 60.0)
    """Shortest and longest time between two disturbances, counted from when the job has saved something new. One in
    four is counted from the job's start, so that it may come before that."""
    steps: int = 350_000
    """Meta-steps of a run; after a run that ends before the time is over comes one of the next seed."""
    seed: int = 0
    """Seed of the first run, and of the moments of the disturbances."""
    folder: pathlib.Path | None = None
    """Folder of the runs; a temporary one, removed at the end, if not given."""
    record: pathlib.Path = pathlib.Path("soak.json")
    """JSON file of all that happened."""


@dataclasses.dataclass
class Life:
    """A job from its start to its end."""

    seed: int
    is_disturbed: bool
    began: float
    trains_from: float | None = None
    done_to_it: str = ""
    victim: int | None = None
    after: float = 0.0
    status: int = 0
    step: int = 0
    samples: dict[int, list[Sample]] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        samples = {rank: [[round(n, 2) for n in each] for each in seen] for rank, seen in self.samples.items()}
        return {**dataclasses.asdict(self), "samples": samples}


class Soak:
    """The state of one soak: its runs, its jobs, and the disturbances to come."""

    def __init__(self, options: Options, folder: pathlib.Path) -> None:
        self.options, self.folder = options, folder
        self.lives: list[Life] = []
        self.runs: list[dict[str, Any]] = []
        self._began = time.monotonic()
        self._moments = random.Random(options.seed)
        self._deck: list[str] = []

    @property
    def seconds(self) -> float:
        """Seconds since the soak began."""
        return time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        """Whether the jobs that were, or were to be, disturbed have taken as long as requested."""
        lives = [life for life in self.lives if life.is_disturbed]
        return sum(life.after or self.seconds - life.began for life in lives) >= 60 * self.options.minutes

    def run_seed(self, seed: int) -> None:
        """Do an undisturbed run and the same run disturbed, and record whether they end in the same bits."""
        began = self.seconds
        whole, disturbed = self.folder / f"whole_{seed}", self.folder / f"disturbed_{seed}"
        self._live(seed, whole, is_disturbed=False)
        before = len(self.lives)
        while self._live(seed, disturbed, is_disturbed=True).status:
            pass
        like = state_of(whole / f"seed_{seed}")
        expected, found = (outcome(folder / f"seed_{seed}", like) for folder in (whole, disturbed))
        differing = [name for name in expected if expected[name] != found[name]]
        disturbances = [life.done_to_it for life in self.lives[before:] if life.status]
        run = {
            "seed": seed,
            "minutes": (self.seconds - began) / 60,
            "lives": len(self.lives) - before,
            "disturbances": {what or "none": disturbances.count(what) for what in sorted(set(disturbances))},
            "differing": differing,
            "digests": [expected["state"], found["state"]],
        }
        self.runs.append(run)
        self.write_record()
        _say(f"{self._clock()} seed {seed}: {'OTHER ' + ', '.join(differing) if differing else 'the same bits'}")

    def _live(self, seed: int, folder: pathlib.Path, *, is_disturbed: bool) -> Life:
        """Start the command of a run once, disturb it if `is_disturbed`, and wait for its end."""
        options = self.options
        arguments = [*RECIPE, "--training.num-steps", str(options.steps), "--training.seed", str(seed)]
        train = ["train", *arguments, "--run-dir", str(folder)]
        if is_disturbed:
            launch = ["launch", "--processes", str(options.processes), "--devices", str(options.devices)]
            command, delay = [*launch, *train], self._moments.uniform(*options.seconds_between)
        else:
            command, delay = [*train, "--mesh", "tasks=1"], None
        life = Life(seed, is_disturbed, began=self.seconds)
        self.lives.append(life)
        log = self.folder / "output.log"
        saved = folder / f"seed_{seed}" / "checkpoints"
        with log.open("a") as file, _started(command, file) as process:
            pids = self._watch(process, life, saved, delay)
        life.status, life.after = process.returncode, self.seconds - life.began
        life.step = _last_step(saved)
        what = f"{life.done_to_it}{'' if life.victim is None else f' ({life.victim})'}" or "left in peace"
        name = f"seed {seed} in {options.processes if is_disturbed else 1}"
        _say(f"{self._clock()} {name}: {what}, status {life.status} after {life.after:.0f} s, step {life.step} saved")
        if (not life.done_to_it and life.status) or life.status not in STATUSES[life.done_to_it] | {0}:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise console.StoppedError(f"a job ended with status {life.status} after {what}; its last output:\n{tail}")
        wait_until_gone(pids)
        return life

    def _watch(
        self, process: "subprocess.Popen[bytes]", life: Life, saved: pathlib.Path, delay: float | None
    ) -> set[int]:
        """Sample the processes of a job until it ends, and disturb it when due; return the ids of all processes."""
        seen, next_look, first_step = set(), 0.0, _last_step(saved)
        counts_from_start = self._moments.random() < 0.25
        while process.poll() is None:
            pids = children_of(process.pid) if life.is_disturbed else {0: process.pid}
            seen |= set(pids.values())
            now, step = self.seconds - life.began, _last_step(saved)
            if life.trains_from is None and step > first_step:
                life.trains_from = now
            if now >= next_look and step < self.options.steps:  # after its last step a run draws pictures
                next_look = now + 1.0
                for rank, pid in pids.items():
                    if (look := look_at(pid)) is not None:
                        life.samples.setdefault(rank, []).append(Sample(now, *look))
            since = 0.0 if counts_from_start else life.trains_from
            if delay is not None and since is not None and now >= since + delay and pids and self._may_disturb():
                delay = None
                self._disturb(process, life, pids)
            time.sleep(0.1)
        return seen

    def _may_disturb(self) -> bool:
        """Return whether a disturbance is allowed: until the time is over, and once in any case."""
        return not self.is_over or not any(life.done_to_it for life in self.lives)

    def _disturb(self, process: "subprocess.Popen[bytes]", life: Life, pids: dict[int, int]) -> None:
        if not self._deck:
            self._deck = self._moments.sample(DECK, len(DECK))
        life.done_to_it = self._deck.pop()
        if life.done_to_it == KILL_LAUNCHER:
            process.kill()
            return
        life.victim = self._moments.choice(sorted(pids))
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(pids[life.victim], signal.SIGKILL if life.done_to_it == KILL else signal.SIGTERM)

    def _clock(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{minutes:3d}:{seconds:02d}"

    def groups(self) -> dict[str, Level]:
        """Return the growth of memory and handles, of processes that ran alone and of disturbed ones, by name."""
        names = {"alone, undisturbed": False, f"one of {self.options.processes}, disturbed": True}
        looks = {name: [] for name in names}
        for name, is_disturbed in names.items():
            for life in self.lives:
                if life.is_disturbed == is_disturbed and (since := life.trains_from) is not None:
                    looks[name] += [[one for one in seen if one.seconds >= since] for seen in life.samples.values()]
        long = {name: [seen for seen in each if seconds_of(seen) >= SECONDS_TO_JUDGE] for name, each in looks.items()}
        return {name: Level.of(seen) for name, seen in long.items() if seen}

    def write_record(self) -> None:
        """Write the record of all that has happened so far."""
        places = ("folder", "record")
        options = {name: value for name, value in dataclasses.asdict(self.options).items() if name not in places}
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "jax": jax.__version__,
            "cpus": num_cpus(),
            "options": options,
            "recipe": RECIPE,
            "minutes": self.seconds / 60,
            "is_reproduced": all(not run["differing"] for run in self.runs),
            "levels": {name: {**level._asdict(), "is_level": level.is_level} for name, level in self.groups().items()},
            "runs": self.runs,
            "lives": [life.as_json() for life in self.lives],
        }
        self.options.record.parent.mkdir(parents=True, exist_ok=True)
        files.replace_text(self.options.record, json.dumps(content) + "\n")


def state_of(folder: pathlib.Path) -> RunState:
    """Return the state that a run begins with: all states of the run have its shapes."""
    recipe, options = evaluate.recipe_of(folder, None)
    return init_state(recipe.build(options), options.training.seed)


def outcome(folder: pathlib.Path, like: RunState) -> dict[str, Any]:
    """Return the outcome of a run without times: digests of its state and best parameters, metrics, checkpoints.

    Args:
      folder: folder of one seed's run.
      like: as `state_of` returns it.
    """
    restored, best = (checkpoints.restore(folder / "checkpoints", like, best=best) for best in (False, True))
    assert restored is not None
    assert best is not None
    step, state = restored
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)]
    return {
        "step": step,
        "state": _digest(state._replace(key=jax.random.key_data(state.key))),
        "best parameters": _digest(best[1].best_meta_params),
        "metrics": metrics,
        "checkpoints": checkpoints.steps(folder / "checkpoints"),
    }


def _digest(tree: Any) -> str:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


@contextlib.contextmanager
def _started(command: list[str], log: IO[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the command `jmeta` in a process that does not outlive the block."""
    # bits depend on the size of XLA's thread pool: make it the same for all numbers of processes
    environment = {"NPROC": str(NUM_BLOCKS), **os.environ, "JAX_PLATFORMS": "cpu"}
    program = [sys.executable, "-m", "jmeta", *command]
    process = subprocess.Popen(program, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _last_step(folder: pathlib.Path) -> int:
    return max(checkpoints.steps(folder), default=0)


def _say(text: str) -> None:
    print(text, flush=True)


def soak(options: Options) -> bool:
    """Run the whole soak, write the record and print a summary; return whether everything is as it should be.

    Raises:
      ValueError: if an option is out of its range.
      StoppedError: if a job ended with a status that is not allowed, or outlived its launcher.
    """
    num_devices = options.processes * options.devices
    if options.processes < 1 or options.devices < 1 or NUM_BLOCKS % num_devices:
        raise ValueError(
            f"--processes {options.processes} --devices {options.devices}; expected a product of both that divides "
            f"{NUM_BLOCKS}"
        )
    if not 0 < options.seconds_between[0] <= options.seconds_between[1]:
        raise ValueError(f"--seconds-between {options.seconds_between}; expected two positive times, shortest first")
    with contextlib.ExitStack() as stack:
        folder = (
            files.named_by_user(options.folder)
            if options.folder
            else pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        )
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"--folder {folder} is not empty; choose another, since the runs there would be continued")
        all_of_it = Soak(options, folder)
        try:
            for seed in range(options.seed, sys.maxsize):
                all_of_it.run_seed(seed)
                if all_of_it.is_over:
                    break
        finally:
            all_of_it.write_record()
    return _conclude(all_of_it)


def _conclude(done: Soak) -> bool:
    rows = []
    for run in done.runs:
        counts = {what: str(run["disturbances"].get(what, 0)) for what in dict.fromkeys(DECK)}
        ended = "OTHER " + ", ".join(run["differing"]) if run["differing"] else "the same bits"
        rows.append({"seed": str(run["seed"]), "minutes": f"{run['minutes']:.1f}", **counts, "ended in": ended})
    console.print_table(f"{len(rows)} runs of {done.options.steps} steps in {done.seconds / 60:.1f} minutes", rows)
    levels = done.groups()
    rows = [
        {
            "processes": name,
            "judged": str(level.num_processes),
            "longest": f"{level.longest:.0f} s",
            "memory": f"{level.rss_mb:.0f} MB",
            "slope": f"{level.mb_per_minute:+.2f} MB/min",
            "handles": str(level.handles),
            "more": f"{level.more_handles:+d}",
            "level": "yes" if level.is_level else "NO",
        }
        for name, level in levels.items()
    ]
    if rows:
        console.print_table("memory and file handles, in the second half of each process's training", rows)
    if is_short := len(levels) < 2:
        seconds = f"{SECONDS_TO_JUDGE:.0f} s"
        print(f"memory is not judged: that needs {seconds} of training, alone and disturbed; pass more --steps")
    print(f"record: {done.options.record}")
    is_level = not is_short and all(level.is_level for level in levels.values())
    return is_level and not any(run["differing"] for run in done.runs)


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.soak")
    console.use_compilation_cache()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no started process is left behind
    verdicts = []
    status = console.run_command(lambda: verdicts.append(soak(options)), if_interrupted="the record is complete so far")
    return status or int(not all(verdicts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
