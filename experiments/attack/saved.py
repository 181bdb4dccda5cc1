"""Attacks on checkpoints: files changed, cut, removed, exchanged, linked, and manifests forged.

The law: what is restored is one of the saved states, bit for bit, and the newest of those that nobody touched or a
newer one; and saving goes on afterwards.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np

from jmeta import checkpoints
from jmeta.checkpoints import DamagedCheckpointError

from .cases import Outcome, WrongError, judge
from .damage import mutated

__all__ = ["attack"]

_STEPS = (1, 2, 3)
_LIKE = {"w": jnp.zeros((3, 2)), "n": np.zeros(4, np.int64), "count": 0}
_ODD = [None, -1, 0, 3, 10**30, "text", [], {}, True, 1.5, float("nan"), "x" * 5000]


def _state(step: int) -> dict[str, Any]:
    return {"w": jnp.arange(6.0).reshape(3, 2) + step, "n": np.arange(4) * step, "count": step}


@functools.cache
def _honest() -> "tempfile.TemporaryDirectory[str]":
    """Make a folder of three checkpoints, the second of which is the best; all cases copy it."""
    folder = tempfile.TemporaryDirectory(prefix="attack-honest-")
    for step in _STEPS:
        checkpoints.save(folder.name, step, _state(step), score=float(step == 2))
    return folder


def attack(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """Damage one or two of three checkpoints, and restore."""
    run = folder / "checkpoints"
    shutil.copytree(_honest().name, run)
    touched = {int(step) for step in rng.choice(_STEPS, int(rng.integers(1, 4)), replace=True)}
    what = [f"{step}: {_harm(run / f'step_{step:08d}', rng, folder)}" for step in sorted(touched)]
    is_best = bool(rng.integers(2))
    intact = [step for step in _STEPS if step not in touched]

    def is_right(found: Any) -> bool:
        if found is None:
            return not intact
        step, state = found
        expected = _state(step)
        are_equal = all(np.array_equal(state[name], expected[name]) for name in expected) if step in _STEPS else False
        newest = max(intact, default=0)
        if is_best and step not in touched:  # the best, or the best of those whose manifests are whole
            return are_equal and (step == 2 or 2 in touched)
        return are_equal and step >= newest

    try:
        outcome = judge(
            lambda: _restored(run, is_best),
            what=f"{'; '.join(what)}, best={is_best}",
            is_right=is_right,
            must="accept" if len(intact) == len(_STEPS) else "either",
        )
    except WrongError as error:
        if intact or not isinstance(error.__cause__, DamagedCheckpointError):
            raise
        outcome = "refused"  # there is nothing whole, and the message says so
    if rng.integers(4) == 0:
        _save_goes_on(run, what, keeps_best=2 in intact and not any("score" in each for each in what))
    return outcome


def _restored(run: pathlib.Path, is_best: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return checkpoints.restore(run, _LIKE, best=is_best)


def _save_goes_on(run: pathlib.Path, what: list[str], *, keeps_best: bool) -> None:
    """The next save must succeed, whatever lies in the folder, and be what is restored; the best must stay."""
    checkpoints.save(run, 9, _state(9), keep_last=1)
    if keeps_best and 2 not in checkpoints.steps(run):
        raise WrongError(f"after {what} a save deletes the best")
    found = _restored(run, False)
    if found is None or found[0] != 9 or not np.array_equal(found[1]["w"], _state(9)["w"]):
        raise WrongError(f"after {what} a save is lost")


def _harm(path: pathlib.Path, rng: np.random.Generator, outside: pathlib.Path) -> str:
    """Damage one checkpoint; return what was done."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = files[rng.integers(len(files))]
    name = str(file.relative_to(path))
    match rng.integers(12):
        case 0 | 1 | 2:
            file.write_bytes(mutated(file.read_bytes(), rng))
            return f"{name} mutated"
        case 3:
            os.truncate(file, int(rng.choice([0, 1, file.stat().st_size // 2, file.stat().st_size + 9, 2**40])))
            return f"{name} has another length"
        case 4:
            file.unlink()
            return f"{name} removed"
        case 5:
            other = files[rng.integers(len(files))]
            content = other.read_bytes()
            other.write_bytes(file.read_bytes())
            file.write_bytes(content)
            return f"{name} and {other.name} exchanged"
        case 6:
            moved = outside / f"moved_{path.name}"
            file.rename(moved)
            file.symlink_to(moved)
            return f"{name} is a link"
        case 7:
            file.unlink()
            os.mkfifo(file)
            return f"{name} is a pipe"
        case 8:
            (file.parent / "more").write_bytes(rng.bytes(9))
            return f"a file beside {name}"
        case 9:
            shutil.rmtree(path)
            path.write_bytes(b"")
            return "a file in its place"
        case 10:
            shutil.rmtree(path)
            return "removed"
        case _:
            return _forged(path / "manifest.json", rng)


def _forged(path: pathlib.Path, rng: np.random.Generator) -> str:
    """Change an entry of the manifest, and sign it again or not."""
    manifest = json.loads(path.read_text())
    name = list(manifest)[rng.integers(len(manifest))]
    value = _ODD[rng.integers(len(_ODD))]
    manifest[name] = value
    if rng.integers(2) and name != "sha256":
        manifest.pop("sha256")
        manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest))
    return f"manifest says {name}={value!r:.20}"
