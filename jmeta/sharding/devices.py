"""Functions of stacked tasks, computed by the devices of a mesh: each device has its own share of the tasks."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from ..batching import count_tasks, task_keys
from ..types import PyTree, RandomKey
from .isolated import isolated_map, sum_in_order, tree_sum
from .placing import MODEL, TASKS, divided_axis, shardings_of

__all__ = ["MeanFn", "mean_over_devices", "map_over_devices"]

MeanFn = Callable[[PyTree, PyTree, RandomKey], Any]
"""`(meta_params, stacked tasks, key) -> mean result`, like the result of `over_tasks`; `key` may be one per task."""


def mean_over_devices(mean_fn: MeanFn, mesh: Mesh, num_blocks: int | None) -> MeanFn:
    """Share the tasks of a mean among the devices of a mesh; see `Sharing.mean`."""
    total = num_blocks or mesh.size
    by_blocks = _by_blocks(mean_fn, mesh, total)

    def all_reduced(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        return _divided_mean(mean_fn(meta_params, tasks, keys), mesh)

    def divided_specs(*arguments: PyTree) -> Any:
        if MODEL not in mesh.shape:
            return P()
        shapes = jax.eval_shape(mean_fn, *arguments)
        return jax.tree.map(lambda sharding: sharding.spec, shardings_of(shapes, mesh))

    def in_order(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        own = jax.tree.map(tree_sum, by_blocks(meta_params, tasks, keys))
        mean = jax.tree.map(lambda leaf: leaf / total, sum_in_order(own, mesh))
        return jax.lax.optimization_barrier(mean)

    if num_blocks is None:
        return _on_shares(all_reduced, mesh, total, divided_specs)
    return _on_shares(in_order, mesh, total, lambda *_: P())


def map_over_devices(fn: MeanFn, mesh: Mesh, num_blocks: int | None) -> Callable[..., Any]:
    """Share stacked tasks among devices for a function whose results are stacked likewise; see `Sharing.map`."""
    total = num_blocks or mesh.size
    by_blocks = _by_blocks(fn, mesh, total)

    def joined(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        if num_blocks is None:
            return fn(meta_params, tasks, keys)
        return jax.tree.map(
            lambda leaf: leaf.reshape(math.prod(leaf.shape[:2]), *leaf.shape[2:]), by_blocks(meta_params, tasks, keys)
        )

    return _on_shares(joined, mesh, total, lambda *_: P(mesh.axis_names))


def _divided_mean(own: PyTree, mesh: Mesh) -> PyTree:
    """Return the mean over devices; a device sends and keeps only its own slice of a leaf divided along `model`."""
    leaves, structure = jax.tree.flatten(own)
    axes = [divided_axis(leaf, mesh) for leaf in leaves]
    whole = {index: leaves[index] for index, axis in enumerate(axes) if axis is None}
    divided = {
        index: jax.lax.psum_scatter(leaves[index], MODEL, scatter_dimension=axis, tiled=True) / mesh.shape[MODEL]
        for index, axis in enumerate(axes)
        if axis is not None
    }
    mean = jax.lax.pmean(whole, mesh.axis_names) | jax.lax.pmean(divided, TASKS)
    return structure.unflatten([mean[index] for index in range(len(leaves))])


def _on_shares(fn: MeanFn, mesh: Mesh, num_blocks: int, out_specs: Callable[..., Any]) -> MeanFn:
    """Run `fn` on each device's share of the tasks and their keys; `out_specs` are a function of all arguments."""

    def on_devices(meta_params: PyTree, tasks: PyTree, key: RandomKey | Key[Array, "tasks"]) -> Any:
        num_tasks = count_tasks(tasks)
        if num_tasks % num_blocks:
            raise ValueError(f"{num_tasks} tasks in {num_blocks} blocks; let the tasks of a meta-step be a multiple")
        shared = P(mesh.axis_names)
        arguments = (meta_params, tasks, task_keys(key, num_tasks))
        return jax.shard_map(  # without `check_vma`, which would sum gradients inside
            fn, mesh=mesh, in_specs=(P(), shared, shared), out_specs=out_specs(*arguments), check_vma=False
        )(*arguments)

    return on_devices


def _by_blocks(fn: MeanFn, mesh: Mesh, num_blocks: int) -> MeanFn:
    """Run `fn` on a device's share, block by block: results with this device's blocks on their first axis."""
    num_own = num_blocks // mesh.size

    def on_device(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        in_blocks = lambda leaf: leaf.reshape(num_own, len(leaf) // num_own, *leaf.shape[1:])  # noqa: E731
        blocks = jax.tree.map(in_blocks, (tasks, keys))
        return isolated_map(lambda block: fn(meta_params, *block), blocks)

    return on_device
