"""Which devices share the tasks of a recipe, and which of them this process has to bring.

A recipe, or `--mesh`, names the axes of a mesh in one word, such as `tasks=8` or `tasks=4,model=2`.
"""

from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from configs import parts
from jmeta import sharding
from jmeta.sharding import MeanFn
from jmeta.types import MetaTrainer


class Sharing(NamedTuple):
    """Devices that share tasks, and the blocks that fix the order of sums (see `jmeta.sharding`)."""

    mesh: Mesh
    num_blocks: int | None

    def over(self, mean_fn: MeanFn) -> MeanFn:
        """A mean over tasks, with the tasks shared among the devices."""
        return sharding.over_devices(mean_fn, self.mesh, num_blocks=self.num_blocks)

    def everywhere(self) -> NamedSharding:
        """Of what every device has."""
        return NamedSharding(self.mesh, P())

    def of_steps(self) -> NamedSharding:
        """Of stacked tasks, `[steps, tasks, ...]`."""
        return NamedSharding(self.mesh, P(None, self.mesh.axis_names))


def parse_axes(text: str) -> dict[str, int]:
    """The axes of a mesh.

    Raises:
      ValueError: if they are not written as `tasks=4,model=2`, or an axis is named twice.

    Example:
      >>> parse_axes("tasks=4,model=2")
      {'tasks': 4, 'model': 2}
    """
    pairs = [part.partition("=") for part in text.split(",")]
    names = {name.strip() for name, _, _ in pairs}
    if len(names) < len(pairs) or not all(name.strip() and size.strip().isdecimal() for name, _, size in pairs):
        raise ValueError(f"--mesh {text}; expected axes and their numbers of devices, as in tasks=8 or tasks=4,model=2")
    return {name.strip(): int(size) for name, _, size in pairs}


def sharing_of(part: parts.Training) -> Sharing | None:
    """What a recipe asks for; `None` for one device that nobody asked to share.

    A job of several processes shares tasks among all its devices, if nothing else is said.

    Raises:
      ValueError: if there are no such devices, or they do not divide the blocks or the tasks.
    """
    if part.mesh is None and part.num_blocks is None and jax.process_count() == 1:
        return None
    if part.mesh is None:
        axes = {"tasks": jax.device_count() if jax.process_count() > 1 else 1}
    else:
        axes = parse_axes(part.mesh)
    mesh = sharding.make_mesh(axes)
    sharing = Sharing(mesh, part.num_blocks)
    sharing.over(lambda *_: None)  # refuses blocks that do not fit
    blocks = part.num_blocks or mesh.size
    if part.tasks_per_step % blocks:
        raise ValueError(
            f"training.tasks_per_step={part.tasks_per_step} on {blocks} {'blocks' if part.num_blocks else 'devices'}; "
            f"expected a multiple of {blocks}"
        )
    return sharing


def placed(trainer: MetaTrainer, sharing: Sharing | None) -> MetaTrainer:
    """A trainer whose states stay on the devices that share them."""
    return trainer if sharing is None else sharding.keep_placed(trainer, sharing.mesh)


def own_tasks(sharing: Sharing | None, num_tasks: int) -> range:
    """Of the tasks of a meta-step, those that this process's devices compute with."""
    if sharing is None:
        return range(num_tasks)
    by_task = NamedSharding(sharing.mesh, P(sharing.mesh.axis_names))
    parts = [index[0] for index in by_task.addressable_devices_indices_map((num_tasks,)).values() if index]
    ends = [part.indices(num_tasks) for part in parts]
    return range(min(start for start, _, _ in ends), max(stop for _, stop, _ in ends))
