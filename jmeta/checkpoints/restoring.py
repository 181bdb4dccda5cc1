"""Restoring: find the checkpoint, verify it, and give each device its part, whatever the number of devices."""

import os
import pathlib
import warnings

import jax

from ..types import PyTree
from . import arrays, cluster, files, leaves
from .files import DamagedCheckpointError
from .guarded import short

__all__ = ["restore", "restore_part", "verify"]


def restore(
    folder: str | os.PathLike[str], like: PyTree, *, best: bool = False, up_to: int | None = None
) -> tuple[int, PyTree] | None:
    """Restore the latest whole checkpoint of a folder.

    A damaged one is skipped for the one before it, with a `RuntimeWarning` that names the damage. In a job of several
    processes all restore the same one; the number of processes and devices that saved it does not matter.

    Args:
      folder: the folder passed to `save`. It need not be trusted: it is checked before use, nothing in it is executed,
        and no more memory is used than `like` needs. A name that `save` refuses is refused.
      like: a pytree with the structure, shapes and dtypes that were saved, of arrays or of `jax.ShapeDtypeStruct` (see
        `jax.eval_shape`). NumPy leaves are restored as NumPy, JAX leaves as JAX arrays placed like those of `like` or
        as the shape's `sharding` says, Python numbers as Python numbers.
      best: start from the checkpoint with the best score, or from the latest if that is damaged or none has a score.
      up_to: leave out the checkpoints of later steps.

    Returns:
      `(step, state)`, or `None` if there is no checkpoint.

    Raises:
      ValueError: if the saved state differs from `like` (the message names the first leaf that differs) or was saved in
        another format; or the folder is one that `save` refuses.
      DamagedCheckpointError: if there are checkpoints, and all are damaged.
      OSError: if one cannot be read for a reason outside its files, such as missing permission or too few file handles.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> from jmeta import checkpoints
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for step, score in [(1, 0.9), (2, 0.5), (3, 0.6), (4, 0.7), (5, 0.8)]:
      ...         _ = checkpoints.save(folder, step, jnp.array(step), score=score, keep_last=2)
      ...     latest = checkpoints.restore(folder, jnp.array(0))
      ...     best = checkpoints.restore(folder, jnp.array(0), best=True)
      ...     checkpoints.steps(folder), latest[0], best[0]
      ([1, 4, 5], 5, 1)
    """
    return _restore(folder, like, best=best, up_to=up_to, inside=None)


def restore_part(
    folder: str | os.PathLike[str], like: PyTree, *, inside: str = "", best: bool = False, up_to: int | None = None
) -> tuple[int, PyTree] | None:
    """Restore a part of the latest whole checkpoint, by the names of its leaves, whatever else was saved with it.

    So parameters can be restored without their optimizer and trained with another one. Everything is verified as in
    `restore`, and only the leaves that `like` names are read.

    Args:
      folder: see `restore`.
      like: the part, as for `restore`; each of its leaves must have been saved with that shape and dtype.
      inside: path of the part in the saved tree, as `jax.tree_util.keystr` writes it: `"['params']"` for a key of a
        dictionary, `".best_meta_params"` for a field of a NamedTuple, as in the checkpoints of a run.
      best: see `restore`.
      up_to: see `restore`.

    Returns:
      `(step, part)`, or `None` if there is no checkpoint.

    Raises:
      ValueError: if a leaf was not saved, or with another shape or dtype: the message names the first, with similar
        names; otherwise as for `restore`.
      DamagedCheckpointError: as for `restore`.
      OSError: as for `restore`.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> from jmeta import checkpoints
      >>> state = {"params": {"w": jnp.ones(3)}, "optimizer": jnp.zeros(7)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = checkpoints.save(folder, 500, state)
      ...     _, params = checkpoints.restore_part(folder, {"w": jnp.zeros(3)}, inside="['params']")
      >>> params["w"].tolist()
      [1.0, 1.0, 1.0]
    """
    return _restore(folder, like, best=best, up_to=up_to, inside=inside)


