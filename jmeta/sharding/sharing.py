"""Devices that share tasks, as one value; its methods wrap functions so that one device and many compute the same."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import Partial
from jaxtyping import Array, Int, Key

from ..tasks.class_arrays import check_positive
from ..tasks.few_shot import as_partial
from ..types import Aux, ChunkMap, MetaTrainer, PyTree, RandomKey
from .chunks import chunks_over_devices
from .devices import MeanFn, map_over_devices, mean_over_devices
from .gathered import gathered_over_devices, take_from_blocks
from .placing import place, shardings_of

__all__ = ["Sharing"]


@dataclass(frozen=True)
class Sharing:
    """The devices that share tasks, and the blocks that fix the order of sums.

    Attributes:
      mesh: a mesh from `make_mesh`.
      num_blocks: number of blocks that tasks are divided into, a power of two, for the same bits on every number of
        devices that divides it; if not given, one per device, and the fastest sum. A device holds the results of all
        its blocks, and has room for at least two, each as large as the meta-parameters if it is a gradient.

    Raises:
      ValueError: if `num_blocks` is not a power of two, or the devices do not divide it.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta, optax
      >>> from jmeta import sharding
      >>> shared = sharding.Sharing(sharding.make_mesh({"tasks": 1}), num_blocks=2)
      >>> grad_fn = jax.value_and_grad(lambda theta, task, key: ((theta - task) ** 2, {}), has_aux=True)
      >>> trainer = shared.trainer(jmeta.meta_trainer(jmeta.over_tasks(grad_fn), optax.sgd(0.5)))
      >>> sample = shared.replicate(shared.stacked(lambda key: jax.random.normal(key), 4))
      >>> run = jmeta.training.sampled_steps(trainer, num_steps=3)
      >>> state, aux = run(shared.place(trainer.init(jnp.array(0.0))), sample, shared.replicate(jax.random.key(0)))
      >>> int(state.step)
      3
    """

    mesh: Mesh
    num_blocks: int | None = None

    def __post_init__(self) -> None:
        blocks, num_devices = self.num_blocks, self.mesh.size
        if blocks is None:
            return
        if blocks < 1 or blocks % num_devices:
            raise ValueError(
                f"num_blocks={blocks} on {num_devices} devices; expected a multiple of {num_devices}, or None"
            )
        if blocks & (blocks - 1):
            raise ValueError(f"num_blocks={blocks}; expected a power of two, as their results are added in pairs")

    def trainer(self, trainer: MetaTrainer) -> MetaTrainer:
        """Build the same trainer on tasks that the devices share; its states stay where `place` has put them.

        Args:
          trainer: a trainer with a `share`, as `jmeta.meta_trainer` returns.

        Raises:
          ValueError: if its meta-steps are computed on one device.
        """
        if trainer.share is None:
            raise ValueError(
                "this trainer has no `share`: its meta-steps run on one device, as those of a trust region do, "
                "but here devices share the tasks; take another trainer (PPO), or one process without a mesh and blocks"
            )
        shared = trainer.share(self)

        def update(state: PyTree, tasks: PyTree, key: RandomKey) -> tuple[PyTree, Aux]:
            state, aux = shared.update(state, tasks, key)
            shardings = (shardings_of(state, self.mesh), self.replicated)
            return jax.lax.with_sharding_constraint((state, aux), shardings)

        return MetaTrainer(shared.init, update)

    def mean(self, mean_fn: MeanFn) -> MeanFn:
        """Build the same mean over tasks, with the tasks shared among the devices.

        Args:
          mean_fn: `(meta_params, stacked tasks, keys) -> mean result` of some of the tasks, on one device: the result
            of `jmeta.over_tasks`, or its gradient. Every leaf of the result is a floating-point mean.

        Returns:
          `(meta_params, tasks, key) -> mean result` over all tasks, the same on every device; without `num_blocks`,
          leaves that `shardings_of` divides are summed slice by slice, each where it belongs. The result equals
          `mean_fn` on all tasks up to rounding. It raises `ValueError` at trace time if blocks do not divide the tasks.

        Example:
          >>> import jax, jax.numpy as jnp, jmeta
          >>> from jmeta import sharding
          >>> mean_fn = jmeta.over_tasks(lambda meta_params, task, key: meta_params * task)
          >>> shared = jax.jit(sharding.Sharing(sharding.make_mesh({"tasks": 1}), num_blocks=2).mean(mean_fn))
          >>> float(shared(2.0, jnp.arange(4.0), jax.random.key(0)))
          3.0
        """
        return mean_over_devices(mean_fn, self.mesh, self.num_blocks)

    def map(self, fn: MeanFn) -> MeanFn:
        """Build the same function of stacked tasks with stacked results, each device computing its own tasks.

        Args:
          fn: `(meta_params, stacked tasks, keys) -> stacked results` of some of the tasks, such as a collection of
            experience.

        Returns:
          `(meta_params, tasks, key) -> results`, each on the device that has its task. It raises `ValueError` at trace
          time if blocks do not divide the tasks.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from jmeta import sharding
          >>> shared = sharding.Sharing(sharding.make_mesh({"tasks": 1}), num_blocks=2)
          >>> doubled = jax.jit(shared.map(lambda meta_params, tasks, keys: meta_params * tasks))
          >>> doubled(2.0, jnp.arange(4.0), jax.random.key(0)).tolist()
          [0.0, 2.0, 4.0, 6.0]
        """
        return map_over_devices(fn, self.mesh, self.num_blocks)

    def gathered(self, fn: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
        """Build the same function of all stacked tasks: devices gather what it reads, and keep their own tasks.

        Args:
          fn: `stacked tasks -> stacked tasks`, of the same structure and shapes, such as
            `policy_gradients.with_normalized_advantages`. Every device computes all of it.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from jmeta import sharding
          >>> centred = sharding.Sharing(sharding.make_mesh({"tasks": 1})).gathered(lambda tasks: tasks - tasks.mean())
          >>> jax.jit(centred)(jnp.arange(3.0)).tolist()
          [-1.0, 0.0, 1.0]
        """
        return gathered_over_devices(fn, self.mesh)

    def take(self, tasks: PyTree, rows: Int[Array, "blocks rows"]) -> PyTree:
        """Take some of the tasks of each block; they stay on their device.

        Args:
          tasks: stacked, block after block.
          rows: for each block, the positions of the tasks to take.

        Returns:
          One stacked task for each entry of `rows`.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from jmeta import sharding
          >>> shared, rows = sharding.Sharing(sharding.make_mesh({"tasks": 1})), jnp.array([[0, 2], [1, 0]])
          >>> jax.jit(lambda tasks: shared.take(tasks, rows))(jnp.arange(6)).tolist()
          [0, 2, 4, 3]
        """
        return take_from_blocks(tasks, rows, self.mesh)

    def stacked(self, sample: Callable[[RandomKey], PyTree], num_tasks: int) -> Partial:
        """Build the sampler that `tasks.stacked` builds, but each device draws its own tasks, so that none is sent.

        Args:
          sample: a sampler of one task. If it is a `Partial`, its arrays stay leaves.
          num_tasks: number of tasks in a batch, a multiple of the blocks.

        Returns:
          `sample(key) -> tasks`; the same key draws the same tasks as `tasks.stacked` does.

        Raises:
          ValueError: if `num_tasks` is not positive.

        Example:
          >>> import jax
          >>> from jmeta import sharding, tasks
          >>> sample, key = tasks.sinusoid(num_shots=5, num_queries=10), jax.random.key(0)
          >>> shared = sharding.Sharing(sharding.make_mesh({"tasks": 1}))
          >>> x = jax.jit(shared.stacked(sample, 25))(key).query.x
          >>> bool((x == jax.jit(tasks.stacked(sample, 25))(key).query.x).all())
          True
        """
        check_positive({"num_tasks": num_tasks})
        return Partial(_SharedDraw(self, num_tasks), as_partial(sample))

    def place(self, state: PyTree) -> PyTree:
        """Place a state that every process holds: large leaves are divided by `shardings_of`, others replicated."""
        return place(state, shardings_of(state, self.mesh))

    def replicate(self, tree: PyTree) -> PyTree:
        """Replicate a tree that every process holds on every device."""
        return place(tree, self.replicated)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of arrays that every device holds whole."""
        return NamedSharding(self.mesh, P())

    @property
    def chunk_map(self) -> ChunkMap:
        """The chunk map for `jmeta.evaluate`: the devices share the chunks of tasks, and all receive the result.

        The result has the same bits on any number of devices of one kind, whatever `num_blocks` is. All processes of a
        job call `evaluate` together.
        """
        return chunks_over_devices(self.mesh)


@dataclass(frozen=True)
class _SharedDraw:
    sharing: Sharing
    num_tasks: int

    def __call__(self, sample: Partial, key: RandomKey) -> PyTree:
        def draw(sample: Partial, _: Int[Array, "tasks"], keys: Key[Array, "tasks"]) -> PyTree:
            return jax.vmap(sample)(keys)

        return self.sharing.map(draw)(sample, jnp.arange(self.num_tasks), key)
