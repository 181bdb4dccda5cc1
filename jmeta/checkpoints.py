"""Checkpoints: the whole state of a run on disk, so that a run killed at any moment goes on as if it never stopped.

A checkpoint is a folder `step_00000500/` with the leaves of one pytree, written by Orbax, and a `manifest.json` that
names every leaf and carries the SHA-256 of every file. It appears under its name in one rename, so it is whole or is
not there; and it is verified before it is used, since a flipped bit may otherwise come back as a wrong number. This is
the last stop of the data flow: `training` knows nothing of files, and nothing here knows of training.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from .types import PyTree

_MANIFEST = "manifest.json"
_STEP_FOLDER = re.compile(r"step_(\d{8,})")
_TEMPORARY = "tmp-"


class DamagedCheckpointError(Exception):
    """A checkpoint's files are not what was written: one is missing, truncated or changed."""


def save(
    folder: str | os.PathLike[str], step: int, state: PyTree, *, score: float | None = None, keep_last: int = 3
) -> pathlib.Path:
    """Write a checkpoint, atomically, and delete those that are neither among the last nor the best.

    One process at a time may save into a folder. A checkpoint of the same step is replaced.

    Args:
      folder: where a run's checkpoints live; made if it is not there.
      step: number of the checkpoint, not negative.
      state: any pytree of arrays, typed random keys and Python numbers.
      score: what the best checkpoint is chosen by, higher is better; `None`, or a number that is not finite, never is.
      keep_last: how many of the latest are kept, at least 1; the one with the best score is kept besides.

    Returns:
      The checkpoint's folder.

    Raises:
      ValueError: if `step` is negative, `keep_last` is below 1, or a leaf is no array, key or number.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp
      >>> state = {"params": jnp.arange(3.0), "key": jax.random.key(7)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = save(folder, 500, state)
      ...     step, restored = restore(folder, state)
      >>> path.name, step, restored["params"].tolist(), restored["key"] == state["key"]
      ('step_00000500', 500, [0.0, 1.0, 2.0], Array(True, dtype=bool))
    """
    if step < 0 or keep_last < 1:
        raise ValueError(
            f"step={step} and keep_last={keep_last}; expected a step of at least 0, and at least 1 to keep"
        )
    names, leaves = _named_leaves(state)
    described = {name: _describe(name, leaf) for name, leaf in zip(names, leaves, strict=True)}
    arrays = {name: _to_numpy(leaf) for name, leaf in zip(names, leaves, strict=True)}
    folder = pathlib.Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob(_TEMPORARY + "*"):  # of saves that were killed
        shutil.rmtree(abandoned)

    temporary = folder / f"{_TEMPORARY}{_name(step)}"
    _write_arrays(temporary / "state", arrays)
    score = None if score is None or not math.isfinite(score) else float(score)
    manifest: dict[str, Any] = {"step": step, "score": score, "leaves": described}
    manifest["keys"] = {
        n: str(jax.random.key_impl(leaf)) for n, leaf in zip(names, leaves, strict=True) if _is_key(leaf)
    }
    manifest["files"] = {str(p.relative_to(temporary)): _sha256(p) for p in _files(temporary)}
    _write_manifest(temporary / _MANIFEST, manifest)
    _to_disk(temporary)

    final = folder / _name(step)
    if final.exists():
        final.rename(folder / f"{_TEMPORARY}replaced")
    temporary.rename(final)
    _to_disk(folder, recursive=False)
    _prune(folder, keep_last, newest=step)
    return final


