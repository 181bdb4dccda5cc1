"""Tasks over devices: the same mean over tasks on one device and on many, in one process and in several.

    keys of tasks ──► each device: its blocks of tasks, drawn and computed ──► one exchange ──► the mean, everywhere

Everything rests on `jax.sharding`: a mesh, arrays that know where they are, and `jax.shard_map`. `Sharing` is the one
wrapper: `Sharing(mesh, num_blocks).trainer(trainer)` is the same trainer on tasks that devices share, its `stacked`
samples those tasks, and its `chunk_map` is for `jmeta.evaluate`. Trainers, estimators, recipes and checkpoints know
nothing of it.

**The same bits.** A sum of floating-point numbers depends on its order, and the rounding of a compiled program on the
shapes that it was compiled for. With `num_blocks`, tasks are computed in blocks of one shape whatever the number of
devices, in a loop whose length the compiler does not know, and the blocks' results are added in one fixed binary tree,
of which each device adds its own branch. So 1, 2, 4 and 8 devices get the same bits from 8 blocks, if the devices are
of one kind. (XLA on CPUs divides matrix products by the size of its thread pool, which is the larger of the number of
cores and of devices; the environment variable `NPROC` sets one size for all.) Without `num_blocks` each device computes
its tasks together, and the sum is JAX's all-reduce: the result is the same up to rounding.
"""

from .devices import MeanFn
from .placing import LEAST_TO_DIVIDE, MODEL, TASKS, make_mesh, place, shardings_of, to_local_device
from .sharing import Sharing

__all__ = [
    "TASKS",
    "MODEL",
    "LEAST_TO_DIVIDE",
    "MeanFn",
    "Sharing",
    "make_mesh",
    "shardings_of",
    "place",
    "to_local_device",
]
