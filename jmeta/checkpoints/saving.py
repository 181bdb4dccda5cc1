"""Saving: the state is copied to the host's memory, and a background thread writes a checkpoint of it.

The written data is read back, as in restoring, before it replaces anything: the file system, and the libraries between
us and it, may not have done as they were asked.
"""

import concurrent.futures
import contextlib
import errno
import math
import os
import pathlib
import threading
from types import TracebackType
from typing import Any

import jax

from ..types import PyTree
from . import arrays, cluster, files, leaves
from .files import DamagedCheckpointError
from .restoring import verify

__all__ = ["save", "AsyncSaver"]


def save(
    folder: str | os.PathLike[str], step: int, state: PyTree, *, score: float | None = None, keep_last: int = 3
) -> pathlib.Path:
    """Write a checkpoint, atomically, and delete those that are neither among the last nor the best.

    One run at a time may save into a folder. A checkpoint of the same step is replaced. The written data is read back
    and its hashes are checked before it counts as saved and before anything is deleted.

    Args:
      folder: folder of a run's checkpoints; made if missing. Any name will do, even with characters special to shells;
        a leading `~` is the home folder, as in a shell. Addresses such as `gs://bucket` are refused: mount the bucket.
        So is a path with a backslash, a byte that is not UTF-8, or a name that ends with `gs:`, which TensorStore or
        Orbax would misread.
      step: number of the checkpoint, not negative.
      state: any pytree of arrays, typed random keys and Python numbers. In a job of several processes, arrays of the
        whole job are stored from all processes, arrays and numbers that each process holds for itself from the first.
      score: score that selects the best checkpoint, higher is better; `None` or a number that is not finite is never
        best.
      keep_last: number of latest checkpoints kept, at least 1; the one with the best score is kept as well.

    Returns:
      The checkpoint's folder.

    Raises:
      ValueError: if `step` is negative, `keep_last` is below 1, a leaf is not an array, key or number, the folder is
        one of those that are refused, or processes differ; nothing has been written.
      OSError: if it cannot be written; older checkpoints stay.
      DamagedCheckpointError: if the written data does not read back; it is deleted, and older checkpoints stay.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp
      >>> from jmeta import checkpoints
      >>> state = {"params": jnp.arange(3.0), "key": jax.random.key(7)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = checkpoints.save(folder, 500, state)
      ...     step, restored = checkpoints.restore(folder, state)
      >>> path.name, step, restored["params"].tolist(), restored["key"] == state["key"]
      ('step_00000500', 500, [0.0, 1.0, 2.0], Array(True, dtype=bool))
    """
    with AsyncSaver(folder, keep_last=keep_last) as saver:
        return saver.save(step, state, score=score)


