"""The guarded reader: every file of a run folder or a checkpoint is opened, read and hashed through this module.

    path ──► regular file? no link? ──► bounded size ──► JSON of bounded numbers and depth, or SHA-256 ──► caller

Such a folder may come from someone who means harm. So nothing here executes what it reads, follows a link, opens a pipe
or a device, or reads more than a stated number of bytes; every refusal raises `RefusedFileError`, whose message is one
line without terminal control characters. TensorStore reads the arrays themselves, after `verify` has compared every
byte with the manifest (see `arrays`).
"""

import errno
import hashlib
import json
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping
from typing import IO, Any

__all__ = [
    "MAX_JSON_BYTES",
    "MAX_LINE_BYTES",
    "MAX_DIGITS",
    "RefusedFileError",
    "open_file",
    "read_json",
    "read_lines",
    "parse_json",
    "sha256",
    "digest",
    "list_files",
    "verify",
    "short",
]

MAX_JSON_BYTES = 1 << 26
MAX_LINE_BYTES = 1 << 20
MAX_DIGITS = 300
"""Most digits of a whole number in JSON: a longer one is larger than any float."""

_NOT_FOLLOWED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class RefusedFileError(ValueError):
    """A file is not one that a run writes; `reason` explains why, without the path."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        self.reason = short(reason, 200)
        super().__init__(f"{short(path, 300)} is damaged ({self.reason}); restore it, or move it away")


def open_file(path: str | os.PathLike[str], mode: str = "r") -> IO[Any]:
    """Open a regular file, or create a new one, as `open` does.

    Args:
      path: path of the file; its folder may be a link, the file may not.
      mode: as for `open`.

    Raises:
      RefusedFileError: if it is a link, a pipe, a device or a socket.
      OSError: if the system refuses, or there is no such file to read.

    Example:
      >>> open_file("/dev/null")
      Traceback (most recent call last):
      jmeta.checkpoints.guarded.RefusedFileError: /dev/null is damaged (it is a link or a special file); restore it, ...
    """

    def opener(name: str, flags: int) -> int:
        try:
            if not _is_plain(os.lstat(name).st_mode):  # before it is opened: opening alone may affect a device
                raise _special(path)
        except FileNotFoundError:
            pass
        try:
            descriptor = os.open(name, flags | _NOT_FOLLOWED, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # it became one since
                raise _special(path) from None
            raise
        if not _is_plain(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _special(path)
        return descriptor

    return open(path, mode, opener=opener)


def read_json(path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
      RefusedFileError: if the file is larger than `max_bytes`, or holds something else.
      OSError: as for `open_file`.
    """
    with open_file(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > max_bytes:
            raise RefusedFileError(path, f"it has {size} bytes, more than any run writes")
        content = file.read(max_bytes)
    try:
        value = parse_json(content.decode())
    except ValueError as error:
        raise RefusedFileError(path, str(error)) from None
    if not isinstance(value, dict):
        raise RefusedFileError(path, f"it holds a {type(value).__name__} and has no names in it")
    return value


def read_lines(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one per line, up to the first line that is none; nothing if there is no file.

    A line torn by a kill ends the file, since nothing after it can be trusted.

    Raises:
      RefusedFileError: if it is a link or a special file.
    """
    try:
        file = open_file(path, "rb")
    except FileNotFoundError:
        return
    with file:
        while text := file.readline(MAX_LINE_BYTES):  # a sparse file may claim any length
            try:
                line = parse_json(text.decode())
            except ValueError:
                return
            if not isinstance(line, dict):
                return
            yield line


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
      ValueError: if it is not JSON, has a whole number of more than `MAX_DIGITS` digits, or is nested too deeply.

    Example:
      >>> parse_json("[1, 2.5]")
      [1, 2.5]
      >>> parse_json("1" * 400)
      Traceback (most recent call last):
      ValueError: a whole number has 400 digits
    """

    def whole(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"a whole number has {len(digits)} digits")
        return int(digits)

    try:
        return json.loads(text, parse_int=whole)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal digits."""
    opened: Any = open_file(path, "rb")
    with opened as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def list_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """List all files below a folder, sorted.

    Raises:
      RefusedFileError: if there is anything but regular files and folders: following a link may lead out of the folder,
        and reading a pipe may never end.
    """
    found, folders = [], [os.fspath(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    found.append(pathlib.Path(entry.path))
                else:
                    name = os.path.relpath(entry.path, folder)
                    raise RefusedFileError(folder, f"it holds {short(name)}, a link or a special file")
    return sorted(found)


def verify(
    folder: pathlib.Path,
    stated: Mapping[str, str],
    max_bytes: int,
    *,
    manifest: str | None = None,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Check that a folder holds exactly the files of a manifest, with the bytes that were written.

    Args:
      folder: folder of the files.
      stated: SHA-256 of each file, by path within the folder.
      max_bytes: upper bound on the total size of the files. A sparse file may claim any size, and hashing it would
        never end.
      manifest: the name of the file with these hashes, which has a digest of its own.
      share: `(i, n)`: hash the files i, i + n, ...; other processes hash the others.

    Raises:
      RefusedFileError: if a file is missing, unexpected, too large or changed, or is not a regular file.
    """
    files = {str(file.relative_to(folder)): file for file in list_files(folder)}
    files.pop(manifest or "", None)
    for name in sorted(stated.keys() ^ files.keys()):
        problem = "is not in its manifest" if name in files else "is missing"
        raise RefusedFileError(folder, f"its file {short(name)} {problem}")
    if (total := sum(file.lstat().st_size for file in files.values())) > max_bytes:
        raise RefusedFileError(folder, f"its files have {total} bytes, more than its leaves can take")
    for name in sorted(files)[share[0] :: share[1]]:
        if sha256(files[name]) != stated[name]:
            raise RefusedFileError(folder, f"its file {short(name)} does not have the SHA-256 that was written")


def short(value: Any, length: int = 80) -> str:
    """Return content of a file for a message: one line, without terminal control characters.

    Example:
      >>> short("\\x1b[2J" + "a" * 100, 10)
      '[2Jaaaaaaa...'
    """
    text = "".join(letter if letter.isprintable() else " " for letter in str(value)).strip()
    return text if len(text) <= length else f"{text[:length]}..."


def _is_plain(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)  # for a folder, the system's own error says so


def _special(path: str | os.PathLike[str]) -> RefusedFileError:
    return RefusedFileError(path, "it is a link or a special file")