def _restore(
    folder: str | os.PathLike[str], like: PyTree, *, best: bool, up_to: int | None, inside: str | None
) -> tuple[int, PyTree] | None:
    """Restore all of a checkpoint, or with `inside` the part that has these names."""
    folder = files.usable(folder)
    named = {_full_name(name, inside): leaf for name, leaf in leaves.named_leaves(like).items()}
    described = {name: leaves.describe(name, leaf) for name, leaf in named.items()}
    called = f"restore({str(folder)!r}, {best=}, {up_to=}, {inside=}) of {leaves.fingerprint(described)}"
    operation = cluster.Operation(called)
    with operation.together():
        candidates = _candidates(folder, best, up_to)
    candidates = operation.gather(candidates)[0]
    forms = leaves.stored_forms(named)
    for step in candidates:
        path = folder / files.step_name(step)
        try:
            with operation.together():
                verify(path, forms, described, is_part=inside is not None)
            with operation.together():
                stored = arrays.open_arrays(path / "state", forms)
                restored = [leaves.from_stored(arrays.read_array(stored, n, leaf), leaf) for n, leaf in named.items()]
            return step, jax.tree.unflatten(jax.tree.structure(like), restored)
        except DamagedCheckpointError as error:
            message = f"the checkpoint {path} is damaged and is passed over: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
    if candidates:
        raise DamagedCheckpointError(
            f"all {len(candidates)} checkpoints in {folder} are damaged; restore the folder from a copy, or delete "
            "it to start from the beginning"
        )
    return None


def _full_name(name: str, inside: str | None) -> str:
    return f"{inside}{'' if name == '.' else name}" if inside else name  # the leaf of a one-leaf tree is named by a dot


def _candidates(folder: pathlib.Path, best: bool, up_to: int | None) -> list[int]:
    """Return the steps in the order in which they are tried."""
    found = [step for step in files.steps(folder)[::-1] if up_to is None or step <= up_to]
    first = files.best_step(folder) if best else None
    return [first, *(step for step in found if step != first)] if first in found else found


def verify(
    path: pathlib.Path,
    forms: dict[str, jax.ShapeDtypeStruct],
    described: dict[str, str],
    name: str | None = None,
    *,
    is_part: bool = False,
) -> None:
    """Check the manifest, and this process's share of the files.

    Args:
      path: the checkpoint's folder.
      forms: the result of `leaves.stored_forms`.
      described: results of `leaves.describe`, by name.
      name: name that the folder will have, if it does not have it yet.
      is_part: whether more leaves may have been saved than are described.

    Raises:
      ValueError: if the saved state is another one.
      DamagedCheckpointError: if it is not whole.
    """
    manifest = files.read_manifest(path, name)
    _check_alike(path, manifest["leaves"], described, is_part)
    max_bytes = (1 << 30) + 8 * sum(map(leaves.num_bytes, forms.values()))
    if is_part:  # the other leaves are unknown, but the disk can hold them
        disk = os.statvfs(path)
        max_bytes = disk.f_blocks * disk.f_frsize
    files.verify_files(path, manifest["files"], max_bytes, (jax.process_index(), jax.process_count()))


def _check_alike(path: pathlib.Path, saved: dict[str, str], expected: dict[str, str], is_part: bool) -> None:
    advice = "restore with the configuration that saved it, or choose another folder"
    for name, description in expected.items():
        if name not in saved:
            hint = _hint(name, saved) if is_part else ""
            raise ValueError(f"{path} has no leaf {name}, which is expected to be {description}; {hint}{advice}")
        if saved[name] != description:
            raise ValueError(f"{path} has {saved[name]} at {name}, but {description} is expected; {advice}")
    for name in saved if not is_part else ():
        if name not in expected:
            raise ValueError(f"{path} has a leaf {name} ({saved[name]}) that is not expected; {advice}")


def _hint(name: str, saved: dict[str, str]) -> str:
    close = [short(each) for each in saved if each.endswith(name[-200:])][:3]
    return f"there is {' and '.join(close)}: say what it is `inside`; " if close else ""