class AsyncSaver:
    """A saver that works while the run goes on; it writes the same files as `save`.

    At most one checkpoint is in progress, and meanwhile nothing else may save into the folder. Use it in `with`, or end
    with `wait`: only then is the last checkpoint in place.

    Args:
      folder: see `save`.
      keep_last: see `save`.

    Raises:
      ValueError: if `keep_last` is below 1, or the folder is one that `save` refuses.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> from jmeta import checkpoints
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with checkpoints.AsyncSaver(folder, keep_last=2) as saver:
      ...         for step in range(4):
      ...             _ = saver.save(step, {"params": jnp.array(step)})
      ...     checkpoints.steps(folder)
      [2, 3]
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep_last: int = 3):
        if keep_last < 1:
            raise ValueError(f"keep_last={keep_last}; expected at least 1 checkpoint to keep")
        self._folder, self._keep_last = files.usable(folder), keep_last
        self._pending: concurrent.futures.Future[None] | None = None
        self._begun: tuple[int, int] | None = None  # tells the folder from a later one of its name

    def save(self, step: int, state: PyTree, *, score: float | None = None) -> pathlib.Path:
        """Begin a checkpoint once the previous one is done; return as soon as `state` may be donated or changed.

        Args:
          step: see `save`.
          state: see `save`.
          score: see `save`.

        Returns:
          The path that the checkpoint will have.

        Raises:
          ValueError: as `save` does.
          OSError: if this checkpoint cannot be begun, or the previous one could not be written; a folder that was moved
            or deleted after the first save is not made again.
          DamagedCheckpointError: if the previous one does not read back.
        """
        self.wait()
        if step < 0:
            raise ValueError(f"step={step}; expected at least 0")
        named = leaves.named_leaves(state)
        described = {name: leaves.describe(name, leaf) for name, leaf in named.items()}
        stored = {name: leaves.to_stored(name, leaf) for name, leaf in named.items()}
        forms = leaves.stored_forms(named)
        score = None if score is None or not math.isfinite(score) else float(score)
        operation = cluster.Operation(f"save({str(self._folder)!r}, {step}) of {leaves.fingerprint(described)}")
        temporary = None
        with operation.together():
            if cluster.is_first():
                self._begin()
                temporary = str(files.make_temporary(self._folder, step))
        temporary = pathlib.Path(operation.gather(temporary)[0])

        copied = threading.Event()
        content = {"step": step, "score": score, "leaves": described}
        background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending = background.submit(self._write, operation, temporary, content, stored, forms, copied)
        background.shutdown(wait=False)
        copied.wait()
        return self._folder / files.step_name(step)

    def _begin(self) -> None:
        """Make the folder the first time; one that is missing later was moved or deleted, and must not be made anew."""
        if self._begun is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._begun = files.identity(self._folder)
        else:
            self._check_kept()

    def _check_kept(self) -> None:
        if self._is_lost():
            raise FileNotFoundError(errno.ENOENT, "it was moved or deleted after the first save", str(self._folder))

    def _is_lost(self) -> bool:
        return self._begun != files.identity(self._folder)

    def wait(self) -> None:
        """Wait until the checkpoint in progress is in place.

        Raises:
          OSError: if it could not be written; raised once.
          DamagedCheckpointError: if it does not read back; raised once.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            finally:
                concurrent.futures.wait([pending])  # also after Ctrl-C: nobody may see half a save

    def __enter__(self) -> "AsyncSaver":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del kind, trace
        try:
            self.wait()
        except Exception as failed:
            if error is None:
                raise
            error.add_note(f"and the last checkpoint could not be written: {failed}")

    def _write(
        self,
        operation: cluster.Operation,
        temporary: pathlib.Path,
        content: dict[str, Any],
        stored: dict[str, Any],
        forms: dict[str, jax.ShapeDtypeStruct],
        copied: threading.Event,
    ) -> None:
        """Do the work of the background thread."""
        try:
            with operation.together():
                try:
                    arrays.write_arrays(temporary / "state", stored, copied.set)
                finally:
                    copied.set()
                # another machine's file system may not write these through when the first process asks its own to
                own = temporary / "state" / f"ocdbt.process_{jax.process_index()}"
                files.to_disk(*files.list_files(own) if own.is_dir() else [])
            stored.clear()
            with operation.together():
                if cluster.is_first():
                    self._complete(temporary, content)
            with operation.together():
                self._read_back(temporary, content, forms)
            with operation.together():
                if cluster.is_first():
                    self._check_kept()
                    files.put_in_place(temporary, self._folder / files.step_name(content["step"]))
                    files.prune(self._folder, self._keep_last, newest=content["step"])
        except BaseException:
            if cluster.is_first():
                self._clear(temporary)
            raise

    def _clear(self, temporary: pathlib.Path) -> None:
        """Remove an unfinished checkpoint; if the folder was lost, remove also the one that TensorStore made instead.

        TensorStore makes folders for its files, even where ours used to be, and its threads may still write some.
        """
        for _ in range(20):
            with contextlib.suppress(OSError):
                files.remove(temporary)
                if not self._is_lost():
                    return
                os.removedirs(self._folder)
            if not self._is_lost() or not self._folder.exists():
                return
            threading.Event().wait(0.1)

    def _complete(self, temporary: pathlib.Path, content: dict[str, Any]) -> None:
        """Complete a checkpoint: the first process's work, when all have written."""
        arrays.merge_arrays(temporary / "state")
        files.write_manifest(temporary, content)
        files.to_disk(temporary, *temporary.rglob("*"))

    def _read_back(
        self, temporary: pathlib.Path, content: dict[str, Any], forms: dict[str, jax.ShapeDtypeStruct]
    ) -> None:
        """Read back this process's share, as restoring would, before the checkpoint gets its name."""
        name = files.step_name(content["step"])
        try:
            verify(temporary, forms, content["leaves"], name)
            arrays.read_through(
                arrays.open_arrays(temporary / "state", forms), (jax.process_index(), jax.process_count())
            )
        except DamagedCheckpointError as error:
            raise DamagedCheckpointError(
                f"the checkpoint {self._folder / name} does not read back as it was written, and was not kept; those "
                f"before it are as they were: {error}"
            ) from error
