"""A run's folder: what was asked for, what happened, and who is writing.

    config.json        the recipe's name, every option, and their hash
    sessions.jsonl     one line for each time the run was started: versions, device, git commit, step resumed from, and
                       the seeds that it shared its dispatches with
    metrics.jsonl      one line for each log interval and each evaluation; also as TensorBoard files in tensorboard/
    checkpoints/       see `jmeta.checkpoints`
    lock               held by the process that writes; the system releases it, however that process ends

A folder may come from someone else. So what is read is checked, and a link in it, which may lead anywhere, is refused
before anything is written; `jmeta.checkpoints` does the same for what is its own.

Metrics are written before the checkpoint of their step. So after a kill, whatever the restored step did not see is the
tail of the log, and is cut.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

import jax
from tensorboardX import SummaryWriter

import jmeta

from .console import StoppedError

Line = dict[str, Any]

_MAX_JSON_BYTES = 1 << 26
_MAX_LINE = 1 << 20
_MAX_DEPTH = 8  # of options in options


class FolderInUseError(StoppedError):
    """Another process writes to the run folder."""


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Hold a run folder, making it if need be; no other process can, until this block or this process ends.

    Raises:
      FolderInUseError: if a process holds it; its id is in the message.
      ValueError: if there is a link in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_files(folder)
    with _open(folder / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = short(file.read(80)) or "unknown"
            raise FolderInUseError(
                f"{folder} is being written by process {holder}; wait for it, stop it, or choose another --run-dir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_files(folder: pathlib.Path) -> None:
    """Raise `ValueError` if there is something else than files and folders in a run folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
                raise ValueError(
                    f"{folder} holds {short(entry.name)}, a link or a special file, which no run makes; put a file or "
                    "a folder there, or take it away"
                )


