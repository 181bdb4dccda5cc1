"""Small files of run folders: read through `jmeta.checkpoints.guarded`, and never left half written."""

import fcntl
import json
import os
import pathlib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ..checkpoints.files import usable
from ..checkpoints.guarded import open_file, read_json, read_lines, short

Line = dict[str, Any]

__all__ = ["Line", "add_to_json", "as_argument", "named_by_user", "read_lines", "refuse_links", "replace_text", "short"]


def named_by_user(folder: pathlib.Path) -> pathlib.Path:
    """Return the path of a run's folder from a command line; any name is allowed, and `~` is the home folder.

    Raises:
      ValueError: if it is an address such as `gs://bucket`, or cannot hold checkpoints; nothing has been written.
    """
    usable(folder)
    return pathlib.Path(os.path.expanduser(folder))


def as_argument(folder: pathlib.Path) -> str:
    """Return a folder as a word of a command line, to show to the user."""
    text = str(folder)
    return shlex.quote(f".{os.sep}{text}" if text[:1] in ("-", "~") else text)


def refuse_links(paths: Iterable[pathlib.Path]) -> None:
    """Raise `ValueError` if one of the seeds' folders is a link, which may lead anywhere and would be written to."""
    for path in paths:
        if path.is_symlink():
            raise ValueError(f"{short(path, 300)} is a link, which no run makes; name where it leads, or take it away")


def replace_text(path: pathlib.Path, text: str) -> None:
    """Replace a file's content atomically: a reader, or a crash, sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open_file(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def add_to_json(path: pathlib.Path, entries: Mapping[str, Any]) -> None:
    """Add entries to the object in a JSON file, replacing those of the same names; processes take turns."""
    with open_file(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        stored = read_json(path) if path.exists() else {}
        replace_text(path, json.dumps({**stored, **entries}, indent=1) + "\n")
