"""Functions of stacked tasks that the devices of a mesh share."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from ..batching import count_tasks, task_keys
from ..tasks.drawn import Drawn, draw
from ..types import PyTree, RandomKey
from .in_order import each_apart, sum_in_order, tree_sum
from .placing import MODEL, TASKS, divided_axis, shardings_of

MeanFn = Callable[[PyTree, PyTree, RandomKey], Any]
"""`(meta_params, stacked tasks, key) -> mean result`, as `over_tasks` returns; `key` may be one for each task."""


def over_devices(mean_fn: MeanFn, mesh: Mesh, *, num_blocks: int | None = None) -> MeanFn:
    """Share the tasks of a mean among the devices of a mesh.

    Args:
      mean_fn: `(meta_params, stacked tasks, keys) -> mean result` of some of the tasks, on one device: what
        `jmeta.over_tasks` returns, or the gradient of that. Every leaf of the result is a floating-point mean.
      mesh: as `make_mesh` returns.
      num_blocks: into how many blocks tasks are divided, a power of two, for the same bits on every number of devices
        that divides it; if not given, one for each device, and the fastest sum. A device holds the results of all its
        blocks, and has room for two at least, each as large as the meta-parameters if it is a gradient.

    Returns:
      `(meta_params, tasks, key) -> mean result` over all tasks, the same on every device; without `num_blocks` leaves
      that `shardings_of` divides are summed part by part, each where it belongs. `tasks` are stacked, or still to be
      drawn (`tasks.drawn`), in which case nothing but keys is shared out. Up to rounding the result is that of
      `mean_fn` on all tasks.

    Raises:
      ValueError: if `num_blocks` is no power of two or the devices do not divide it; at trace time if blocks do not
        divide the tasks.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> from jmeta import sharding
      >>> mesh = sharding.make_mesh({"tasks": 1})
      >>> mean_fn = jmeta.over_tasks(lambda meta_params, task, key: meta_params * task)
      >>> shared = jax.jit(sharding.over_devices(mean_fn, mesh, num_blocks=2))
      >>> float(shared(2.0, jnp.arange(4.0), jax.random.key(0)))
      3.0
    """
    total = _checked_blocks(mesh, num_blocks)
    if num_blocks is not None and num_blocks & (num_blocks - 1):
        raise ValueError(f"num_blocks={num_blocks}; expected a power of two, as their results are added in pairs")
    by_blocks = _by_blocks(mean_fn, mesh, total)

    def together(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        return _mean_in_parts(mean_fn(meta_params, draw(tasks), keys), mesh)

    def specs_of_parts(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        if MODEL not in mesh.shape:
            return P()
        shapes = jax.eval_shape(lambda *args: mean_fn(args[0], draw(args[1]), args[2]), meta_params, tasks, keys)
        return jax.tree.map(lambda sharding: sharding.spec, shardings_of(shapes, mesh))

    def in_order(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        own = jax.tree.map(tree_sum, by_blocks(meta_params, tasks, keys))
        mean = jax.tree.map(lambda leaf: leaf / total, sum_in_order(own, mesh))
        return jax.lax.optimization_barrier(mean)

    if num_blocks is None:
        return _shared_out(together, mesh, total, specs_of_parts)
    return _shared_out(in_order, mesh, total, lambda *_: P())


def map_over_devices(fn: MeanFn, mesh: Mesh, *, num_blocks: int | None = None) -> Callable[..., Any]:
    """Share stacked tasks among the devices of a mesh for a function whose results are stacked likewise.

    Args:
      fn: `(meta_params, stacked tasks, keys) -> stacked results`, of some of the tasks; such as a collection of
        experience.
      mesh: as of `over_devices`.
      num_blocks: into how many blocks tasks are divided, for the same bits on every number of devices that divides it,
        and for the memory of one block at a time; if not given, all tasks of a device together. A device with one block
        has room for the tasks and results of two.

    Returns:
      `(meta_params, tasks, key) -> results`, each on the device that its task is on.

    Raises:
      ValueError: if the devices do not divide `num_blocks`; at trace time if blocks do not divide the tasks.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.sharding import make_mesh
      >>> mesh = make_mesh({"tasks": 1})
      >>> doubled = jax.jit(map_over_devices(lambda meta_params, tasks, keys: meta_params * tasks, mesh, num_blocks=2))
      >>> doubled(2.0, jnp.arange(4.0), jax.random.key(0)).tolist()
      [0.0, 2.0, 4.0, 6.0]
    """
    total = _checked_blocks(mesh, num_blocks)
    by_blocks = _by_blocks(fn, mesh, total)

    def joined(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        if num_blocks is None:
            return fn(meta_params, draw(tasks), keys)
        return jax.tree.map(
            lambda leaf: leaf.reshape(math.prod(leaf.shape[:2]), *leaf.shape[2:]), by_blocks(meta_params, tasks, keys)
        )

    return _shared_out(joined, mesh, total, lambda *_: P(mesh.axis_names))


def _checked_blocks(mesh: Mesh, num_blocks: int | None) -> int:
    if num_blocks is None:
        return mesh.size
    if num_blocks < 1 or num_blocks % mesh.size:
        raise ValueError(f"num_blocks={num_blocks} on {mesh.size} devices; expected a multiple of {mesh.size}, or None")
    return num_blocks


def _mean_in_parts(own: PyTree, mesh: Mesh) -> PyTree:
    """The mean over devices; of a leaf that is divided along `model`, this device's part, and no more is sent."""
    leaves, structure = jax.tree.flatten(own)
    axes = [divided_axis(leaf, mesh) for leaf in leaves]
    whole = {index: leaves[index] for index, axis in enumerate(axes) if axis is None}
    parts = {
        index: jax.lax.psum_scatter(leaves[index], MODEL, scatter_dimension=axis, tiled=True) / mesh.shape[MODEL]
        for index, axis in enumerate(axes)
        if axis is not None
    }
    mean = jax.lax.pmean(whole, mesh.axis_names) | jax.lax.pmean(parts, TASKS)
    return structure.unflatten([mean[index] for index in range(len(leaves))])