def config_hash(options: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify a set of options, whatever their order."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]


def options_of(recipe: Any) -> dict[str, Any]:
    """What identifies a run: every option, but those that say where it runs."""
    options = json.loads(json.dumps(dataclasses.asdict(recipe)))
    options["training"].pop("mesh")
    return options


def write_config(folder: pathlib.Path, recipe_name: str, recipe: Any, split_hash: str | None) -> None:
    """Record a recipe and how its classes are split in a run folder; what is recorded already must be the same.

    Raises:
      ValueError: if the folder belongs to other options, the first ones that differ are named; or to another split.
    """
    options = options_of(recipe)
    config = {"recipe": recipe_name, "hash": config_hash(options), "split_hash": split_hash, "options": options}
    path = folder / "config.json"
    if not path.exists():
        replace_text(path, json.dumps(config, indent=2) + "\n")
        return
    recorded = _read_config(path)
    if (recorded["recipe"], recorded["hash"]) == (config["recipe"], config["hash"]):
        check_split(folder, split_hash)
        return
    old, new = ({"recipe": c["recipe"], **_flat(c["options"])} for c in (recorded, config))
    differing = [
        f"{short(name)} was {short(old.get(name))}, is {new.get(name)}"
        for name in {**new, **old}
        if old.get(name) != new.get(name)
    ]
    raise ValueError(
        f"{folder} holds a run with other options ({'; '.join(differing[:4])}); choose another --run-dir, or repeat "
        "its options to resume"
    )


def check_split(folder: pathlib.Path, split_hash: str | None) -> None:
    """Raise `ValueError` unless the classes are split as when the run began: else it would be judged on its own."""
    recorded = _read_config(folder / "config.json")["split_hash"]
    if recorded != split_hash:
        raise ValueError(
            f"{folder} was begun with other classes in meta_train, meta_valid and meta_test (split "
            f"{short(recorded)}, now {split_hash}): were classes added to the data, or taken away? Restore them, or "
            "begin another run"
        )


def read_config(folder: pathlib.Path) -> tuple[str, dict[str, Any]]:
    """`(recipe name, options)` of a run.

    Raises:
      ValueError: if the folder holds no run, or its configuration is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: there is no {path.name} in it; pass what --run-dir was")
    check_files(folder)
    config = _read_config(path)
    return config["recipe"], config["options"]


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    config = read_json(path)
    if missing := {"recipe", "hash", "split_hash", "options"} - set(config):
        raise ValueError(f"{path} is damaged ({', '.join(sorted(missing))} missing); restore it, or move it away")
    are_texts = all(isinstance(config[name], str) and len(config[name]) < 200 for name in ("recipe", "hash"))
    if not are_texts or not isinstance(config["options"], dict) or not _is_shallow(config["options"], _MAX_DEPTH):
        raise ValueError(f"{path} is damaged (it has entries that no run writes); restore it, or move it away")
    if config["hash"] != config_hash(config["options"]):
        raise ValueError(f"{path} is damaged (its hash is not that of its options); restore it, or move it away")
    return config


def _is_shallow(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_shallow(each, depth - 1) for each in inner)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: with the file's name, if there is something else in it.
    """
    try:
        with _open(path, "r") as file:
            content = json.loads(file.read(_MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number without an end, lists in lists
        raise ValueError(f"{path} is damaged ({error}); restore it, or move it away") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it has no names in it); restore it, or move it away")
    return content


def add_to_json(path: pathlib.Path, entries: Mapping[str, Any]) -> None:
    """Put entries into the object in a JSON file, in place of those of the same names, one process after the other."""
    with _open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        stored = read_json(path) if path.exists() else {}
        replace_text(path, json.dumps({**stored, **entries}, indent=1) + "\n")


def num_cpus() -> int | None:
    """CPU cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def record_session(
    folder: pathlib.Path, *, seed: int, resumed_from: int, trained_together: list[int], has_blocks: bool = False
) -> str:
    """Append what this start of the run runs on.

    Args:
      folder: of the run.
      seed: of the run.
      resumed_from: step; 0 for the beginning.
      trained_together: seeds that share dispatches.
      has_blocks: whether sums are in one order, whatever the number of devices.

    Returns:
      In words, what the bits of the run's numbers depend on that is not as in the session before; empty if nothing, or
      if nothing of that session is used.
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
    before = _whole_lines(path)[-1:] if resumed_from else []
    with _open(path, "a") as file:
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
    """The size of XLA's pool on CPUs, by which it divides products of matrices."""
    if platform != "cpu":
        return None
    said = os.environ.get("NPROC", "")
    return int(said) if said.isdecimal() else max(num_cpus() or 1, jax.local_device_count())


class MetricsLog:
    """Appends lines of metrics to `metrics.jsonl` and TensorBoard, first cutting those after the step resumed from."""

    def __init__(self, folder: pathlib.Path, *, last_step: int) -> None:
        self.path = folder / "metrics.jsonl"
        cut_metrics(self.path, last_step)
        self._file = _open(self.path, "a")
        self._failed: OSError | None = None
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1, flush_secs=3600)

    def append(self, step: int, split: str, metrics: Mapping[str, float], *, protocol: str | None = None) -> None:
        """Log the metrics of one step, by a protocol; a number that is not finite is written as `null`.

        If that cannot be written, `to_disk` says so: of several processes, all are there to hear of it.
        """
        if self._failed is not None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        named = {} if protocol is None else {"protocol": protocol}
        try:
            self._file.write(json.dumps({"step": step, "split": split, **named, **finite}) + "\n")
        except OSError as error:
            self._failed = error
            return
        if protocol is not None:
            self._board.add_text(f"{split}/protocol", protocol, step)
        for name, value in finite.items():
            if value is not None:
                self._board.add_scalar(f"{split}/{name}", value, step)

    def to_disk(self) -> None:
        """Return when everything appended is on disk.

        Raises:
          OSError: if it cannot be written.
        """
        if self._failed is not None:
            raise self._failed
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        try:
            self.to_disk()
        finally:
            try:
                self._board.close()
            finally:
                self._file.close()


class NoLog:
    """A log of nothing, for processes beside the one that writes."""

    def append(self, step: int, split: str, metrics: Mapping[str, float], *, protocol: str | None = None) -> None:
        """Nothing."""

    def to_disk(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(folder: pathlib.Path, split: str | None = None) -> list[Line]:
    """The logged lines of a run, of one split or of all; a torn last line is left out."""
    lines = _whole_metrics(folder / "metrics.jsonl")
    return [line for line in lines if split in (None, line["split"])]


def cut_metrics(path: pathlib.Path, last_step: int) -> None:
    """Remove, atomically, the lines after `last_step` and a line that was being written when its process died."""
    if path.exists():
        kept = [json.dumps(line) + "\n" for line in _whole_metrics(path) if line["step"] <= last_step]
        replace_text(path, "".join(kept))


def replace_text(path: pathlib.Path, text: str) -> None:
    """Give a file new content in one step: a reader, or a crash, sees the old or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _whole_metrics(path: pathlib.Path) -> list[Line]:
    """Lines up to the first that is not of metrics."""

    def is_number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def is_metrics(line: Line) -> bool:
        texts = {"split": "", **line}
        numbers = {name: texts.pop(name) for name in line if name not in ("split", "protocol")}
        return (
            isinstance(numbers.get("step"), int)
            and all(value is None or is_number(value) for value in numbers.values())
            and bool(texts["split"])
            and all(isinstance(text, str) for text in texts.values())
        )

    return list(itertools.takewhile(is_metrics, _whole_lines(path)))


def _whole_lines(path: pathlib.Path) -> list[Line]:
    lines = []
    if not path.exists():
        return lines
    with _open(path, "r", errors="replace") as file:
        while text := file.readline(_MAX_LINE):  # a file without content may say that it has any length
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):  # torn by a kill: nothing after it can be trusted
                break
            if not isinstance(line, dict):
                break
            lines.append(line)
    return lines


def _open(path: pathlib.Path, mode: str, *, errors: str | None = None) -> IO[str]:
    """As `open`; but no link is followed, and nobody waits for the other end of a pipe."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

    return open(path, mode, errors=errors, opener=opener)


def short(value: Any) -> str:
    """What stands in a file, for a message: one line, and nothing that a terminal would obey."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value)).strip()
    return text if len(text) <= 80 else f"{text[:80]}..."


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _git_commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    with contextlib.suppress(OSError):
        result = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent, check=False)
        return result.stdout.strip() or None if result.returncode == 0 else None
    return None
