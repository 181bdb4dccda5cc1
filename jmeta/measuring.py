"""Scalars of each of many tasks: a few tasks in one `vmap`, again and again, on one device or on many.

What judging a learner and judging an episode function have in common; for `evaluation`, which is what users call.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from .sharding import MeanFn, map_over_devices, put
from .tasks.drawn import Drawn
from .tasks.few_shot import as_partial
from .types import Aux, PyTree, RandomKey


def measured(
    one_task: Callable[[PyTree, PyTree, RandomKey], tuple[Aux, Aux]], mesh: Mesh | None
) -> Callable[..., tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """`measure`, as `evaluation.per_task_metrics` returns, of a function of one task that gives two sets of scalars."""
    at_once = jax.vmap(one_task, in_axes=(None, 0, 0))
    on_chunks = _on_one_device(at_once) if mesh is None else _on_devices(at_once, mesh)
    num_devices = 1 if mesh is None else mesh.size

    def measure(
        meta_params: PyTree,
        sample: Callable[[RandomKey], PyTree],
        key: RandomKey,
        *,
        num_tasks: int,
        tasks_at_once: int = 1,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        sample = as_partial(sample)
        keys = keys_of_dispatches(key, num_tasks, tasks_at_once, num_devices)
        results = [on_chunks(meta_params, sample, keys, np.int32(i)) for i in range(len(keys))]
        return jax.tree.map(lambda *parts: np.concatenate(parts).reshape(-1)[:num_tasks].astype(np.float64), *results)

    return measure


# One dispatch reuses its memory from chunk to chunk. Fresh pages for every chunk cost a CPU more than the arithmetic.
_CHUNKS_PER_DISPATCH = 16


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def keys_of_dispatches(
    key: RandomKey, num_tasks: int, tasks_at_once: int, num_devices: int
) -> Key[Array, "dispatches chunks at_once two"]:
    """For each dispatch the keys of its tasks, to draw them and to adapt to them.

    Every dispatch has one shape, so that one program serves: the last is filled up, and the filling dropped.

    Raises:
      ValueError: if a number is not positive.
    """
    if num_tasks < 1 or tasks_at_once < 1:
        raise ValueError(f"num_tasks={num_tasks} and tasks_at_once={tasks_at_once}; expected at least 1")
    keys = jax.vmap(jax.random.split)(jax.random.split(key, num_tasks))
    each = min(_CHUNKS_PER_DISPATCH, -(-num_tasks // (tasks_at_once * num_devices)))
    shape = (each * num_devices, tasks_at_once)
    at = np.arange(-(-num_tasks // math.prod(shape)) * math.prod(shape)).reshape(-1, *shape) % num_tasks
    return keys[at]


OnChunks = Callable[[PyTree, jax.tree_util.Partial, Array, np.int32], tuple[Aux, Aux]]
"""`(meta_params, sample, keys of all dispatches, which dispatch) -> scalars of each of its tasks`."""


def _on_one_device(at_once: MeanFn) -> OnChunks:
    @jax.jit
    def on_drawn(meta_params: PyTree, tasks: PyTree, keys: Array, dispatch: Array) -> tuple[Aux, Aux]:
        return jax.lax.map(lambda chunk: at_once(meta_params, *chunk), (tasks, keys[dispatch, ..., 1]))

    return lambda params, sample, keys, i: on_drawn(params, draw_stacked(sample, keys, i), keys, i)


def _on_devices(at_once: MeanFn, mesh: Mesh) -> OnChunks:
    """Each device draws its own tasks; the results come to all."""
    everywhere = NamedSharding(mesh, PartitionSpec())

    @functools.partial(jax.jit, out_shardings=everywhere)
    def on_drawn(meta_params: PyTree, sample: jax.tree_util.Partial, keys: Array, dispatch: Array) -> Any:
        own = map_over_devices(at_once, mesh, num_blocks=keys.shape[1])
        keys = keys[dispatch].reshape(-1, 2)
        return own(meta_params, Drawn(sample, keys[:, 0]), keys[:, 1])

    return lambda *arguments: on_drawn(*(_put_once(argument, everywhere) for argument in arguments))


def _put_once(tree: PyTree, everywhere: NamedSharding) -> PyTree:
    """What is not on the devices of the mesh, put there; what is, divided perhaps, stays."""
    is_there = lambda leaf: isinstance(leaf, jax.Array) and leaf.sharding.device_set == everywhere.device_set  # noqa: E731
    return jax.tree.map(lambda leaf: leaf if is_there(leaf) else put(leaf, everywhere), tree)


@jax.jit
def draw_stacked(
    sample: jax.tree_util.Partial, keys: Key[Array, "dispatches chunks at_once two"], dispatch: Any
) -> PyTree:
    """The tasks of one dispatch, stacked as `[chunks, at_once]`, drawn by the first key of each pair.

    A program of its own, so that all learners share it: samplers can be slow to compile.
    """
    return jax.vmap(jax.vmap(sample))(keys[dispatch, ..., 0])
