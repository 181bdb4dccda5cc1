"""Small files, of folders that may come from someone else: no link is followed, and nothing is left half written."""

import fcntl
import json
import os
import pathlib
import shlex
from collections.abc import Mapping
from typing import IO, Any

from ..checkpoints.files import usable

Line = dict[str, Any]

_MAX_JSON_BYTES = 1 << 26
_MAX_LINE = 1 << 20


def named_by_user(folder: pathlib.Path) -> pathlib.Path:
    """A run's folder as a command line names it: of any name, with a leading `~` for the home folder.

    Raises:
      ValueError: before anything is written, if it is an address such as `gs://bucket`, or cannot hold checkpoints.
    """
    usable(folder)
    return pathlib.Path(os.path.expanduser(folder))


def as_argument(folder: pathlib.Path) -> str:
    """A folder as a command line takes it, to be shown to the user."""
    text = str(folder)
    return shlex.quote(f".{os.sep}{text}" if text[:1] in ("-", "~") else text)


def open_here(path: pathlib.Path, mode: str, *, errors: str | None = None) -> IO[str]:
    """As `open`; but no link is followed, and nobody waits for the other end of a pipe."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

    return open(path, mode, errors=errors, opener=opener)


def replace_text(path: pathlib.Path, text: str) -> None:
    """Give a file new content in one step: a reader, or a crash, sees the old or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open_here(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: with the file's name, if there is something else in it.
    """
    try:
        with open_here(path, "r") as file:
            content = json.loads(file.read(_MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number without an end, lists in lists
        raise ValueError(f"{path} is damaged ({error}); restore it, or move it away") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it has no names in it); restore it, or move it away")
    return content


def add_to_json(path: pathlib.Path, entries: Mapping[str, Any]) -> None:
    """Put entries into the object in a JSON file, in place of those of the same names, one process after the other."""
    with open_here(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        stored = read_json(path) if path.exists() else {}
        replace_text(path, json.dumps({**stored, **entries}, indent=1) + "\n")


def whole_lines(path: pathlib.Path) -> list[Line]:
    """The objects in a file of one to each line, up to the first line that is none; none if there is no file."""
    lines = []
    if not path.exists():
        return lines
    with open_here(path, "r", errors="replace") as file:
        while text := file.readline(_MAX_LINE):  # a file without content may say that it has any length
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):  # torn by a kill: nothing after it can be trusted
                break
            if not isinstance(line, dict):
                break
            lines.append(line)
    return lines


def short(value: Any) -> str:
    """What stands in a file, for a message: one line, and nothing that a terminal would obey."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value)).strip()
    return text if len(text) <= 80 else f"{text[:80]}..."
