"""Tasks over devices: the same mean over tasks on one device and on many, in one process and in several.

    keys of tasks ──► each device: its blocks of tasks, drawn and computed ──► one exchange ──► the mean, everywhere

Everything rests on `jax.sharding`: a mesh, arrays that say where they are, and `jax.shard_map`. What `over_devices`
returns takes the place of what `jmeta.over_tasks` returns, so that trainers, estimators and checkpoints know nothing
of it.

**The same bits.** A sum of floating-point numbers depends on its order, and a compiled program on the shapes it was
compiled for. With `num_blocks`, tasks are computed in blocks of one shape whatever the number of devices, in a loop
whose length the compiler does not know, and the blocks' results are added in one fixed binary tree, of which each
device adds its own branch. So 1, 2, 4 and 8 devices get the same bits from 8 blocks, if the devices are of one kind.
(XLA on CPUs divides matrix products by the size of its pool of threads, which is the larger of the number of cores and
of devices; the environment variable `NPROC` sets one size for all.) Without `num_blocks` each device takes its tasks
together and the sum is JAX's all-reduce: the same up to rounding.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from .episodes import count_tasks, task_keys
from .tasks.drawn import Drawn, draw
from .types import Aux, MetaTrainer, PyTree, RandomKey

TASKS, MODEL = "tasks", "model"
"""Axes of a mesh. Tasks are shared among all devices of both; parameters are divided along `model` alone."""

MeanFn = Callable[[PyTree, PyTree, RandomKey], Any]
"""`(meta_params, stacked tasks, key) -> mean result`, as `over_tasks` returns; `key` may be one for each task."""

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


def over_devices(mean_fn: MeanFn, mesh: Mesh, *, num_blocks: int | None = None) -> MeanFn:
    """Share the tasks of a mean among the devices of a mesh.

    Args:
      mean_fn: `(meta_params, stacked tasks, keys) -> mean result` of some of the tasks, on one device: what
        `jmeta.over_tasks` returns, or the gradient of that. Every leaf of the result is a floating-point mean.
      mesh: as `make_mesh` returns.
      num_blocks: into how many blocks tasks are divided, a power of two, for the same bits on every number of devices
        that divides it; if not given, one for each device, and the fastest sum. A device holds the results of all its
        blocks, each as large as the meta-parameters if it is a gradient.

    Returns:
      `(meta_params, tasks, key) -> mean result` over all tasks, the same on every device. `tasks` are stacked, or still
      to be drawn (`tasks.drawn`), in which case nothing but keys is shared out. Up to rounding the result is that of
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
    by_blocks = _by_blocks(mean_fn, mesh, total)

    def together(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        return jax.lax.pmean(mean_fn(meta_params, draw(tasks), keys), mesh.axis_names)

    def in_order(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        own = jax.tree.map(_tree_sum, by_blocks(meta_params, tasks, keys))
        mean = jax.tree.map(lambda leaf: leaf / total, _sum_in_order(own, mesh))
        return jax.lax.optimization_barrier(mean)

    return _shared_out(together if num_blocks is None else in_order, mesh, total, P())


def map_over_devices(fn: MeanFn, mesh: Mesh, *, num_blocks: int | None = None) -> Callable[..., Any]:
    """Share stacked tasks among the devices of a mesh for a function whose results are stacked likewise.

    Args:
      fn: `(meta_params, stacked tasks, keys) -> stacked results`, of some of the tasks; such as a collection of
        experience.
      mesh, num_blocks: as of `over_devices`.

    Returns:
      `(meta_params, tasks, key) -> results`, each on the device that its task is on.

    Raises:
      ValueError: as `over_devices`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mesh = make_mesh({"tasks": 1})
      >>> doubled = jax.jit(map_over_devices(lambda meta_params, tasks, keys: meta_params * tasks, mesh, num_blocks=2))
      >>> doubled(2.0, jnp.arange(4.0), jax.random.key(0)).tolist()
      [0.0, 2.0, 4.0, 6.0]
    """
    total = _checked_blocks(mesh, num_blocks)
    by_blocks = _by_blocks(fn, mesh, total)

    def joined(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        return jax.tree.map(
            lambda leaf: leaf.reshape(math.prod(leaf.shape[:2]), *leaf.shape[2:]), by_blocks(meta_params, tasks, keys)
        )

    return _shared_out(joined, mesh, total, P(mesh.axis_names))


def on_gathered(fn: Callable[[PyTree], PyTree], mesh: Mesh) -> Callable[[PyTree], PyTree]:
    """A function of all stacked tasks, which are shared among devices: each gathers them, and keeps its own.

    Every device gathers all leaves and computes all of it, so that no sum depends on their number. Leaves that `fn`
    hands back unchanged stay as they are.

    Args:
      fn: `stacked tasks -> stacked tasks`, of the same structure and shapes, such as
        `policy_gradients.with_normalized_advantages`.
      mesh: whose devices share them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> centred = on_gathered(lambda tasks: tasks - tasks.mean(), make_mesh({"tasks": 1}))
      >>> jax.jit(centred)(jnp.arange(3.0)).tolist()
      [-1.0, 0.0, 1.0]
    """

    def on_device(tasks: PyTree) -> PyTree:
        own, structure = jax.tree.flatten(tasks)
        everything = [jax.lax.all_gather(leaf, mesh.axis_names, tiled=True) for leaf in own]
        results = jax.tree.leaves(fn(structure.unflatten(everything)))  # to see what it changes; not computed
        changed = [index for index, leaf in enumerate(results) if all(leaf is not other for other in everything)]

        def only_changed(everything: list[Array]) -> list[Array]:
            results = jax.tree.leaves(fn(structure.unflatten(everything)))
            return [results[index] for index in changed]

        place = jax.lax.axis_index(mesh.axis_names)
        for index, leaf in zip(changed, _by_itself(only_changed, everything), strict=True):
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


def shardings_of(tree: PyTree, mesh: Mesh) -> PyTree:
    """Where the leaves of a state go: large ones divided along `model`, by their longest axis; others everywhere.

    The rule looks at nothing but shapes, so parameters and the optimizer's state for them are divided alike. This is
    fully sharded data parallelism: each step gathers the parameters, and nothing else about it changes.

    Args:
      tree: of arrays or shapes.
      mesh: as `make_mesh` returns.

    Returns:
      A tree of `NamedSharding`s.

    Example:
      >>> import jax.numpy as jnp
      >>> shardings_of({"kernel": jnp.zeros((3, 4))}, make_mesh({"tasks": 1}))["kernel"].is_fully_replicated
      True
    """
    num_parts = mesh.shape.get(MODEL, 1)

    def of_leaf(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        divisible = [axis for axis, size in enumerate(shape) if size % num_parts == 0]
        if num_parts == 1 or math.prod(shape) < LEAST_TO_DIVIDE or not divisible:
            return NamedSharding(mesh, P())
        longest = max(divisible, key=lambda axis: shape[axis])
        return NamedSharding(mesh, P(*[None] * longest, MODEL))

    return jax.tree.map(of_leaf, tree)


def keep_placed(trainer: MetaTrainer, mesh: Mesh) -> MetaTrainer:
    """A trainer whose states stay where `shardings_of` has put them.

    Args:
      trainer: any, on `over_devices`.
      mesh: the same.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta, optax
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


def _checked_blocks(mesh: Mesh, num_blocks: int | None) -> int:
    if num_blocks is None:
        return mesh.size
    if num_blocks < 1 or num_blocks & (num_blocks - 1) or num_blocks % mesh.size:
        raise ValueError(
            f"num_blocks={num_blocks} on {mesh.size} devices; expected a power of two that the devices divide, or None"
        )
    return num_blocks


def _shared_out(fn: MeanFn, mesh: Mesh, num_blocks: int, out_specs: P) -> MeanFn:
    """`fn` on each device's share of the tasks and their keys."""

    def on_devices(meta_params: PyTree, tasks: PyTree, key: RandomKey | Key[Array, "tasks"]) -> Any:
        num_tasks = count_tasks(tasks.keys if isinstance(tasks, Drawn) else tasks)
        if num_tasks % num_blocks:
            raise ValueError(f"{num_tasks} tasks in {num_blocks} blocks; let the tasks of a meta-step be a multiple")
        shared = P(mesh.axis_names)
        specs = Drawn(sample=P(), keys=shared) if isinstance(tasks, Drawn) else shared  # pyright: ignore
        on_device = jax.shard_map(  # without its bookkeeping of what varies, which would sum gradients inside
            fn, mesh=mesh, in_specs=(P(), specs, shared), out_specs=out_specs, check_vma=False
        )
        return on_device(meta_params, tasks, task_keys(key, num_tasks))

    return on_devices


def _by_blocks(fn: MeanFn, mesh: Mesh, num_blocks: int) -> MeanFn:
    """`fn` on a device's share, block by block: results with this device's blocks on their first axis."""
    num_own = num_blocks // mesh.size

    def on_device(meta_params: PyTree, tasks: PyTree, keys: Key[Array, "tasks"]) -> Any:
        in_blocks = lambda leaf: leaf.reshape(num_own, len(leaf) // num_own, *leaf.shape[1:])  # noqa: E731
        per_task = jax.tree.map(in_blocks, (tasks.keys if isinstance(tasks, Drawn) else tasks, keys))

        def of_block(index: Array) -> Any:
            own, own_keys = jax.tree.map(lambda leaf: leaf[index], per_task)
            own = tasks._replace(keys=own) if isinstance(tasks, Drawn) else own
            return jax.lax.optimization_barrier(fn(meta_params, draw(own), own_keys))

        return _loop(of_block, num_own)

    return on_device


def _loop(fn: Callable[[Array], PyTree], count: int) -> PyTree:
    """`fn(0), ..., fn(count - 1)`, stacked; compiled apart from what is around it, and in the same way for any count.

    A loop of known length would be unrolled where it is short, and then fused with its surroundings.
    """
    shapes = jax.eval_shape(fn, jnp.int32(0))
    start = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), shapes)

    def put_at(index: Array, out: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, new: leaf.at[index].set(new), out, fn(index))

    return jax.lax.fori_loop(0, jax.lax.optimization_barrier(jnp.int32(count)), put_at, start)


def _by_itself(fn: Callable[[PyTree], PyTree], argument: PyTree) -> PyTree:
    """`fn(argument)`, compiled apart from what is around it."""

    def once(index: Array) -> PyTree:
        return jax.lax.optimization_barrier(fn(jax.lax.optimization_barrier((index, argument))[1]))

    return jax.tree.map(lambda leaf: leaf[0], _loop(once, 1))


def _tree_sum(terms: Array) -> Array:
    """The sum over the first axis, a power of two: neighbours first, then their sums, and so on."""
    while len(terms) > 1:
        pairs = terms.reshape(len(terms) // 2, 2, *terms.shape[1:])
        terms = pairs[:, 0] + pairs[:, 1]
    return terms[0]


def _sum_in_order(own: PyTree, mesh: Mesh) -> PyTree:
    """The sum over devices as one tree: each device adds up a part of the numbers, of all devices, and hands it round.

    It sends what an all-reduce does: to each other device one part, of as many as there are devices, and back.
    """
    leaves, structure = jax.tree.flatten(own)
    summed: dict[int, Array] = {}
    for dtype in {leaf.dtype for leaf in leaves}:
        those = [index for index, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat: Float[Array, " numbers"] = jnp.concatenate([leaves[index].reshape(-1) for index in those])
        parts = jnp.pad(flat, (0, -len(flat) % mesh.size)).reshape(mesh.size, -1)
        of_all = jax.lax.all_to_all(parts, mesh.axis_names, 0, 0, tiled=True)
        total = jax.lax.all_gather(_tree_sum(of_all), mesh.axis_names, tiled=True)[: len(flat)]
        ends = np.cumsum([leaves[index].size for index in those])[:-1]
        for index, piece in zip(those, jnp.split(total, ends), strict=True):
            summed[index] = piece.reshape(leaves[index].shape)
    return structure.unflatten([summed[index] for index in range(len(leaves))])
