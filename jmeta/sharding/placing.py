"""A mesh of devices, and the placement of arrays on it: replicated on every device, or divided where they are large."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..types import PyTree

__all__ = [
    "TASKS",
    "MODEL",
    "LEAST_TO_DIVIDE",
    "make_mesh",
    "shardings_of",
    "divided_axis",
    "place",
    "to_local_device",
    "is_key",
]

TASKS, MODEL = "tasks", "model"
"""Axes of a mesh. Tasks are shared among all devices of both; parameters are divided along `model` alone."""

LEAST_TO_DIVIDE = 2**16
"""A parameter with fewer numbers than this is not divided: that would save less than gathering it costs."""


def make_mesh(axes: Mapping[str, int]) -> Mesh:
    """Make a mesh of the first devices of the job.

    Args:
      axes: the number of devices along `"tasks"`, and along `"model"` to divide large parameters.

    Raises:
      ValueError: if an axis has another name or no device, there are too few devices, or devices of a process would be
        be left out.

    Example:
      >>> make_mesh({"tasks": 1}).size
      1
    """
    unknown = set(axes) - {TASKS, MODEL}
    if unknown or TASKS not in axes or min(axes.values()) < 1:
        raise ValueError(f"a mesh of {dict(axes)}; expected a number of devices for {TASKS!r}, and perhaps {MODEL!r}")
    count = math.prod(axes.values())
    there = jax.device_count()
    if count > there or (jax.process_count() > 1 and count != there):
        needs = "all of the job's devices" if jax.process_count() > 1 else "no more devices than there are"
        raise ValueError(
            f"a mesh of {dict(axes)} has {count} devices, and there are {there}; it takes {needs}. On CPUs "
            "--xla_force_host_platform_device_count in XLA_FLAGS makes several"
        )
    names = [name for name in (TASKS, MODEL) if name in axes]
    kinds = (jax.sharding.AxisType.Auto,) * len(names)
    return jax.make_mesh([axes[name] for name in names], names, kinds, devices=jax.devices()[:count])


def shardings_of(tree: PyTree, mesh: Mesh) -> PyTree:
    """Return the shardings of a state: large leaves are divided along `model`, by their longest axis.

    Other leaves are replicated. The rule depends only on shapes, so parameters and the optimizer's state for them are
    divided alike. This is fully sharded data parallelism: each step gathers whole parameters, and each device keeps its
    slice of the mean gradient.

    Args:
      tree: tree of arrays or shapes.
      mesh: a mesh from `make_mesh`.

    Returns:
      A tree of `NamedSharding`s.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.sharding import make_mesh
      >>> shardings_of({"kernel": jnp.zeros((3, 4))}, make_mesh({"tasks": 1}))["kernel"].is_fully_replicated
      True
    """

    def of_leaf(leaf: Any) -> NamedSharding:
        axis = divided_axis(leaf, mesh)
        return NamedSharding(mesh, P() if axis is None else P(*[None] * axis, MODEL))

    return jax.tree.map(of_leaf, tree)


def divided_axis(leaf: Any, mesh: Mesh) -> int | None:
    """Return the axis along which `shardings_of` divides a leaf; None if the leaf is replicated."""
    shape, num_slices = np.shape(leaf), mesh.shape.get(MODEL, 1)
    divisible = [axis for axis, size in enumerate(shape) if size % num_slices == 0]
    if num_slices == 1 or math.prod(shape) < LEAST_TO_DIVIDE or not divisible:
        return None
    return max(divisible, key=lambda axis: shape[axis])


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Turn arrays that every process holds into arrays of the whole job; nothing is sent between processes.

    Args:
      tree: tree of NumPy or JAX arrays, typed keys and numbers, the same in all processes.
      shardings: a tree of shardings with the same structure, or one for all leaves.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.sharding import make_mesh
      >>> replicated = jax.sharding.NamedSharding(make_mesh({"tasks": 1}), jax.sharding.PartitionSpec())
      >>> place({"theta": jnp.ones(2), "key": jax.random.key(0)}, replicated)["theta"].sharding == replicated
      True
    """
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)

    def of_leaf(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if is_key(leaf):
            return jax.random.wrap_key_data(
                of_leaf(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf)
            )
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(of_leaf, tree, shardings)


def to_local_device(tree: PyTree) -> PyTree:
    """Copy a whole state to this process's first device, so that one process can compute with it alone.

    Divided leaves are gathered, so all processes call it together; other leaves are not sent.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.sharding import Sharing, make_mesh
      >>> to_local_device(Sharing(make_mesh({"tasks": 1})).replicate({"theta": jnp.ones(2)}))["theta"].tolist()
      [1.0, 1.0]
    """

    def of_leaf(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not isinstance(leaf.sharding, NamedSharding):
            return leaf
        if not leaf.sharding.is_fully_replicated:
            whole = NamedSharding(leaf.sharding.mesh, P())
            leaf = jax.jit(lambda array: array, out_shardings=whole)(leaf)
        if is_key(leaf):
            return jax.random.wrap_key_data(of_leaf(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return jnp.asarray(np.asarray(leaf.addressable_data(0)))

    return jax.tree.map(of_leaf, tree)


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is an array of typed random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
