"""Claims about values, for checks: each raises `AssertionError` and names the violation."""

import chex
import jax
import jax.numpy as jnp

from ..params import path_name
from ..types import PyTree

__all__ = ["claim", "assert_close", "assert_same_avals", "all_equal", "check_finite"]


def claim(holds: bool, violation: str) -> None:
    """Raise an `AssertionError` that names the violation unless the claim holds."""
    if not holds:
        raise AssertionError(violation)


def assert_close(got: PyTree, expected: PyTree, rtol: float, violation: str, atol: float | None = None) -> None:
    """Raise unless two trees have the same structure and shapes and are equal up to rounding."""
    try:
        chex.assert_trees_all_close(got, expected, rtol=rtol, atol=rtol if atol is None else atol)
    except (AssertionError, ValueError) as error:
        raise AssertionError(f"{violation}:\n{error}") from error


def assert_same_avals(got: PyTree, expected: PyTree, violation: str) -> None:
    """Raise unless two trees have the same structure, shapes and dtypes."""
    avals = lambda tree: jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), tree)  # noqa: E731
    claim(avals(got) == avals(expected), f"{violation}: {avals(got)} for {avals(expected)}")


def all_equal(a: PyTree, b: PyTree) -> bool:
    """Return whether two trees of one structure have the same values."""
    return all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def check_finite(tree: PyTree, what: str) -> None:
    """Raise unless every number of a tree is finite, naming the leaves that are not."""
    bad = [path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if not jnp.isfinite(leaf).all()]
    claim(not bad, f"{what} is not finite: see the leaves {bad}")
