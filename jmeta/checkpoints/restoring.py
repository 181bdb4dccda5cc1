"""Restoring: find the checkpoint, verify it, and bring each device what it needs, however many there were."""

import os
import pathlib
import warnings

import jax

from ..types import PyTree
from . import arrays, cluster, files, leaves
from .files import DamagedCheckpointError


def restore(
    folder: str | os.PathLike[str], like: PyTree, *, best: bool = False, up_to: int | None = None
) -> tuple[int, PyTree] | None:
    """The latest whole checkpoint of a folder.

    A damaged one is passed over, with a `RuntimeWarning` that says what is wrong, for the one before it. In a job of
    several processes all restore the same one; how many processes and devices it was saved by does not matter.

    Args:
      folder: what `save` was given. It need not be trusted: it is checked before it is used, nothing in it is executed,
        and no more memory is taken than `like` takes. A name that `save` refuses is refused.
      like: a pytree of the structure, shapes and dtypes that were saved, of arrays or of `jax.ShapeDtypeStruct` (see
        `jax.eval_shape`). NumPy leaves come back as NumPy, JAX leaves as JAX arrays placed as those of `like` are, or
        as the shape's `sharding` says, Python numbers as Python numbers.
      best: start from the one with the best score instead, and from the latest if that is damaged or none has a score.
      up_to: leave out the checkpoints of later steps.

    Returns:
      `(step, state)`, or `None` if there is no checkpoint.

    Raises:
      ValueError: if what was saved is not like `like`, where the first leaf that differs is named, or was saved in
        another format; or the folder is one that `save` refuses.
      DamagedCheckpointError: if there are checkpoints, and all are damaged.
      OSError: if one may not be read for a reason that is not the files', such as a lack of permission or of handles.

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
    folder = files.usable(folder)
    named = leaves.named_leaves(like)
    described = {name: leaves.describe(name, leaf) for name, leaf in named.items()}
    called = f"restore({str(folder)!r}, best={best}, up_to={up_to}) of {leaves.fingerprint(described)}"
    operation = cluster.Operation(called)
    with operation.together():
        candidates = _candidates(folder, best, up_to)
    candidates = operation.gather(candidates)[0]
    forms = leaves.stored_forms(named)
    for step in candidates:
        path = folder / files.step_name(step)
        try:
            with operation.together():
                verify(path, forms, described)
            with operation.together():
                stored = arrays.open_arrays(path / "state", forms)
                restored = [leaves.from_stored(arrays.read_array(stored, n, leaf), leaf) for n, leaf in named.items()]
            return step, jax.tree.unflatten(jax.tree.structure(like), restored)
        except DamagedCheckpointError as error:
            message = f"the checkpoint {path} is damaged and is passed over: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    if candidates:
        raise DamagedCheckpointError(
            f"all {len(candidates)} checkpoints in {folder} are damaged; restore the folder from a copy, or delete "
            "it to start from the beginning"
        )
    return None


def _candidates(folder: pathlib.Path, best: bool, up_to: int | None) -> list[int]:
    """Steps in the order in which they are tried."""
    found = [step for step in files.steps(folder)[::-1] if up_to is None or step <= up_to]
    first = files.best_step(folder) if best else None
    return [first, *(step for step in found if step != first)] if first in found else found


def verify(
    path: pathlib.Path, forms: dict[str, jax.ShapeDtypeStruct], described: dict[str, str], name: str | None = None
) -> None:
    """Check the manifest, and this process's share of the files.

    Args:
      path: the checkpoint's folder.
      forms: what `leaves.stored_forms` gave.
      described: what `leaves.describe` gave, by name.
      name: that the folder will have, if it does not have it yet.

    Raises:
      ValueError: if what was saved is something else.
      DamagedCheckpointError: if it is not whole.
    """
    manifest = files.read_manifest(path, name)
    _check_alike(path, manifest["leaves"], described)
    max_bytes = (1 << 30) + 8 * sum(map(leaves.num_bytes, forms.values()))
    files.verify_files(path, manifest["files"], max_bytes, (jax.process_index(), jax.process_count()))


def _check_alike(path: pathlib.Path, saved: dict[str, str], expected: dict[str, str]) -> None:
    advice = "restore with the configuration that saved it, or choose another folder"
    for name, description in expected.items():
        if name not in saved:
            raise ValueError(f"{path} has no leaf {name}, which is expected to be {description}; {advice}")
        if saved[name] != description:
            raise ValueError(f"{path} has {saved[name]} at {name}, but {description} is expected; {advice}")
    for name in saved:
        if name not in expected:
            raise ValueError(f"{path} has a leaf {name} ({saved[name]}) that is not expected; {advice}")
