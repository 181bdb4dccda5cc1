"""Chunks of evaluation tasks, shared among devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from ..types import ChunkMap, PyTree
from .devices import map_over_devices
from .placing import place, to_local_device

__all__ = ["chunks_over_devices"]


def chunks_over_devices(mesh: Mesh) -> ChunkMap:
    """Build the chunk map in which each device draws and computes its own chunks of tasks; see `Sharing.chunk_map`."""
    replicated = NamedSharding(mesh, P())

    def map_chunks(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        @functools.partial(jax.jit, out_shardings=replicated)
        def on_shares(
            meta_params: PyTree, sample: jax.tree_util.Partial, keys_of: jax.tree_util.Partial, dispatch: Array
        ) -> Any:
            def draw_and_compute(arguments: tuple[PyTree, jax.tree_util.Partial], keys: Array, keys_fn: Array) -> Any:
                meta_params, sample = arguments
                return fn(meta_params, jax.vmap(sample)(keys), keys_fn)

            keys = keys_of(dispatch)
            own = map_over_devices(draw_and_compute, mesh, num_blocks=len(keys))
            keys = keys.reshape(-1, 2)
            return own((meta_params, sample), keys[:, 0], keys[:, 1])

        return lambda *arguments: on_shares(*(_placed(argument, replicated) for argument in arguments))

    return ChunkMap(map_chunks, num_at_once=mesh.size, to_local=to_local_device)


def _placed(tree: PyTree, replicated: NamedSharding) -> PyTree:
    """Replicate leaves that are not on the devices of the mesh yet; arrays already there, divided or not, stay."""
    is_placed = lambda leaf: isinstance(leaf, jax.Array) and leaf.sharding.device_set == replicated.device_set  # noqa: E731
    return jax.tree.map(lambda leaf: leaf if is_placed(leaf) else place(leaf, replicated), tree)
