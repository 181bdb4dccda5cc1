"""A run's folder: the request, the results so far, and the process that writes.

    config.json        the recipe's name, whether it is ours, every option, and their hash
    data.json          the classes of the splits and how the data were prepared, if a source says so
    sessions.jsonl     one line for each start of the run: versions, device, git commit, step resumed from, and the
                       seeds that shared its dispatches
    metrics.jsonl      one line for each log interval and each evaluation; also as TensorBoard files in tensorboard/
    checkpoints/       see `jmeta.checkpoints`
    lock               held by the process that writes; the system releases it, however that process ends

A folder may come from someone else. So everything that is read is checked, and a link in it, which may lead anywhere,
is refused before anything is written; `jmeta.checkpoints` does the same for its own files.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

import jmeta

from ..checkpoints import guarded
from ..checkpoints.files import identity
from ..checkpoints.guarded import open_file, short
from . import options as options_
from .console import StoppedError
from .files import refuse_links, replace_text

__all__ = [
    "FORMAT",
    "FolderInUseError",
    "LostFolderError",
    "Watch",
    "locked",
    "check_files",
    "Config",
    "write_config",
    "write_record",
    "check_split",
    "seed_folders",
    "read_config",
    "num_cpus",
    "record_session",
]

FORMAT = 2
"""Version of `config.json`; version 1 recorded recipes that were composed of parts."""

_MAX_DEPTH = 8  # depth of nested options


class FolderInUseError(StoppedError):
    """Another process writes to the run folder."""


class LostFolderError(StoppedError):
    """The run's folder was moved, deleted or taken over by another process."""


class Watch:
    """A check that a run folder still is the one that this process began to write to.

    Args:
      folder: the run's folder; held by this process, with its log open.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._begun = folder, _identities(folder)

    def check(self) -> None:
        """Check the folder again.

        Raises:
          LostFolderError: if it is another one: later writes would be torn, or mix with those of another run.
        """
        if _identities(self._folder) != self._begun:
            raise LostFolderError(
                f"{self._folder}, or the file lock in it, was moved or deleted while the run wrote to it; put it back, "
                "and the same command goes on from the last checkpoint"
            )


def _identities(folder: pathlib.Path) -> list[tuple[int, int] | None]:
    return [identity(path) for path in (folder, folder / "lock", folder / "metrics.jsonl")]


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Hold a run folder, creating it if needed; no other process can hold it until this block or this process ends.

    Raises:
      FolderInUseError: if a process holds it; its id is in the message.
      ValueError: if there is a link in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_files(folder)
    with open_file(folder / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = short(file.read(80)) or "unknown"
            raise FolderInUseError(
                f"{folder} is being written by process {holder}; wait for it, stop it, or choose another --run-dir"
            ) from None
        if identity(file.fileno()) != identity(folder / "lock"):  # deleted between the two calls
            raise FolderInUseError(f"{folder} is being written by another process, which has just begun")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


_CHECKED_WHEN_READ = ("checkpoints", "diverged")


def check_files(folder: pathlib.Path) -> None:
    """Raise `ValueError` if a run folder contains anything but files and folders, at any depth.

    Checkpoints are not checked here, since a damaged one may give way to the one before it.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if not is_folder and not entry.is_file(follow_symlinks=False):
                raise ValueError(
                    f"{short(folder, 300)} holds {short(entry.name)}, a link or a special file, which no run makes; "
                    "put a file or a folder there, or take it away"
                )
            if is_folder and entry.name not in _CHECKED_WHEN_READ:
                guarded.list_files(entry.path)


class Config(NamedTuple):
    """The recorded configuration of a run.

    Attributes:
      recipe: the recipe's name.
      is_ours: whether the recipe is one of ours; otherwise it is a user's file, which is run only if the user names it.
      values: the recorded options.
    """

    recipe: str
    is_ours: bool
    values: dict[str, Any]


def write_config(
    folder: pathlib.Path, recipe_name: str, options: Any, split_hash: str | None, *, is_ours: bool
) -> None:
    """Record a recipe and the split of its classes in a run folder; an existing record must be the same.

    Raises:
      ValueError: if the folder belongs to other options, the first of which are named; or to another split.
    """
    values = options_.recorded(options)
    config = {
        "format": FORMAT,
        "recipe": recipe_name,
        "is_ours": is_ours,
        "hash": options_.hash_of(values),
        "split_hash": split_hash,
        "options": values,
    }
    path = folder / "config.json"
    if not path.exists():
        replace_text(path, json.dumps(config, indent=2) + "\n")
        return
    recorded = _read_config(path)
    if all(recorded[name] == config[name] for name in ("recipe", "is_ours", "hash")):
        check_split(folder, split_hash)
        return
    old, new = (
        {"recipe": c["recipe"], "is_ours": c["is_ours"], **options_.flat(c["options"])} for c in (recorded, config)
    )
    differing = [
        f"{short(name)} was {short(old.get(name))}, is {new.get(name)}"
        for name in {**new, **old}
        if old.get(name) != new.get(name)
    ]
    raise ValueError(
        f"{folder} holds a run with other options ({'; '.join(differing[:4])}); choose another --run-dir, or repeat "
        "its options to resume"
    )


