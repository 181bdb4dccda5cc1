"""Which leaves of a context a meta-gradient flows into, for derivative rules of our own.

A rule made with `jax.custom_vjp` and `symbolic_zeros=True` is told of every input whether it is differentiated. Without
that it would have to compute gradients for labels, which have none, and for the images of a support, which nobody asks
for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from ..types import PyTree


@partial(jax.tree_util.register_dataclass, data_fields=["moving", "still"], meta_fields=["treedef", "is_moving"])
@dataclass(frozen=True)
class Partition:
    """A tree in two lists of leaves; itself a pytree, so that a derivative rule may keep it.

    Attributes:
      moving: the leaves that are differentiated.
      still: the others.
      treedef: the tree's structure.
      is_moving: for each of its leaves, in which list it is.
    """

    moving: list[Any]
    still: list[Any]
    treedef: Any
    is_moving: tuple[bool, ...]

    def merged(self, moving: Sequence[Any]) -> PyTree:
        """The tree, with these leaves in place of the differentiated ones."""
        leaves, others = iter(moving), iter(self.still)
        return jax.tree.unflatten(self.treedef, [next(leaves if moves else others) for moves in self.is_moving])

    def cotangent(self, moving_bar: Sequence[Any]) -> PyTree:
        """What a rule returns for the tree: the cotangents of differentiated leaves, nothing for the others."""
        leaves = iter(moving_bar)
        return jax.tree.unflatten(self.treedef, [next(leaves) if moves else None for moves in self.is_moving])


def partition(tree: PyTree) -> Partition:
    """Take apart an argument of a forward rule, whose leaves say whether they are differentiated."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_primal)
    moving = [leaf.value for leaf in leaves if leaf.perturbed]
    still = [leaf.value for leaf in leaves if not leaf.perturbed]
    return Partition(moving, still, treedef, tuple(leaf.perturbed for leaf in leaves))


def as_values(tree: PyTree) -> PyTree:
    """An argument of a forward rule without what its leaves say."""
    return jax.tree.map(lambda leaf: leaf.value, tree, is_leaf=_is_primal)


def is_zero(cotangent: Any) -> bool:
    """Whether a cotangent given to a backward rule is zero for want of a path to the result."""
    return isinstance(cotangent, SymbolicZero)


def _is_primal(leaf: Any) -> bool:
    return isinstance(leaf, CustomVJPPrimal)
