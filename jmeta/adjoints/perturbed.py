"""Partition a context into the leaves that a meta-gradient flows into and the others, for custom derivative rules.

With `jax.custom_vjp` and `symbolic_zeros=True` a rule knows of every input whether it is differentiated. Without that
it would have to compute gradients for labels, which have none, and for the images of a support, which nobody needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from ..types import PyTree

__all__ = ["Partition", "partition", "as_values", "is_zero"]


@partial(jax.tree_util.register_dataclass, data_fields=["moving", "still"], meta_fields=["treedef", "is_moving"])
@dataclass(frozen=True)
class Partition:
    """A tree as two lists of leaves; itself a pytree, so that a derivative rule may store it.

    Attributes:
      moving: the leaves that are differentiated.
      still: the other leaves.
      treedef: the tree's structure.
      is_moving: for each leaf of the tree, whether it is in `moving`.
    """

    moving: list[Any]
    still: list[Any]
    treedef: Any
    is_moving: tuple[bool, ...]

    def merged(self, moving: Sequence[Any]) -> PyTree:
        """Return the tree with the differentiated leaves replaced by these."""
        leaves, others = iter(moving), iter(self.still)
        return jax.tree.unflatten(self.treedef, [next(leaves if moves else others) for moves in self.is_moving])

    def cotangent(self, moving_bar: Sequence[Any]) -> PyTree:
        """Return the tree's cotangent: the given ones for differentiated leaves, `None` for the others."""
        leaves = iter(moving_bar)
        return jax.tree.unflatten(self.treedef, [next(leaves) if moves else None for moves in self.is_moving])


def partition(tree: PyTree) -> Partition:
    """Partition an argument of a forward rule, whose leaves say whether they are differentiated."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_primal)
    moving = [leaf.value for leaf in leaves if leaf.perturbed]
    still = [leaf.value for leaf in leaves if not leaf.perturbed]
    return Partition(moving, still, treedef, tuple(leaf.perturbed for leaf in leaves))


def as_values(tree: PyTree) -> PyTree:
    """Return the plain values of an argument of a forward rule."""
    return jax.tree.map(lambda leaf: leaf.value, tree, is_leaf=_is_primal)


def is_zero(cotangent: Any) -> bool:
    """Return whether a cotangent given to a backward rule is symbolically zero: no path leads to the result."""
    return isinstance(cotangent, SymbolicZero)


def _is_primal(leaf: Any) -> bool:
    return isinstance(leaf, CustomVJPPrimal)
