"""Stacked tasks that stay on the devices that share them, except for what a function of all of them reads."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from ..types import PyTree
from .in_order import by_itself


def on_gathered(fn: Callable[[PyTree], PyTree], mesh: Mesh) -> Callable[[PyTree], PyTree]:
    """A function of all stacked tasks, which are shared among devices: each gathers what `fn` reads, and keeps its own.

    Every device computes all of it, so that no sum depends on their number. Leaves that `fn` does not read are not
    gathered, and those that it hands back unchanged stay as they are.

    Args:
      fn: `stacked tasks -> stacked tasks`, of the same structure and shapes, such as
        `policy_gradients.with_normalized_advantages`.
      mesh: whose devices share them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.sharding import make_mesh
      >>> centred = on_gathered(lambda tasks: tasks - tasks.mean(), make_mesh({"tasks": 1}))
      >>> jax.jit(centred)(jnp.arange(3.0)).tolist()
      [-1.0, 0.0, 1.0]
    """

    def on_device(tasks: PyTree) -> PyTree:
        own, structure = jax.tree.flatten(tasks)
        of_all = [jax.ShapeDtypeStruct((len(leaf) * mesh.size, *leaf.shape[1:]), leaf.dtype) for leaf in own]
        read, changed = _read_and_changed(lambda leaves: jax.tree.leaves(fn(structure.unflatten(leaves))), of_all)
        gathered = {index: jax.lax.all_gather(own[index], mesh.axis_names, tiled=True) for index in read}

        def only_changed(gathered: dict[int, Array]) -> list[Array]:
            # of the others nothing but the shape is used
            leaves = [
                gathered[index] if index in gathered else jnp.broadcast_to(leaf[:1], of_all[index].shape)
                for index, leaf in enumerate(own)
            ]
            results = jax.tree.leaves(fn(structure.unflatten(leaves)))
            return [results[index] for index in changed]

        place = jax.lax.axis_index(mesh.axis_names)
        for index, leaf in zip(changed, by_itself(only_changed, gathered), strict=True):
            own[index] = jax.lax.dynamic_slice_in_dim(leaf, place * len(own[index]), len(own[index]))
        return structure.unflatten(own)

    shared = P(mesh.axis_names)
    return jax.shard_map(on_device, mesh=mesh, in_specs=shared, out_specs=shared, check_vma=False)


def take_in_blocks(tasks: PyTree, rows: Int[Array, "blocks rows"], mesh: Mesh) -> PyTree:
    """Some of the tasks of each block, which stay on their device.

    Args:
      tasks: stacked, block after block.
      rows: of each block, the places of those to take.
      mesh: whose devices have the blocks.

    Returns:
      As many stacked tasks as there are rows.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.sharding import make_mesh
      >>> rows = jnp.array([[0, 2], [1, 0]])
      >>> jax.jit(lambda tasks: take_in_blocks(tasks, rows, make_mesh({"tasks": 1})))(jnp.arange(6)).tolist()
      [0, 2, 4, 3]
    """

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
    """Which of its arguments a function computes with, and which of its results are not just an argument again."""
    program = jax.make_jaxpr(fn)(shapes).jaxpr
    changed = [index for index, result in enumerate(program.outvars) if result is not program.invars[index]]
    used = [variable for equation in program.eqns for variable in equation.invars]
    used += [program.outvars[index] for index in changed]
    read = [index for index, argument in enumerate(program.invars) if any(argument is each for each in used)]
    return read, changed
