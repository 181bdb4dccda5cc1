"""Arrays on disk: Orbax writes them, each process its own shards; TensorStore, which Orbax uses, reads them back.

Orbax's own reader trusts the files. A few hundred kilobytes of compressed zeros can then fill the memory, and a chunk
declared larger than the memory ends the process without an exception. So nothing is compressed here, and the shape,
dtype, chunks and encoding that the files declare are compared with the expected ones before any data is read.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath

from . import leaves
from .files import NO_DAMAGE, DamagedCheckpointError

__all__ = ["write_arrays", "merge_arrays", "Stored", "open_arrays", "read_array", "read_through"]


def write_arrays(path: pathlib.Path, arrays: dict[str, Any], on_copied: Callable[[], None]) -> None:
    """Write the shards that this process owns; `merge_arrays` then joins the shards of all processes.

    Args:
      path: an empty folder, the same for all processes.
      arrays: results of `leaves.to_stored`, by name.
      on_copied: called as soon as all data is in the host's memory, when the devices' arrays may be freed.

    Raises:
      OSError: if the system refused to write.
    """
    stored = {name: array for name, array in arrays.items() if array.size}  # Orbax stores no empty array
    with _quiet_orbax(), _as_os_error(path):
        import orbax.checkpoint as ocp  # late: it takes half a second, only needed to write

        arguments = ocp.args.PyTreeSave(stored or {".": np.zeros(1)})
        handler = ocp.PyTreeCheckpointHandler(use_compression=False)
        futures = asyncio.run(handler.async_save(epath.Path(path), args=arguments)) or []
        on_copied()
        for future in futures:
            future.result()


def merge_arrays(path: pathlib.Path) -> None:
    """Put the data that all processes have written under one index; called by one of them, when all are done.

    Orbax would search with the whole path as a pattern, in which brackets and stars are not literal.
    """
    own = sorted(found for found in os.listdir(path) if _OF_A_PROCESS.fullmatch(found))
    context = tensorstore.Context()  # one for all: only then can one index copy the entries of another
    kept_in_index = {"max_inline_value_bytes": 1024, "max_decoded_node_bytes": 100_000_000, "manifest_kind": "single"}
    with _as_os_error(path):
        merged = _open_index(path, context, config=kept_in_index, assume_config=True)
        parts = [_open_index(path / name, context) for name in own]
        transaction = tensorstore.Transaction(atomic=True)
        for copied in [part.experimental_copy_range_to(merged.with_transaction(transaction)) for part in parts]:
            copied.result()
        transaction.commit_sync()


def _open_index(path: pathlib.Path, context: tensorstore.Context, **options: Any) -> tensorstore.KvStore:
    base = {"driver": "file", "path": f"{path}{os.sep}"}
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": base, **options}, context=context).result()


_OF_A_PROCESS = re.compile(r"ocdbt\.process_[0-9]+")

Stored = dict[str, tensorstore.TensorStore]


def open_arrays(path: pathlib.Path, forms: dict[str, jax.ShapeDtypeStruct]) -> Stored:
    """Open the arrays and check that they are as expected, without reading their data.

    Raises:
      DamagedCheckpointError: if an array is missing or differs.
    """
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 1 << 24}})
    base = {"driver": "file", "path": f"{path}{os.sep}"}
    specs = {
        name: {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": base, "path": name},
            "metadata": {"compressor": None, "filters": None},  # uncompressed, or refused
            "fill_missing_data_reads": False,  # Orbax writes zeros, too, so missing data is lost and not zero
        }
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
    """Read one leaf in its stored form; for an array on devices, only the part that this process's devices need."""
    form, sharding = leaves.stored_form(like), leaves.sharding_of(like)

    def read(index: Any) -> np.ndarray:
        if name in stored:
            return stored[name][index].read().result()
        return np.zeros(form.shape, form.dtype)[index]  # empty arrays are not stored

    with _damage():
        if sharding is None:
            return read(())
        return jax.make_array_from_callback(form.shape, sharding, read, form.dtype)


def read_through(stored: Stored, share: tuple[int, int]) -> None:
    """Read every n-th chunk of the arrays and discard it, to check that everything in the index exists.

    Args:
      stored: the result of `open_arrays`.
      share: `(i, n)`: read the chunks i, i + n, ...; other processes read the others.

    Raises:
      DamagedCheckpointError: if one cannot be read.
    """
    chunks = ((array, index) for array in stored.values() for index in _chunks(array))
    with _damage():
        for array, index in itertools.islice(chunks, share[0], None, share[1]):
            array[index].read().result()  # one at a time: saving must not need more memory than the largest chunk


def _chunks(array: tensorstore.TensorStore) -> Iterator[tuple[slice, ...]]:
    stated = array.chunk_layout.read_chunk.shape or ()
    sizes = [part or max(whole, 1) for part, whole in zip(stated, array.shape, strict=True)]
    starts = [range(0, whole, part) for whole, part in zip(array.shape, sizes, strict=True)]
    for corner in itertools.product(*starts):
        ends = [min(at + part, whole) for at, part, whole in zip(corner, sizes, array.shape, strict=True)]
        yield tuple(map(slice, corner, ends))


def _check(name: str, array: tensorstore.TensorStore, form: jax.ShapeDtypeStruct) -> None:
    found, dtype = f"{array.dtype.name}{list(array.shape)}", np.dtype(form.dtype)
    if array.shape != form.shape or array.dtype.numpy_dtype != dtype:
        raise DamagedCheckpointError(f"its files hold {found} as {name}, and not {dtype}{list(form.shape)}")
    chunk = array.chunk_layout.read_chunk.shape or ()
    if any(part is None or part > max(whole, 1) for part, whole in zip(chunk, array.shape, strict=True)):
        raise DamagedCheckpointError(f"its files hold {name} in chunks of {chunk}, larger than itself, {found}")


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # the files match the manifest, and yet cannot be read
        if (code := _errno_of(error)) in NO_DAMAGE:
            raise OSError(code, os.strerror(code), "arrays of a checkpoint") from error
        text = str(error).partition(" [tensorstore_spec")[0]  # the rest is long and known
        raise DamagedCheckpointError(f"its arrays cannot be read ({type(error).__name__}: {text})") from error


@contextlib.contextmanager
def _as_os_error(path: pathlib.Path) -> Iterator[None]:
    """Turn TensorStore's `ValueError` for a full disk into an `OSError` with the system's number from its text."""
    try:
        yield
    except Exception as error:
        code = _errno_of(error) or (errno.ENOENT if "NOT_FOUND" in str(error) else 0)  # deleted while it was written
        if code:
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def _errno_of(error: Exception) -> int:
    """Return the system's error number in a TensorStore message; 0 if there is none."""
    number = re.search(r"(?:os_error_code='|OS error )(\d+)", str(error))
    return int(number.group(1)) if number else 0


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Silence Orbax, which logs several lines per checkpoint through absl; what matters comes back as an exception."""

    def is_of_others(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(is_of_others)  # a filter, not a level: a background thread must not change the level
    try:
        yield
    finally:
        logger.removeFilter(is_of_others)
