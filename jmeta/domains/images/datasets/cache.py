"""A cache of arrays that are costly to compute, each set in one checked file.

A file begins with the SHA-256 of its payload. It is written under another name and then moved into place, so a reader
sees all of it or nothing. A damaged file is written again, with a warning.
"""

import hashlib
import io
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable

import numpy as np

from jmeta.decoding import read_npz, read_regular, shown

__all__ = ["Arrays", "cached_arrays"]

Arrays = dict[str, np.ndarray]


def cached_arrays(
    name: str,
    make: Callable[[], Arrays],
    cache_dir: str | os.PathLike | None = None,
    *,
    check: Callable[[Arrays], None] | None = None,
) -> Arrays:
    """Return the arrays of `make()`, from the cache if they are in it.

    Args:
      name: file name; it should contain everything that the arrays depend on.
      make: computes the arrays.
      cache_dir: folder of the cache; by default the environment variable `JMETA_CACHE`, or else the user's
        cache folder on this platform.
      check: raises `ValueError` on arrays that `make` cannot have made.

    Returns:
      The arrays by name. A file that cannot be used (damaged, with other arrays, a pipe) is made again, and a folder
      that cannot be written to is not used; both cause a warning.

    Example:
      >>> import numpy as np, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = cached_arrays("squares", lambda: {"x": np.arange(3) ** 2}, folder)
      ...     cached_arrays("squares", lambda: {}, folder)["x"].tolist()
      [0, 1, 4]
    """
    try:
        path = (pathlib.Path(cache_dir) if cache_dir is not None else _default_folder()) / name
    except RuntimeError as error:
        warnings.warn(f"{name} is made again each time: {error}; set JMETA_CACHE to a folder of yours", stacklevel=2)
        return make()
    try:
        arrays = _read(path)
        if check is not None:
            check(arrays)
        return arrays
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        said = f"the cached file {shown(path)} cannot be used and is made again: {error}"
        warnings.warn(said, stacklevel=2)
    arrays = make()
    try:
        _write(path, arrays)
    except OSError as error:
        said = (
            f"cannot write {shown(path)}, so it is made again each time: {error}; set JMETA_CACHE to a folder of yours"
        )
        warnings.warn(said, stacklevel=2)
    return arrays


def _default_folder() -> pathlib.Path:
    if named := os.environ.get("JMETA_CACHE"):
        return pathlib.Path(named)
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return pathlib.Path(local) / "jmeta" / "cache"
    if sys.platform == "darwin":
        return pathlib.Path.home() / "Library" / "Caches" / "jmeta"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jmeta"


def _read(path: pathlib.Path) -> Arrays:
    content = read_regular(path)
    digest, payload = content[:32], content[32:]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("its checksum does not fit its content")
    return read_npz(payload, path, remedy="remove it")


def _write(path: pathlib.Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    payload = buffer.getvalue()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
