"""Functions of all stacked tasks at once, whose tasks stay on the devices that share them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from ..types import PyTree
from .isolated import isolated_call

__all__ = ["gathered_over_devices", "take_from_blocks"]


def gathered_over_devices(fn: Callable[[PyTree], PyTree], mesh: Mesh) -> Callable[[PyTree], PyTree]:
    """Gather on every device the leaves that `fn` reads, and keep each device's own share of those that it changes.

    Every device computes all of `fn`, so no sum depends on the number of devices. Leaves that `fn` does not read are
    not gathered, and leaves that it returns unchanged stay where they are.
    """

    def on_device(tasks: PyTree) -> PyTree:
        own, structure = jax.tree.flatten(tasks)
        of_all = [jax.ShapeDtypeStruct((len(leaf) * mesh.size, *leaf.shape[1:]), leaf.dtype) for leaf in own]
        read, changed = _read_and_changed(lambda leaves: jax.tree.leaves(fn(structure.unflatten(leaves))), of_all)
        gathered = {index: jax.lax.all_gather(own[index], mesh.axis_names, tiled=True) for index in read}

        def only_changed(gathered: dict[int, Array]) -> list[Array]:
            # only the shapes of the others are used
            leaves = [
                gathered[index] if index in gathered else jnp.broadcast_to(leaf[:1], of_all[index].shape)
                for index, leaf in enumerate(own)
            ]
            results = jax.tree.leaves(fn(structure.unflatten(leaves)))
            return [results[index] for index in changed]

        place = jax.lax.axis_index(mesh.axis_names)
        for index, leaf in zip(changed, isolated_call(only_changed, gathered), strict=True):
            own[index] = jax.lax.dynamic_slice_in_dim(leaf, place * len(own[index]), len(own[index]))
        return structure.unflatten(own)

    shared = P(mesh.axis_names)
    return jax.shard_map(on_device, mesh=mesh, in_specs=shared, out_specs=shared, check_vma=False)


def take_from_blocks(tasks: PyTree, rows: Int[Array, "blocks rows"], mesh: Mesh) -> PyTree:
    """Take some of the tasks of each block, on the device that holds them; see `Sharing.take`."""

    def on_device(tasks: PyTree, rows: Int[Array, "blocks rows"]) -> PyTree:
        def of_leaf(leaf: Array) -> Array:
            in_blocks = leaf.reshape(len(rows), len(leaf) // len(rows), *leaf.shape[1:])
            return jax.vmap(lambda block, own: block[own])(in_blocks, rows).reshape(rows.size, *leaf.shape[1:])

        return jax.tree.map(of_leaf, tasks)

    shared = P(mesh.axis_names)
    return jax.shard_map(on_device, mesh=mesh, in_specs=(shared, shared), out_specs=shared, check_vma=False)(
        tasks, rows
    )


def _read_and_changed(
    fn: Callable[[list[Array]], list[Array]], shapes: list[jax.ShapeDtypeStruct]
) -> tuple[list[int], list[int]]:
    """Return the indices of the arguments that a function computes with, and of the results that it changes."""
    program = jax.make_jaxpr(fn)(shapes).jaxpr
    changed = [index for index, result in enumerate(program.outvars) if result is not program.invars[index]]
    used = [variable for equation in program.eqns for variable in equation.invars]
    used += [program.outvars[index] for index in changed]
    read = [index for index, argument in enumerate(program.invars) if any(argument is each for each in used)]
    return read, changed
