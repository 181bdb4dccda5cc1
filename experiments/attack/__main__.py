"""Attack what users hand to jmeta, with seeded random inputs: `python -m experiments.attack --seconds 600`.

    a seed, a surface, a number ──► one input ──► a right result, or one clear error?  anything else is a finding

A finding is printed and kept in the record with its surface and number, by which `--only` repeats it alone. With
`--kills` runs are killed, too (see `kills`). The record is a JSON file with the figures of both, which
`docs/reliability.md` shows (see `table`).
"""

import collections
import dataclasses
import json
import pathlib
import platform
import shutil
import sys
import tempfile
import time
import warnings
from typing import Any

import jax
import tyro

from jmeta.runs import console, files
from jmeta.runs.folder import num_cpus

from . import arrays, calls, cases, commands, configurations, episodes, images, kills, saved, table

SURFACES: dict[str, cases.Attack] = {
    "images": images.attack,
    "arrays": arrays.attack,
    "configurations": configurations.attack,
    "checkpoints": saved.attack,
    "commands": commands.attack,
    "calls": calls.attack,
    "tasks": episodes.attack,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Attack what users hand to jmeta, with seeded random inputs, and kill its runs."""

    seconds: float = 60.0
    """Seconds of attacks; every surface gets its share of the processor."""
    cases: int | None = None
    """Most inputs of each surface; no limit if not given."""
    kills: int = 0
    """Kills of runs, after the attacks."""
    runs_at_once: int = 2
    """Runs that are killed at the same time."""
    seed: int = 0
    """Seed of all inputs and moments."""
    only: str | None = None
    """Repeat one input alone, such as `images:17`."""
    out: pathlib.Path | None = None
    """Folder to work in, on the disk to be tried; a temporary one if not given."""
    record: pathlib.Path = table.RECORD
    """JSON file of the figures; those of attacks and those of kills are replaced apart."""


def attack(options: Options, folder: pathlib.Path) -> list[cases.Finding]:
    """Attack all surfaces, the one with the least time behind it next; write and return what was found."""
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in SURFACES}
    spent, slowest = dict.fromkeys(SURFACES, 0.0), dict.fromkeys(SURFACES, 0.0)
    findings, until = list[cases.Finding](), time.monotonic() + options.seconds
    most = float("inf") if options.cases is None else options.cases
    while time.monotonic() < until and (left := [name for name in SURFACES if counts[name].total() < most]):
        name = min(left, key=lambda name: spent[name])
        before = time.process_time()
        outcome = one(options, name, counts[name].total(), folder)
        taken = time.process_time() - before
        spent[name], slowest[name] = spent[name] + taken, max(slowest[name], taken)
        if isinstance(outcome, cases.Finding):
            findings.append(outcome)
        counts[name]["findings" if isinstance(outcome, cases.Finding) else outcome] += 1
        if sum(count.total() for count in counts.values()) % 500 == 0:
            write_attacks(options, counts, slowest, findings)
    write_attacks(options, counts, slowest, findings)
    return findings


def write_attacks(
    options: Options,
    counts: dict[str, collections.Counter[str]],
    slowest: dict[str, float],
    findings: list[cases.Finding],
) -> None:
    """Write one row for each surface, and all findings so far."""
    rows = [
        {"surface": name, "inputs": count.total(), **count, "slowest_seconds": round(slowest[name], 3)}
        for name, count in counts.items()
    ]
    part = {"seed": options.seed, "rows": rows, "findings": [each._asdict() for each in findings]}
    write(options.record, attacks=part)


def one(options: Options, surface: str, index: int, folder: pathlib.Path) -> cases.Outcome | cases.Finding:
    """Run one case; the files of a finding are left in `folder`."""
    place = folder / surface / str(index)
    outcome = cases.run(SURFACES[surface], surface, options.seed, index, place)
    if isinstance(outcome, cases.Finding):
        print(f"{surface}:{index} {outcome.what}", flush=True)
    else:
        shutil.rmtree(place)
    return outcome


def kill_runs(options: Options, folder: pathlib.Path) -> list[kills.Kill]:
    """Kill runs, with a line for each kill."""
    done, began = list[kills.Kill](), time.monotonic()
    for kill in kills.attack(options.kills, options.seed, folder, options.runs_at_once):
        done.append(kill)
        ended = f"OTHER {', '.join(kill.differing)}" if kill.differing else "the same bits"
        print(
            f"{time.monotonic() - began:6.0f} s  {len(done)}: {kill.run} after {kill.share:.0%}, saved {kill.saved}, "
            f"resumed from {kill.resumed_from}, {ended}",
            flush=True,
        )
        write(options.record, kills={"seed": options.seed, "rows": kills.figures(done)})
    return done


def write(path: pathlib.Path, **parts: dict[str, Any]) -> None:
    """Write parts of the record, and leave the others."""
    recorded = json.loads(path.read_text()) if path.exists() else {}
    machine = {"jax": jax.__version__, "cpus": num_cpus(), "processor": _processor()}
    recorded |= {name: {**machine, **part} for name, part in parts.items()}
    files.replace_text(path, json.dumps(recorded, indent=1) + "\n")


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(options: Options) -> bool:
    """Attack, kill, write the record and print its tables; return whether nothing was found."""
    with tempfile.TemporaryDirectory(prefix="attack-") as temporary:
        folder = options.out or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if options.only is not None:
            surface, _, index = options.only.partition(":")
            if surface not in SURFACES or not index.isdecimal():
                raise ValueError(f"--only {options.only}; expected SURFACE:INDEX, a surface of {', '.join(SURFACES)}")
            return not isinstance(one(options, surface, int(index), folder), cases.Finding)
        findings = attack(options, folder) if options.seconds > 0 else []
        killed = kill_runs(options, folder / "kills") if options.kills else []
    print("\n\n".join(table.sections(json.loads(options.record.read_text())).values()))
    return not findings and not any(kill.differing or kill.is_lost for kill in killed)


def run(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options, verdicts = tyro.cli(Options, args=arguments, prog="python -m experiments.attack"), list[bool]()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_disable_most_optimizations", True)  # a program runs once
    jax.config.update("jax_traceback_filtering", "off")  # or errors of JAX would look like ours
    warnings.simplefilter("ignore")  # which tests cover
    status = console.run_command(lambda: verdicts.append(main(options)), if_interrupted="the record is complete so far")
    return status or int(not all(verdicts))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
