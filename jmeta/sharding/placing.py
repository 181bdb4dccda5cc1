"""A mesh of devices, and where states are on it: on all, or in parts where they are large; and how they come there."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..types import Aux, MetaTrainer, PyTree, RandomKey

TASKS, MODEL = "tasks", "model"
"""Axes of a mesh. Tasks are shared among all devices of both; parameters are divided along `model` alone."""

LEAST_TO_DIVIDE = 2**16
"""Numbers in a parameter below which dividing it saves nothing that is worth gathering it for."""


def make_mesh(axes: Mapping[str, int]) -> Mesh:
    """A mesh of the first devices of the job.

    Args:
      axes: devices along `"tasks"`, and along `"model"` if parameters shall be divided.

    Raises:
      ValueError: if an axis has another name or no device, or there are fewer devices; if devices of a process would
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
    """Where the leaves of a state go: large ones divided along `model`, by their longest axis; others everywhere.

    The rule looks at nothing but shapes, so parameters and the optimizer's state for them are divided alike. This is
    fully sharded data parallelism: each step gathers the parameters as a whole, and of the mean gradient each device
    gets its part.

    Args:
      tree: of arrays or shapes.
      mesh: as `make_mesh` returns.

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
    """The axis along which a leaf is divided, by the rule of `shardings_of`; None if it is whole everywhere."""
    shape, num_parts = np.shape(leaf), mesh.shape.get(MODEL, 1)
    divisible = [axis for axis, size in enumerate(shape) if size % num_parts == 0]
    if num_parts == 1 or math.prod(shape) < LEAST_TO_DIVIDE or not divisible:
        return None
    return max(divisible, key=lambda axis: shape[axis])


def keep_placed(trainer: MetaTrainer, mesh: Mesh) -> MetaTrainer:
    """A trainer whose states stay where `shardings_of` has put them.

    Args:
      trainer: any, on `over_devices`.
      mesh: the same.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta, optax
      >>> from jmeta.sharding import make_mesh, over_devices
      >>> mesh = make_mesh({"tasks": 1})
      >>> grad_fn = jax.value_and_grad(lambda theta, task, key: ((theta - task) ** 2, {}), has_aux=True)
      >>> mean_grad = over_devices(jmeta.over_tasks(grad_fn), mesh)
      >>> trainer = keep_placed(jmeta.meta_trainer(mean_grad, optax.sgd(0.5)), mesh)
      >>> state = trainer.init(jnp.array(0.0))
      >>> state = put(state, shardings_of(state, mesh))
      >>> state, aux = jax.jit(trainer.update)(state, jnp.arange(4.0), jax.random.key(0))
      >>> float(state.meta_params)
      1.5
    """

    def update(state: PyTree, tasks: PyTree, key: RandomKey) -> tuple[PyTree, Aux]:
        state, aux = trainer.update(state, tasks, key)
        return jax.lax.with_sharding_constraint((state, aux), (shardings_of(state, mesh), NamedSharding(mesh, P())))

    return MetaTrainer(trainer.init, update)


def put(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays that every process has, as arrays of the whole job, each process taking its part: nothing is sent.

    Args:
      tree: of NumPy or JAX arrays, typed keys and numbers, the same in all processes.
      shardings: a tree of shardings of its structure, or one for all leaves.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.sharding import make_mesh
      >>> everywhere = jax.sharding.NamedSharding(make_mesh({"tasks": 1}), jax.sharding.PartitionSpec())
      >>> put({"theta": jnp.ones(2), "key": jax.random.key(0)}, everywhere)["theta"].sharding == everywhere
      True
    """
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)

    def of_leaf(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if _is_key(leaf):
            return jax.random.wrap_key_data(
                of_leaf(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf)
            )
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(of_leaf, tree, shardings)


def here(tree: PyTree) -> PyTree:
    """The whole of a state on this process's first device, to be looked at without the others.

    Divided leaves are gathered, so all processes call it together; other leaves are not sent.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.sharding import make_mesh
      >>> everywhere = jax.sharding.NamedSharding(make_mesh({"tasks": 1}), jax.sharding.PartitionSpec())
      >>> here(put({"theta": jnp.ones(2)}, everywhere))["theta"].tolist()
      [1.0, 1.0]
    """

    def of_leaf(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not isinstance(leaf.sharding, NamedSharding):
            return leaf
        if not leaf.sharding.is_fully_replicated:
            whole = NamedSharding(leaf.sharding.mesh, P())
            leaf = jax.jit(lambda array: array, out_shardings=whole)(leaf)
        if _is_key(leaf):
            return jax.random.wrap_key_data(of_leaf(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return jnp.asarray(np.asarray(leaf.addressable_data(0)))

    return jax.tree.map(of_leaf, tree)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