def restore(
    folder: str | os.PathLike[str], like: PyTree, *, best: bool = False, up_to: int | None = None
) -> tuple[int, PyTree] | None:
    """The latest whole checkpoint of a folder.

    A damaged one is passed over, with a `RuntimeWarning` that says what is wrong, for the one before it.

    Args:
      folder: what `save` was given.
      like: a pytree of the structure, shapes and dtypes that were saved, of arrays or of `jax.ShapeDtypeStruct` (see
        `jax.eval_shape`). NumPy leaves come back as NumPy, JAX leaves as JAX arrays placed as those of `like` are,
        Python numbers as Python numbers.
      best: start from the one with the best score instead, and from the latest if that is damaged or none has a score.
      up_to: leave out the checkpoints of later steps.

    Returns:
      `(step, state)`, or `None` if there is no checkpoint.

    Raises:
      ValueError: if what was saved is not like `like`; the first leaf that differs is named.
      DamagedCheckpointError: if there are checkpoints, and all are damaged.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for step, score in [(1, 0.9), (2, 0.5), (3, 0.6), (4, 0.7), (5, 0.8)]:
      ...         _ = save(folder, step, jnp.array(step), score=score, keep_last=2)
      ...     steps(folder), restore(folder, jnp.array(0))[0], restore(folder, jnp.array(0), best=True)[0]
      ([1, 4, 5], 5, 1)
    """
    folder = pathlib.Path(folder).absolute()
    candidates = [step for step in steps(folder)[::-1] if up_to is None or step <= up_to]
    best_step = _best_step(folder) if best else None
    if best_step in candidates:
        candidates = [best_step, *(step for step in candidates if step != best_step)]
    for step in candidates:
        try:
            return step, _read(folder / _name(step), like)
        except DamagedCheckpointError as error:
            message = f"the checkpoint {folder / _name(step)} is damaged and is passed over: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    if candidates:
        raise DamagedCheckpointError(
            f"all {len(candidates)} checkpoints in {folder} are damaged; restore the folder from a copy, or delete "
            "it to start from the beginning"
        )
    return None


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps that a folder has checkpoints of, ascending, damaged ones included.

    Example:
      >>> steps("no/such/folder")
      []
    """
    folder = pathlib.Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match.group(1)) for match in map(_STEP_FOLDER.fullmatch, names) if match)


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _read(path: pathlib.Path, like: PyTree) -> PyTree:
    manifest = _verified_manifest(path)
    names, leaves = _named_leaves(like)
    _check_alike(
        path, manifest["leaves"], {name: _describe(name, leaf) for name, leaf in zip(names, leaves, strict=True)}
    )
    arrays = _read_arrays(path / "state")
    impls = manifest["keys"]
    restored = [_from_numpy(arrays.get(n), leaf, impls.get(n)) for n, leaf in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _verified_manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        digest = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DamagedCheckpointError(f"its {_MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
    if digest != _digest(manifest):
        raise DamagedCheckpointError(f"its {_MANIFEST} does not have the SHA-256 that it states")
    for name, digest in manifest["files"].items():
        if not (path / name).is_file():
            raise DamagedCheckpointError(f"its file {name} is missing")
        if _sha256(path / name) != digest:
            raise DamagedCheckpointError(f"its file {name} does not have the SHA-256 that was written")
    return manifest


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


def _prune(folder: pathlib.Path, keep_last: int, newest: int) -> None:
    """Keep the last few and the best. Later steps than the newest save are of a future that a resumed run left."""
    best_step = _best_step(folder, up_to=newest)
    kept = [step for step in steps(folder) if step <= newest][-keep_last:]
    for step in steps(folder):
        if step not in kept and step != best_step:
            doomed = folder / f"{_TEMPORARY}doomed_{step}"  # renamed first: half a checkpoint must not have its name
            (folder / _name(step)).rename(doomed)
            shutil.rmtree(doomed)
    shutil.rmtree(folder / f"{_TEMPORARY}replaced", ignore_errors=True)


def _best_step(folder: pathlib.Path, up_to: int | None = None) -> int | None:
    """The first step with the highest score, by the manifests alone."""
    scores = {}
    for step in steps(folder):
        if up_to is not None and step > up_to:
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            score = json.loads((folder / _name(step) / _MANIFEST).read_text())["score"]
            if score is not None:
                scores[step] = float(score)
    return max(scores, key=lambda step: (scores[step], -step)) if scores else None


# Leaves: by name, described in words, and as plain NumPy arrays


def _named_leaves(tree: PyTree) -> tuple[list[str], list[Any]]:
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path) or "." for path, _ in paths_and_leaves], [leaf for _, leaf in paths_and_leaves]


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(name: str, leaf: Any) -> str:
    """What must agree between saving and restoring, such as `"float32[3,4]"`, `"key<fry>[]"` or `"int"`."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return type(leaf).__name__
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape") and (_is_key(leaf) or leaf.dtype.kind not in "OSUMm"):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    raise ValueError(
        f"the leaf {name} is of type {type(leaf).__name__}; a checkpoint holds arrays, typed random keys and numbers"
    )


def _to_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _from_numpy(stored: np.ndarray | None, like: Any, key_impl: str | None) -> Any:
    array = np.zeros(like.shape, like.dtype) if stored is None else stored  # an empty one is not stored
    if isinstance(like, np.generic):
        return array[()]
    if isinstance(like, np.ndarray):
        return array
    if isinstance(like, bool | int | float):
        return type(like)(array)
    leaf = jnp.asarray(array) if key_impl is None else jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    return jax.device_put(leaf, like.sharding if isinstance(like, jax.Array) and like.committed else None)


# Files


def _write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    stored = {name: array for name, array in arrays.items() if array.size}  # Orbax stores no empty array
    with _quiet_orbax(), ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, stored or {".": np.zeros(1)})


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with _quiet_orbax(), ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(path)
    except Exception as error:  # the files are what was written, and yet Orbax cannot read them
        raise DamagedCheckpointError(f"Orbax cannot read it ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax logs several lines a checkpoint through absl; what matters comes back as an exception."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in path.rglob("*") if p.is_file())


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write_manifest(path: pathlib.Path, manifest: dict[str, Any]) -> None:
    path.write_text(json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1) + "\n")


def _to_disk(path: pathlib.Path, recursive: bool = True) -> None:
    """Ask the system to write files and names through, so that a checkpoint outlives a power cut."""
    for p in [path, *(path.rglob("*") if recursive else [])]:
        descriptor = os.open(p, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
