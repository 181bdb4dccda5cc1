"""Arrays on disk: written by Orbax, each process its own shards, and read back by TensorStore, on which Orbax rests.

Orbax's own reading takes the files at their word. A few hundred kilobytes of compressed zeros then fill the memory, and
a chunk that is declared larger than the memory ends the process, without an exception. So nothing is compressed here,
and shape, dtype, chunks and encoding that the files declare are compared with what is expected before any data is read.
"""

import asyncio
import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath

from . import leaves
from .files import NO_DAMAGE, DamagedCheckpointError


def write_arrays(path: pathlib.Path, arrays: dict[str, Any], on_copied: Callable[[], None]) -> None:
    """Write the shards that this process owns; `merge_arrays` makes those of all processes one.

    Args:
      path: an empty folder, the same for all processes.
      arrays: what `leaves.to_stored` gave, by name.
      on_copied: called as soon as all is in the host's memory and the devices' arrays may be given up.

    Raises:
      OSError: if the system refused to write.
    """
    stored = {name: array for name, array in arrays.items() if array.size}  # Orbax stores no empty array
    with _quiet_orbax(), _as_os_error(path):
        arguments = ocp.args.PyTreeSave(stored or {".": np.zeros(1)})
        futures = asyncio.run(_handler().async_save(epath.Path(path), args=arguments)) or []
        on_copied()
        for future in futures:
            future.result()


def merge_arrays(path: pathlib.Path) -> None:
    """What all processes have written under one index; called by one of them, when all are done."""
    with _quiet_orbax(), _as_os_error(path):
        _handler().finalize(epath.Path(path))


Stored = dict[str, tensorstore.TensorStore]


def open_arrays(path: pathlib.Path, forms: dict[str, jax.ShapeDtypeStruct]) -> Stored:
    """Find the arrays, and check that they are what is expected, without reading them.

    Raises:
      DamagedCheckpointError: if an array is missing or is something else.
    """
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 1 << 24}})
    base = {"driver": "file", "path": f"{path}{os.sep}"}
    specs = {
        name: {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": name}}
        for name, form in forms.items()
        if leaves.num_bytes(form)
    }
    with _damage():
        opened = {n: tensorstore.open(spec, open=True, read=True, context=context) for n, spec in specs.items()}
        stored = {name: future.result() for name, future in opened.items()}
    for name, array in stored.items():
        _check(name, array, forms[name])
    return stored


def read_array(stored: Stored, name: str, like: Any) -> np.ndarray | jax.Array:
    """One leaf in its stored form; of an array of the devices, only what this process's devices need."""
    form, sharding = leaves.stored_form(like), leaves.sharding_of(like)

    def read(index: Any) -> np.ndarray:
        if name in stored:
            return stored[name][index].read().result()
        return np.zeros(form.shape, form.dtype)[index]  # an empty one is not stored

    with _damage():
        if sharding is None:
            return read(())
        return jax.make_array_from_callback(form.shape, sharding, read, form.dtype)


def _check(name: str, array: tensorstore.TensorStore, form: jax.ShapeDtypeStruct) -> None:
    found, dtype = f"{array.dtype.name}{list(array.shape)}", np.dtype(form.dtype)
    if array.shape != form.shape or array.dtype.numpy_dtype != dtype:
        raise DamagedCheckpointError(f"its files hold {found} as {name}, and not {dtype}{list(form.shape)}")
    chunk, codec = array.chunk_layout.read_chunk.shape or (), array.codec
    if any(part is None or part > max(whole, 1) for part, whole in zip(chunk, array.shape, strict=True)):
        raise DamagedCheckpointError(f"its files hold {name} in chunks of {chunk}, larger than itself, {found}")
    encoding = codec and codec.to_json()
    if encoding != {"driver": "zarr", "compressor": None, "filters": None}:
        raise DamagedCheckpointError(f"its files hold {name} encoded as {encoding}; jmeta writes arrays as they are")


def _handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(use_compression=False)


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # the files are those that the manifest lists, and yet cannot be read
        if (code := _errno_of(error)) in NO_DAMAGE:
            raise OSError(code, os.strerror(code), "arrays of a checkpoint") from error
        text = str(error).partition(" [tensorstore_spec")[0]  # what follows is long and known
        raise DamagedCheckpointError(f"its arrays cannot be read ({type(error).__name__}: {text})") from error


@contextlib.contextmanager
def _as_os_error(path: pathlib.Path) -> Iterator[None]:
    """TensorStore raises `ValueError` when the disk is full; the system's own number is in its text."""
    try:
        yield
    except Exception as error:
        if code := _errno_of(error):
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def _errno_of(error: Exception) -> int:
    """The system's number in what TensorStore says; 0 if there is none."""
    number = re.search(r"(?:os_error_code='|OS error )(\d+)", str(error))
    return int(number.group(1)) if number else 0


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax logs several lines a checkpoint through absl; what matters comes back as an exception."""

    def is_of_others(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(is_of_others)  # and not another level: a thread in the background must leave that alone
    try:
        yield
    finally:
        logger.removeFilter(is_of_others)
