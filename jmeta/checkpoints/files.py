"""Files: the folder of a run's checkpoints, the manifest of each, and the checks that precede any other reading.

A checkpoint may come from someone else, with a manifest that agrees with its own digest. These checks are made: the
folder holds regular files only, exactly those that the manifest names; all values have the types that `save` writes;
every file has its SHA-256. All of it is read through `guarded`.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

from . import guarded
from .guarded import list_files

__all__ = [
    "MANIFEST",
    "FORMAT",
    "NO_DAMAGE",
    "DamagedCheckpointError",
    "usable",
    "steps",
    "step_name",
    "identity",
    "make_temporary",
    "put_in_place",
    "prune",
    "best_step",
    "remove",
    "to_disk",
    "write_manifest",
    "read_manifest",
    "verify_files",
]

MANIFEST = "manifest.json"
FORMAT = 2  # format 1 had no number, and compressed arrays
_STEP_FOLDER = re.compile(r"step_([0-9]{8,18})")
_TEMPORARY = "tmp-"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|(gs|gcs|s3|az|abfss?|hdfs|https?|file):/", re.IGNORECASE)
"""Addresses; only one slash remains after `pathlib.Path` has parsed one."""


NO_DAMAGE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT}
"""Errors of the system that may hide an intact file: such a checkpoint must not be passed over, as the next save would
delete it."""


class DamagedCheckpointError(Exception):
    """A checkpoint's files differ from those that were written: one is missing, truncated, changed or unexpected."""