def write_record(folder: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Record, once, the data that a run is trained on: the hash of the split is checked, so it cannot change."""
    path = folder / "data.json"
    if not path.exists():
        replace_text(path, json.dumps(record, indent=2) + "\n")


def check_split(folder: pathlib.Path, split_hash: str | None) -> None:
    """Raise `ValueError` unless the split is that of the run's start: else a run would be tested on what it learnt."""
    recorded = _read_config(folder / "config.json")["split_hash"]
    if recorded != split_hash:
        raise ValueError(
            f"{folder} was begun with other classes in meta_train, meta_valid and meta_test (split "
            f"{short(recorded)}, now {split_hash}): were classes added to the data, or taken away? Restore them, or "
            "begin another run"
        )


def seed_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders of the seeds' runs in a folder, which may itself be one.

    Raises:
      ValueError: if there is none.
    """
    if (folder / "config.json").is_file():
        return [folder]
    refuse_links(folder.glob("seed_*"))
    found = sorted(path.parent for path in folder.glob("seed_*/config.json"))
    if not found:
        runs = sorted(str(path.parent) for path in folder.glob("*/config.json"))
        inside = f", but {', '.join(runs)} {'are' if len(runs) > 1 else 'is'}" if runs else " and has none in it"
        raise ValueError(f"{folder} is not a run folder{inside}; pass what --run-dir was, or runs/NAME")
    return found


def read_config(folder: pathlib.Path) -> Config:
    """Return the recipe and options of a run.

    Raises:
      ValueError: if the folder holds no run, or its configuration is damaged or of another version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(_not_a_run(folder))
    check_files(folder)
    config = _read_config(path)
    return Config(config["recipe"], config["is_ours"], config["options"])


def _not_a_run(folder: pathlib.Path) -> str:
    seeds = sorted(path.parent for path in folder.glob("seed_*/config.json")) if folder.is_dir() else []
    if seeds:
        named = ", ".join(short(seed.name) for seed in seeds[:4]) + (", ..." if len(seeds) > 4 else "")
        return f"{folder} is the folder of several seeds' runs ({named}); pass that of one, such as {seeds[0]}"
    if not folder.is_dir():
        return f"there is no folder {folder}; pass the folder of one seed's run, such as runs/NAME/seed_0"
    return f"{folder} is not a run folder: there is no config.json in it; pass that of one seed, as runs/NAME/seed_0"


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    config = guarded.read_json(path)
    if "recipe" in config and config.get("format", 1) != FORMAT:
        raise ValueError(
            f"{path} has format {short(config.get('format', 1))}, and this version of jmeta reads {FORMAT}; use the "
            "version that made the run, or train it again"
        )
    if missing := {"format", "recipe", "is_ours", "hash", "split_hash", "options"} - set(config):
        raise ValueError(f"{path} is damaged ({', '.join(sorted(missing))} missing); restore it, or move it away")
    are_texts = all(isinstance(config[name], str) and len(config[name]) < 200 for name in ("recipe", "hash"))
    is_flag = isinstance(config["is_ours"], bool)
    if not (
        are_texts and is_flag and isinstance(config["options"], dict) and _is_shallow(config["options"], _MAX_DEPTH)
    ):
        raise ValueError(f"{path} is damaged (it has entries that no run writes); restore it, or move it away")
    if config["hash"] != options_.hash_of(config["options"]):
        raise ValueError(f"{path} is damaged (its hash is not that of its options); restore it, or move it away")
    return config


def _is_shallow(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_shallow(each, depth - 1) for each in inner)


def num_cpus() -> int | None:
    """Return the number of CPU cores that this process may use, where the system reports it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def record_session(
    folder: pathlib.Path, *, seed: int, resumed_from: int, trained_together: list[int], has_blocks: bool = False
) -> str:
    """Append a line about this start of the run: versions, device and options that affect bits.

    Args:
      folder: the run's folder.
      seed: the run's seed.
      resumed_from: step that the run resumes from; 0 at the beginning.
      trained_together: seeds that share dispatches.
      has_blocks: whether sums have one order, whatever the number of devices.

    Returns:
      A text that names what affects the bits of the run's numbers and differs from the session before; empty if nothing
      does, or if nothing of that session is used.
    """
    device = jax.devices()[0]
    session = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "resumed_from": resumed_from,
        "seed": seed,
        "trained_together": trained_together,
        "command": sys.orig_argv[1:],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "jmeta": jmeta.__version__,
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "device_kind": device.device_kind,
        "processes": jax.process_count(),
        "cpus": num_cpus(),
        "threads": _num_threads(device.platform),
        "git_commit": _git_commit(),
    }
    path = folder / "sessions.jsonl"
    before = list(guarded.read_lines(path))[-1:] if resumed_from else []
    with open_file(path, "a") as file:
        file.write(json.dumps(session) + "\n")
    decisive = ["jax", "jaxlib", "device_kind", "threads", "trained_together"]
    decisive += [] if has_blocks else ["device", "processes"]
    return "; ".join(
        f"{name} was {short(last[name])}, is {session[name]}"
        for last in before
        for name in decisive
        if name in last and last[name] != session[name]
    )


def _num_threads(platform: str) -> int | None:
    """Return the size of XLA's thread pool on CPUs, by which it divides matrix products."""
    if platform != "cpu":
        return None
    said = os.environ.get("NPROC", "")
    return int(said) if said.isdecimal() else max(num_cpus() or 1, jax.local_device_count())


def _git_commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    with contextlib.suppress(OSError):
        result = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent, check=False)
        return result.stdout.strip() or None if result.returncode == 0 else None
    return None