def _shared_out(fn: MeanFn, mesh: Mesh, num_blocks: int, out_specs: Callable[..., Any]) -> MeanFn:
    """`fn` on each device's share of the tasks and their keys; `out_specs` are of all arguments."""

    def on_devices(meta_params: PyTree, tasks: PyTree, key: RandomKey | Key[Array, "tasks"]) -> Any:
        num_tasks = count_tasks(tasks.keys if isinstance(tasks, Drawn) else tasks)
        if num_tasks % num_blocks:
            raise ValueError(f"{num_tasks} tasks in {num_blocks} blocks; let the tasks of a meta-step be a multiple")
        shared = P(mesh.axis_names)
        specs = Drawn(sample=P(), keys=shared) if isinstance(tasks, Drawn) else shared  # pyright: ignore
        arguments = (meta_params, tasks, task_keys(key, num_tasks))
        return jax.shard_map(  # without its bookkeeping of what varies, which would sum gradients inside
            fn, mesh=mesh, in_specs=(P(), specs, shared), out_specs=out_specs(*arguments), check_vma=False
        )(*arguments)

    return on_devices


def _by_blocks(fn: MeanFn, mesh: Mesh, num_blocks: int) -> MeanFn:
    """`fn` on a device's share, block by block: results with this device's blocks on their first axis."""
    num_own = num_blocks // mesh.size

    def on_device(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        in_blocks = lambda leaf: leaf.reshape(num_own, len(leaf) // num_own, *leaf.shape[1:])  # noqa: E731
        per_task = jax.tree.map(in_blocks, (tasks.keys if isinstance(tasks, Drawn) else tasks, keys))

        def of_block(own_and_keys: tuple[PyTree, Key[Array, "tasks"]]) -> Any:
            own, own_keys = own_and_keys
            own = tasks._replace(keys=own) if isinstance(tasks, Drawn) else own
            return fn(meta_params, draw(own), own_keys)

        return each_apart(of_block, per_task)

    return on_device
