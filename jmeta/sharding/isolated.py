"""Computations that XLA compiles in the same way in any program, and sums in one order on any number of devices."""

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
from .placing import is_key

__all__ = ["isolated_map", "isolated_call", "tree_sum", "sum_in_order"]


def isolated_map(fn: Callable[[PyTree], PyTree], rows: PyTree) -> PyTree:
    """Map `fn` over stacked rows in a loop that XLA neither unrolls nor fuses, and compiles alike for any row count.

    XLA unrolls a short loop of known length, and then fuses it with its surroundings. A single row needs no slice and
    no update of a larger array, so XLA would move its computation out of the loop or fuse it differently. Hence the
    arrays have room for at least two rows.
    """
    count = count_tasks(rows)
    # keys as their numbers, since `jax_debug_key_reuse` mistakes a key that a loop indexes for a reused one
    wrap, numbers = _unwrapped_keys(rows)
    numbers = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]) if count == 1 else leaf, numbers)
    one_row = jax.eval_shape(lambda rows: jax.tree.map(lambda leaf: leaf[0], rows), rows)
    inlined_fn = _without_calls(fn, one_row)

    def of_row(index: Array) -> PyTree:
        row = wrap(jax.tree.map(lambda leaf: leaf[index], numbers))
        return jax.lax.optimization_barrier(inlined_fn(row))

    def store(index: Array, out: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, new: leaf.at[index].set(new), out, of_row(index))

    shapes = jax.eval_shape(of_row, jnp.int32(0))
    start = jax.tree.map(lambda leaf: jnp.zeros((max(count, 2), *leaf.shape), leaf.dtype), shapes)
    stacked = jax.lax.fori_loop(0, jax.lax.optimization_barrier(jnp.int32(count)), store, start)
    return jax.tree.map(lambda leaf: leaf[:count], stacked)


def _unwrapped_keys(tree: PyTree) -> tuple[Callable[[PyTree], PyTree], PyTree]:
    """Return the function that turns key numbers back into keys, and the tree with numbers in place of keys."""
    impls = [jax.random.key_impl(leaf) if is_key(leaf) else None for leaf in jax.tree.leaves(tree)]

    def wrap(numbers: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(numbers)
        return structure.unflatten(
            leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl)
            for leaf, impl in zip(leaves, impls, strict=True)
        )

    return wrap, jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def isolated_call(fn: Callable[[PyTree], PyTree], argument: PyTree) -> PyTree:
    """Call `fn` on an argument so that XLA does not fuse it with its surroundings."""
    if not jax.tree.leaves(argument):
        return fn(argument)
    result = isolated_map(fn, jax.tree.map(lambda leaf: leaf[None], argument))
    return jax.tree.map(lambda leaf: leaf[0], result)


def _without_calls(fn: Callable[[PyTree], PyTree], argument: PyTree) -> Callable[[PyTree], PyTree]:
    """Inline every nested `jax.jit` of `fn`, for arguments like this one.

    In a program for one device the arguments of a nested call have the default layout, and in one for several devices
    the layout of whatever computed them. XLA on CPUs chooses its routine for matrix-vector products by that layout.
    """
    if not hasattr(jax, "Inline"):  # before jax 0.11, where both routines rounded alike in our measurements
        return fn
    jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(argument)
    flat_fn = core.jaxpr_as_fun(_inlined(jaxpr))
    return lambda argument: jax.tree.unflatten(jax.tree.structure(shapes), flat_fn(*jax.tree.leaves(argument)))


def _inlined(param: Any) -> Any:
    """Mark all calls in a program, or in a parameter of a primitive, to be lowered in place."""
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
    """Sum over the first axis, whose size is a power of two, in pairs: neighbours, then their sums, and so on."""
    while len(terms) > 1:
        pairs = terms.reshape(len(terms) // 2, 2, *terms.shape[1:])
        terms = pairs[:, 0] + pairs[:, 1]
    return terms[0]


def sum_in_order(own: PyTree, mesh: Mesh) -> PyTree:
    """Sum over devices in one binary tree: each device sums one slice of all devices' numbers, and sends it to all.

    It sends as much as an all-reduce: each device sends a slice to every other device, and receives one back.
    """
    leaves, structure = jax.tree.flatten(own)
    summed: dict[int, Array] = {}
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):  # in the same order in every process
        those = [index for index, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat: Float[Array, " numbers"] = jnp.concatenate([leaves[index].reshape(-1) for index in those])
        slices = jnp.pad(flat, (0, -len(flat) % mesh.size)).reshape(mesh.size, -1)
        of_all = jax.lax.all_to_all(slices, mesh.axis_names, 0, 0, tiled=True)
        total = jax.lax.all_gather(tree_sum(of_all), mesh.axis_names, tiled=True)[: len(flat)]
        ends = np.cumsum([leaves[index].size for index in those])[:-1]
        for index, piece in zip(those, jnp.split(total, ends), strict=True):
            summed[index] = piece.reshape(leaves[index].shape)
    return structure.unflatten([summed[index] for index in range(len(leaves))])
