"""Trees of parameters: partition them, merge them, and name their leaves."""

from collections.abc import Callable
from typing import Any

import jax

from .types import PyTree

__all__ = ["partition", "merge", "path_name"]


def partition(params: PyTree, is_adapted: Callable[[str], bool]) -> tuple[PyTree, PyTree]:
    """Split parameters into those an inner loop adapts and those it leaves alone.

    Args:
      params: any pytree of parameters.
      is_adapted: maps a leaf's path, such as `"params/conv_0/kernel"`, to whether the inner loop adapts that leaf.

    Returns:
      `(adapted, rest)`: two trees like `params`, with `None` where the other one has the leaf; `merge` is the
      inverse.

    Raises:
      ValueError: if no leaf is selected.

    Example:
      >>> partition({"body": 1.0, "head": 2.0}, lambda path: "head" in path)
      ({'body': None, 'head': 2.0}, {'body': 1.0, 'head': None})
    """
    selected = jax.tree_util.tree_map_with_path(lambda path, _: bool(is_adapted(path_name(path))), params)
    if not any(jax.tree.leaves(selected)):
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise ValueError(f"the inner loop would adapt nothing: none of the parameters {names} was selected")
    adapted = jax.tree.map(lambda leaf, chosen: leaf if chosen else None, params, selected)
    rest = jax.tree.map(lambda leaf, chosen: None if chosen else leaf, params, selected)
    return adapted, rest


def merge(adapted: PyTree, rest: PyTree) -> PyTree:
    """Merge two trees into one; the inverse of `partition`.

    Example:
      >>> merge({"body": None, "head": 2.0}, {"body": 1.0, "head": None})
      {'body': 1.0, 'head': 2.0}
    """
    return jax.tree.map(lambda a, b: b if a is None else a, adapted, rest, is_leaf=lambda leaf: leaf is None)


def path_name(path: tuple[Any, ...]) -> str:
    """Return a leaf's path, as `jax.tree_util` gives it, as one string.

    Example:
      >>> import jax
      >>> [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({"params": {"head": {"bias": 0.0}}})]
      ['params/head/bias']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")
