"""Attacks on command lines: words of all commands, right and wrong, in this process.

No run is trained: where every word is right, the run folder is a file, so that the command ends with that. So a wrong
word must be named instead, and nothing may be written.
"""

import contextlib
import io
import itertools
import pathlib
import re
from typing import Any

import numpy as np

from jmeta.runs import recipes
from jmeta.runs.main import run

from .cases import Outcome, WrongError

__all__ = ["attack"]

_NUMBERS = [
    "0",
    "-1",
    "1",
    "2",
    "7",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_000",
    "0x10",
    "٣",
    "9" * 400,
    "",
    " ",
    "None",
    "True",
    "{}",
    "é",
    "\ud800",
    "\x1b[2J",
    "$HOME",
    "--",
    "-",
    "a b",
]
_OPTIONS = [
    *["--num-shots", "--num-queries", "--num-ways", "--meta-lr", "--widths", "--training.num-steps", "--training.seed"],
    *["--training.tasks-per-step", "--training.steps-per-dispatch", "--training.evaluate-every", "--training.patience"],
    *[
        "--training.batching",
        "--training.num-blocks",
        "--training.mesh",
        "--training.warm-start",
        "--testing.num-tasks",
    ],
    *[
        "--testing.tasks-at-once",
        "--seeds",
        "--seeds-at-once",
        "--mesh",
        "--distributed",
        "--nonsense",
        "-x",
        "--training",
    ],
]
_COMMANDS = ["train", "evaluate", "replay", "launch", "recipes", "tarin", "", "--version", "-h", "--help", "é"]


def attack(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """Run one command line."""
    (folder / "file").write_text("no folder")
    words = _words(rng, folder)
    status, output, error = _ran(words)
    what = f"jmeta {' '.join(words)!r:.200}"
    if "Traceback" in output + error:
        raise WrongError(f"{what}: prints a traceback: {error[-300:]}")
    if status not in (0, 1, 2):
        raise WrongError(f"{what}: status {status}")
    if status == 1 and len(error.strip().splitlines()) != 1:
        raise WrongError(f"{what}: not one line but {error[:300]!r}")
    if status == 1 and not error.startswith("error: "):
        raise WrongError(f"{what}: says {error[:300]!r}")
    if status == 2 and not (error + output).strip():
        raise WrongError(f"{what}: says nothing")
    if status == 0 and not output.strip():
        raise WrongError(f"{what}: does nothing, and says nothing")
    if sorted(path.name for path in folder.iterdir()) != ["file"]:
        raise WrongError(f"{what}: wrote {[path.name for path in folder.iterdir()]}")
    is_past_the_checks = status == 0 or re.search("is not a folder|File exists|Not a directory", error)
    if is_past_the_checks and (bad := _wrong_number(words)):
        raise WrongError(f"{what}: takes {bad}, and says {error[:200]!r}")
    return "refused" if status else "right"


def _words(rng: np.random.Generator, folder: pathlib.Path) -> list[str]:
    command = _COMMANDS[0] if rng.integers(2) else _COMMANDS[rng.integers(len(_COMMANDS))]
    number = lambda: str(_NUMBERS[rng.integers(len(_NUMBERS))])  # noqa: E731
    file = str(folder / "file")
    match command:
        case "train":
            recipe = (
                "blobs_protonet"
                if rng.integers(4)
                else str(rng.choice([*recipes.names()[::9], "blobs", "x.py", file, *_NUMBERS]))
            )
            words = [command, recipe, "--run-dir", file]
            for _ in range(int(rng.integers(0, 3))):
                words += [_OPTIONS[rng.integers(len(_OPTIONS))], number()][: int(rng.integers(1, 3))]
            return words
        case "evaluate" | "replay":
            words = [command, [file, str(folder), str(folder / "nothing"), number()][rng.integers(4)]]
            options = ["--step", "--inner-steps", "--baselines", "--recipe", "--num-ways"]
            for _ in range(int(rng.integers(0, 3))):
                words += [options[rng.integers(5)], number()][: int(rng.integers(1, 3))]
            return words
        case "launch":
            options = ["--processes", "--devices", "--grace-seconds", "-m"]
            words = [command]
            for _ in range(int(rng.integers(0, 3))):
                words += [options[rng.integers(4)], number()][: int(rng.integers(1, 3))]
            return words  # never a command to start
        case _:
            return [command, *[number() for _ in range(int(rng.integers(0, 3)))]]


def _ran(words: list[str]) -> tuple[Any, str, str]:
    output, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        try:
            status = run(words)
        except SystemExit as ended:
            status = 0 if ended.code is None else ended.code
    return status, output.getvalue(), error.getvalue()


_LEAST = {
    **dict.fromkeys(["--training.tasks-per-step", "--seeds"], 1),
    **dict.fromkeys(["--training.num-steps", "--training.patience", "--testing.tasks-at-once", "--seeds-at-once"], 1),
    "--testing.num-tasks": 2,
    "--training.seed": 0,
}


def _wrong_number(words: list[str]) -> str:
    """Return an option whose value is, by its name alone, no number that it takes; the last one of a name counts."""
    if words[:2] != ["train", "blobs_protonet"] or "--help" in words:
        return ""
    given = {name: value for name, value in itertools.pairwise(words) if name in _LEAST}
    for name, value in given.items():
        is_right = re.fullmatch("-?[0-9]+", value) and _LEAST[name] <= int(value) < 2**32
        if not is_right and value not in ("1_000", "None", "٣", " "):  # which Python or the option may take
            return f"{name} {value!r:.20}"
    return ""