def usable(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Make a folder that the user named absolute, or refuse it if the libraries that write arrays cannot work in it.

    A leading `~` is the user's home folder and `~name` that of another user, as in a shell. To name a folder that is
    itself called `~`, pass the string `./~` or a whole path.

    Raises:
      ValueError: if it is an address, such as `gs://bucket`, or has a backslash, a byte that is no UTF-8 or, at the end
        of a name, `gs:` in it.

    Example:
      >>> usable("/data/lr=[0.1]").name
      'lr=[0.1]'
    """
    text = os.fspath(folder)
    if _ADDRESS.match(text):
        raise ValueError(
            f"{text!r} is an address, not a folder; checkpoints go to file systems, so mount it there and give its path"
        )
    expanded = os.path.expanduser(text)
    if expanded.partition(os.sep)[0] == "~":
        raise ValueError(f"{text!r} has a ~ in front, but there is no home folder; set HOME, or give the whole path")
    path = pathlib.Path(expanded).absolute()
    if problem := _problem(str(path)):
        raise ValueError(f"{str(path)!r} cannot hold checkpoints, since {problem}; choose another folder")
    # Orbax takes dots for names, and would go up from a link rather than from its target
    return path.resolve() if ".." in path.parts else path


def _problem(path: str) -> str:
    """Say why the libraries that write arrays cannot use a path; empty if they can."""
    if "\0" in path:
        return "it has a zero byte in it"
    if "\\" in path:
        return "it has a backslash in it, which TensorStore takes for a slash"
    if "gs:/" in f"{path}/":
        return "a name in it ends with 'gs:', which Orbax takes for a bucket"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "it has a byte in it that is no UTF-8, which TensorStore cannot open"
    return ""


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Return the steps of the checkpoints in a folder, ascending, damaged ones included.

    Raises:
      ValueError: if the folder is one that `save` refuses.

    Example:
      >>> steps("no/such/folder")
      []
    """
    folder = usable(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [int(match.group(1)) for match in map(_STEP_FOLDER.fullmatch, names) if match]
    return sorted(step for step in found if step_name(step) in names)


def step_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step_{step:08d}"


def identity(path: pathlib.Path | int) -> tuple[int, int] | None:
    """Return an identity that tells a file, folder or open file from a later one of its name; `None` if none exists."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def make_temporary(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Make an empty folder to write a checkpoint in; remains of killed saves are deleted.

    Raises:
      FileNotFoundError: if `folder` is missing: a save that made it anew would write to another place than before.
    """
    for abandoned in folder.glob(_TEMPORARY + "*"):
        remove(abandoned)
    # a new name each time: threads of a save that failed may still write to the last one
    temporary = folder / f"{_TEMPORARY}{step_name(step)}-{secrets.token_hex(4)}"
    temporary.mkdir()
    return temporary


def put_in_place(temporary: pathlib.Path, final: pathlib.Path) -> None:
    """Give a finished checkpoint its name; an older one of the same step is replaced."""
    if os.path.lexists(final):
        final.rename(final.parent / f"{_TEMPORARY}replaced")
    temporary.rename(final)
    to_disk(final.parent)


def prune(folder: pathlib.Path, keep_last: int, newest: int) -> None:
    """Keep the last few and the best. Steps later than the newest save belong to a future that a resumed run left."""
    best = best_step(folder, up_to=newest)
    kept = [step for step in steps(folder) if step <= newest][-keep_last:]
    for step in steps(folder):
        if step not in kept and step != best:
            doomed = folder / f"{_TEMPORARY}doomed_{step}"  # renamed first: half a checkpoint must not keep its name
            (folder / step_name(step)).rename(doomed)
            remove(doomed)
    remove(folder / f"{_TEMPORARY}replaced")


def best_step(folder: pathlib.Path, up_to: int | None = None) -> int | None:
    """Return the first step with the highest score, from the manifests alone, each of which has a digest of its own."""
    scores = {}
    for step in steps(folder):
        if up_to is None or step <= up_to:
            with contextlib.suppress(DamagedCheckpointError):
                score = _undamaged(_load(folder / step_name(step))).get("score")
                if _is_score(score) and score is not None:
                    scores[step] = score
    return max(scores, key=lambda step: (scores[step], -step)) if scores else None


def remove(path: pathlib.Path) -> None:
    """Delete a folder, or a file or link in its place, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def to_disk(*paths: pathlib.Path) -> None:
    """Flush files and names to disk, so that a checkpoint survives a power cut."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_manifest(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Write the manifest of a checkpoint whose other files are all there."""
    hashes = {str(file.relative_to(path)): guarded.sha256(file) for file in list_files(path)}
    manifest = {"format": FORMAT, **content, "files": hashes}
    (path / MANIFEST).write_text(json.dumps({**manifest, "sha256": guarded.digest(manifest)}, indent=1) + "\n")


def read_manifest(path: pathlib.Path, name: str | None = None) -> dict[str, Any]:
    """Return a checkpoint's manifest, verified: whole, of this format, with the types that `write_manifest` was given.

    Args:
      path: the checkpoint's folder.
      name: name that the folder will have, if it does not have it yet.

    Raises:
      ValueError: if it is of another format.
      DamagedCheckpointError: if it is anything else.
    """
    manifest = _undamaged(_load(path))
    if manifest.get("format", 1) != FORMAT:
        raise ValueError(
            f"{path} is of format {manifest.get('format', 1)!r}, and this version of jmeta reads format {FORMAT}; "
            "restore it with the version that saved it, or start from the beginning in another folder"
        )
    is_typed = _is_int(manifest.get("step")) and "score" in manifest and _is_score(manifest["score"])
    if not is_typed or not all(_is_text_to_text(manifest.get(name)) for name in ("leaves", "files")):
        raise DamagedCheckpointError(f"its {MANIFEST} has entries of other types than were written")
    if step_name(manifest["step"]) != (name or path.name):
        raise DamagedCheckpointError(f"its {MANIFEST} is that of step {manifest['step']}")
    return manifest


def verify_files(path: pathlib.Path, stated: dict[str, str], max_bytes: int, share: tuple[int, int]) -> None:
    """Verify all files but the manifest, which has a digest of its own; see `guarded.verify`.

    Raises:
      DamagedCheckpointError: if a file is missing, unexpected, too large or changed.
    """
    with _readable("files"):
        guarded.verify(path, stated, max_bytes, manifest=MANIFEST, share=share)


def _load(path: pathlib.Path) -> dict[str, Any]:
    """Return a manifest as it stands, unverified."""
    with _readable(MANIFEST):
        if path.is_symlink():
            raise DamagedCheckpointError("it is missing, or a link leads there")
        try:
            return guarded.read_json(path / MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            raise DamagedCheckpointError(f"its {MANIFEST} is missing") from None


def _undamaged(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest without its digest, which must be right."""
    stated = manifest.pop("sha256", None)
    with _readable(MANIFEST):
        found = guarded.digest(manifest)
    if stated != found:
        raise DamagedCheckpointError(f"its {MANIFEST} does not have the SHA-256 that it states")
    return manifest


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in NO_DAMAGE:
            raise
        raise DamagedCheckpointError(f"its {what} cannot be read ({getattr(error, 'reason', error)})") from error


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isfinite(value))


def _is_text_to_text(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
