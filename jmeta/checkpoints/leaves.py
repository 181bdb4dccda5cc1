"""Leaves of a state: their names, descriptions and stored forms."""

import hashlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..types import PyTree

__all__ = [
    "named_leaves",
    "describe",
    "stored_form",
    "stored_forms",
    "fingerprint",
    "num_bytes",
    "to_stored",
    "sharding_of",
    "from_stored",
]

_NUMBERS = {bool: np.bool_, int: np.int64, float: np.float64}


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Return the leaves by their paths, in the order of `jax.tree.leaves`.

    Example:
      >>> named_leaves({"a": [1, 2.0]})
      {"['a'][0]": 1, "['a'][1]": 2.0}
    """
    return {jax.tree_util.keystr(path) or ".": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def describe(name: str, leaf: Any) -> str:
    """Describe what must agree between saving and restoring, such as `"float32[3,4]"`, `"key<fry>[]"` or `"int"`."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return type(leaf).__name__
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape") and (_is_key(leaf) or leaf.dtype.kind not in "OSUMm"):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    raise ValueError(
        f"the leaf {name} is of type {type(leaf).__name__}; a checkpoint holds arrays, typed random keys and numbers"
    )


def stored_form(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of a leaf on disk: keys are stored as their data, Python numbers with 64 bits."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return _form((), _NUMBERS[type(leaf)])
    if _is_key(leaf):
        return jax.eval_shape(jax.random.key_data, _form(leaf.shape, leaf.dtype))
    return _form(leaf.shape, leaf.dtype)


def stored_forms(named: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the `stored_form` of each leaf, by name."""
    return {name: stored_form(leaf) for name, leaf in named.items()}


def fingerprint(described: dict[str, str]) -> str:
    """Return a short digest of the leaves' names, shapes and dtypes, to compare between processes."""
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]


def num_bytes(form: jax.ShapeDtypeStruct) -> int:
    """Return the size of an array in bytes, in memory and, since nothing is compressed, on disk."""
    return math.prod(form.shape) * form.dtype.itemsize


def to_stored(name: str, leaf: Any) -> np.ndarray | jax.Array:
    """Return a leaf in the form that Orbax takes: an array on several devices with its sharding, or one on the host.

    In a job of several processes, an array that one process holds alone counts as on the host: the first process's is
    stored.
    """
    array = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    is_of_host = not isinstance(array, jax.Array) or len(array.sharding.device_set) == 1
    if not is_of_host and (jax.process_count() == 1 or not array.is_fully_addressable):
        return array
    try:
        return np.asarray(array, _NUMBERS.get(type(leaf)))
    except OverflowError as error:
        raise ValueError(f"the leaf {name} is the integer {leaf}, which has more than 64 bits") from error


def sharding_of(like: Any) -> jax.sharding.Sharding | None:
    """Return the sharding that an array should have, or `None` if `like` does not say."""
    is_placed = like.committed if isinstance(like, jax.Array) else isinstance(like, jax.ShapeDtypeStruct)
    return like.sharding if is_placed else None


def from_stored(array: np.ndarray | jax.Array, like: Any) -> Any:
    """Invert `to_stored`: return a leaf of the same kind as `like`."""
    if isinstance(like, np.generic):
        return array[()]
    if isinstance(like, np.ndarray):
        return array
    if isinstance(like, bool | int | float):
        return type(like)(array)
    array = jnp.asarray(array)
    return jax.random.wrap_key_data(array, impl=_key_impl(like)) if _is_key(like) else array


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(like: Any) -> Any:
    """Return the key implementation of an array or a shape: `jax.random.key_impl` itself takes no shapes."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), _form(like.shape, like.dtype))
    return found[0]


def _form(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    is_key = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    return jax.ShapeDtypeStruct(shape, dtype if is_key else np.dtype(dtype).newbyteorder("="))
