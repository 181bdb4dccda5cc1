"""Calls of foreign decoders: a bad file gives one line with its path and a remedy.

Pillow, NumPy, zip and TFDS raise exceptions of any type on a damaged file, without its path. Loaders call them inside
`decoding`, and read bytes with `read_regular`, which never waits for a pipe.
"""

import contextlib
import io
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator

import numpy as np

__all__ = ["MAX_BYTES", "UnreadableError", "shown", "decoding", "read_regular", "read_npz"]

MAX_BYTES = 2**30
"""Largest size of a file, or of an archive's content, that is read into memory."""


class UnreadableError(ValueError):
    """A file that cannot be read; the message is one line with its path and a remedy."""


def shown(path: str | os.PathLike) -> str:
    """Return a path or a name as text for any terminal and any file: bytes that are not UTF-8 are escaped.

    Example:
      >>> shown("caf\\udce9/1.png")
      'caf\\\\xe9/1.png'
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


@contextlib.contextmanager
def decoding(path: str | os.PathLike, kind: str, remedy: str) -> Iterator[None]:
    """Turn any exception of a decoder in this block into one line, and silence its warnings.

    Args:
      path: path of the file.
      kind: the expected content, such as "an image".
      remedy: advice to the user.

    Raises:
      UnreadableError: for any `Exception` in the block.

    Example:
      >>> with decoding("cat/1.png", "an image", "remove it, or save it again"):
      ...     raise SyntaxError("broken PNG file")
      Traceback (most recent call last):
      ...
      jmeta.decoding.UnreadableError: cat/1.png cannot be read as an image (SyntaxError: broken PNG file); remove it, \
or save it again
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnreadableError:
        raise
    except Exception as error:
        lines = str(error).split("\n")
        said = shown(lines[0].encode("utf-8", "replace").decode()[:200])
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise UnreadableError(f"{shown(path)} cannot be read as {kind} ({reason}); {remedy}") from error


def read_regular(path: str | os.PathLike, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file; refuse pipes and devices at once.

    Args:
      path: path of the file, or of a link to it.
      max_bytes: largest size.

    Raises:
      FileNotFoundError, NotADirectoryError: if there is nothing at `path`.
      UnreadableError: if it is a dangling link, not a regular file, too large, or may not be read.
    """
    name = shown(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.islink(path):
            raise
        target = shown(os.readlink(path))
        raise UnreadableError(f"{name} is a link to {target}, which does not exist; restore that, or remove the link") \
            from None  # fmt: skip
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{name} cannot be opened ({error}); remove it, or make it readable") from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(f"{name} is {_kind_of(status.st_mode)} and not a file; remove it")
        if status.st_size > max_bytes:
            raise UnreadableError(f"{name} has {status.st_size} bytes, and at most {max_bytes} are read; remove it")
        with decoding(path, "a file", "copy it again, or remove it"), open(descriptor, "rb", closefd=False) as file:
            return file.read(status.st_size)


def read_npz(content: bytes, path: str | os.PathLike, *, remedy: str) -> dict[str, np.ndarray]:
    """Read the arrays of a NumPy archive (`.npz`); every member is checked by its CRC, and no code is executed.

    Args:
      content: content of the file.
      path: path of the file, for messages.
      remedy: advice to the user, if it is damaged.

    Raises:
      UnreadableError: if it is not such an archive, is damaged, larger than `MAX_BYTES` or holds Python objects.

    Example:
      >>> import io, numpy as np
      >>> file = io.BytesIO()
      >>> np.savez(file, x=np.arange(3))
      >>> read_npz(file.getvalue(), "mine.npz", remedy="make it again")["x"].tolist()
      [0, 1, 2]
    """
    kind = "a NumPy archive"
    if not zipfile.is_zipfile(io.BytesIO(content)):
        begins = f"it begins with {content[:12]!r}" if content else "it is empty"
        raise UnreadableError(f"{shown(path)} is not {kind} ({begins}), or is cut off; {remedy}")
    with decoding(path, kind, remedy), zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > MAX_BYTES:
            raise UnreadableError(f"{shown(path)} holds {total} bytes, and at most {MAX_BYTES} are read; {remedy}")
        return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}


def _array(content: bytes) -> np.ndarray:
    """Read one array of an archive; `archive.read` has checked its CRC."""
    file = io.BytesIO(content)
    array = np.lib.format.read_array(file, allow_pickle=False)
    if file.tell() != len(content):
        raise ValueError("an array is shorter than its file")
    return array


def _kind_of(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device")
