"""Programs that are compiled alike whatever is around them, and sums in one order whatever the number of devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ..batching import count_tasks
from ..types import PyTree


def each_apart(fn: Callable[[PyTree], PyTree], rows: PyTree) -> PyTree:
    """`fn` of each row of stacked arguments, stacked; compiled apart from what is around it, and alike for any number.

    A loop of known length would be unrolled where it is short, and then fused with its surroundings. A row that is the
    only one needs no taking out of, or putting into, a larger array, so that what is done with it would be moved out of
    the loop, or fused otherwise; hence there is room for two at least.
    """
    count = count_tasks(rows)
    rows = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]) if count == 1 else leaf, rows)
    in_one_piece = _without_calls(fn, jax.tree.map(lambda leaf: leaf[0], rows))

    def of_row(index: Array) -> PyTree:
        return jax.lax.optimization_barrier(in_one_piece(jax.tree.map(lambda leaf: leaf[index], rows)))

    def put_at(index: Array, out: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, new: leaf.at[index].set(new), out, of_row(index))

    shapes = jax.eval_shape(of_row, jnp.int32(0))
    start = jax.tree.map(lambda leaf: jnp.zeros((max(count, 2), *leaf.shape), leaf.dtype), shapes)
    stacked = jax.lax.fori_loop(0, jax.lax.optimization_barrier(jnp.int32(count)), put_at, start)
    return jax.tree.map(lambda leaf: leaf[:count], stacked)


def by_itself(fn: Callable[[PyTree], PyTree], argument: PyTree) -> PyTree:
    """`fn(argument)`, compiled apart from what is around it."""
    if not jax.tree.leaves(argument):
        return fn(argument)
    result = each_apart(fn, jax.tree.map(lambda leaf: leaf[None], argument))
    return jax.tree.map(lambda leaf: leaf[0], result)


def _without_calls(fn: Callable[[PyTree], PyTree], argument: PyTree) -> Callable[[PyTree], PyTree]:
    """`fn`, for arguments like this one, with what a nested `jax.jit` computes in the place of each call of it.

    In a program for one device the arrays that a call takes have the default layout, and in one for several devices
    that of what computed them; by that XLA chooses, on CPUs, a routine for products of matrices and vectors.
    """
    if not hasattr(jax, "Inline"):  # before jax 0.11, where both routines were seen to round alike
        return fn
    jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(argument)
    flat_fn = core.jaxpr_as_fun(_inlined(jaxpr))
    return lambda argument: jax.tree.unflatten(jax.tree.structure(shapes), flat_fn(*jax.tree.leaves(argument)))


def _inlined(param: Any) -> Any:
    """A parameter of a primitive, or a whole program, all calls in which are to be lowered in place."""
    if isinstance(param, tuple) and not hasattr(param, "_fields"):
        return tuple(_inlined(each) for each in param)
    if not isinstance(param, core.Jaxpr):
        return param
    eqns = []
    for eqn in param.eqns:
        params = {name: _inlined(value) for name, value in eqn.params.items()}
        inline = {"inline": jax.Inline.JAX_LATE} if "inline" in params else {}  # pyright: ignore
        eqns.append(eqn.replace(params=params | inline))
    return param.replace(eqns=eqns)


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
