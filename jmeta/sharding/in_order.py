"""Programs that are compiled alike whatever is around them, and sums in one order whatever the number of devices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ..types import PyTree


def loop(fn: Callable[[Array], PyTree], count: int) -> PyTree:
    """`fn(0), ..., fn(count - 1)`, stacked; compiled apart from what is around it, and in the same way for any count.

    A loop of known length would be unrolled where it is short, and then fused with its surroundings.
    """
    shapes = jax.eval_shape(fn, jnp.int32(0))
    start = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), shapes)

    def put_at(index: Array, out: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, new: leaf.at[index].set(new), out, fn(index))

    return jax.lax.fori_loop(0, jax.lax.optimization_barrier(jnp.int32(count)), put_at, start)


def by_itself(fn: Callable[[PyTree], PyTree], argument: PyTree) -> PyTree:
    """`fn(argument)`, compiled apart from what is around it."""

    def once(index: Array) -> PyTree:
        return jax.lax.optimization_barrier(fn(jax.lax.optimization_barrier((index, argument))[1]))

    return jax.tree.map(lambda leaf: leaf[0], loop(once, 1))


def tree_sum(terms: Array) -> Array:
    """The sum over the first axis, a power of two: neighbours first, then their sums, and so on."""
    while len(terms) > 1:
        pairs = terms.reshape(len(terms) // 2, 2, *terms.shape[1:])
        terms = pairs[:, 0] + pairs[:, 1]
    return terms[0]


def sum_in_order(own: PyTree, mesh: Mesh) -> PyTree:
    """The sum over devices as one tree: each device adds up a part of the numbers, of all devices, and hands it round.

    It sends what an all-reduce does: to each other device one part, of as many as there are devices, and back.
    """
    leaves, structure = jax.tree.flatten(own)
    summed: dict[int, Array] = {}
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):  # in the same order in every process
        those = [index for index, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat: Float[Array, " numbers"] = jnp.concatenate([leaves[index].reshape(-1) for index in those])
        parts = jnp.pad(flat, (0, -len(flat) % mesh.size)).reshape(mesh.size, -1)
        of_all = jax.lax.all_to_all(parts, mesh.axis_names, 0, 0, tiled=True)
        total = jax.lax.all_gather(tree_sum(of_all), mesh.axis_names, tiled=True)[: len(flat)]
        ends = np.cumsum([leaves[index].size for index in those])[:-1]
        for index, piece in zip(those, jnp.split(total, ends), strict=True):
            summed[index] = piece.reshape(leaves[index].shape)
    return structure.unflatten([summed[index] for index in range(len(leaves))])
