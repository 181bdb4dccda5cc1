"""The devices that share the tasks of a meta-step, and the tasks that this process has to supply.

A recipe, or `--mesh`, names the axes of a mesh in one word, such as `tasks=8` or `tasks=4,model=2`.
"""

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .. import sharding
from ..sharding import Sharing

__all__ = ["parse_axes", "sharing_of", "own_tasks"]


def parse_axes(text: str) -> dict[str, int]:
    """Parse the axes of a mesh.

    Raises:
      ValueError: if the text does not have the form `tasks=4,model=2`, or names an axis twice.

    Example:
      >>> parse_axes("tasks=4,model=2")
      {'tasks': 4, 'model': 2}
    """
    pairs = [part.partition("=") for part in text.split(",")]
    names = {name.strip() for name, _, _ in pairs}
    if len(names) < len(pairs) or not all(name.strip() and size.strip().isdecimal() for name, _, size in pairs):
        raise ValueError(f"--mesh {text}; expected axes and their numbers of devices, as in tasks=8 or tasks=4,model=2")
    return {name.strip(): int(size) for name, _, size in pairs}


def sharing_of(axes: str | None, num_blocks: int | None, tasks_per_step: int) -> Sharing | None:
    """Return the devices that share tasks; `None` for a single device that nobody asked to share.

    A job of several processes shares tasks among all its devices unless told otherwise.

    Args:
      axes: axes of the mesh, such as `"tasks=8"`.
      num_blocks: see `jmeta.sharding`.
      tasks_per_step: number of tasks in a meta-step.

    Raises:
      ValueError: if these devices do not exist, or their number does not divide the blocks or the tasks.
    """
    if axes is None and num_blocks is None and jax.process_count() == 1:
        return None
    sizes = {"tasks": jax.device_count() if jax.process_count() > 1 else 1} if axes is None else parse_axes(axes)
    sharing = Sharing(sharding.make_mesh(sizes), num_blocks)
    blocks = num_blocks or sharing.mesh.size
    if tasks_per_step % blocks:
        raise ValueError(
            f"training.tasks_per_step={tasks_per_step} on {blocks} {'blocks' if num_blocks else 'devices'}; "
            f"expected a multiple of {blocks}"
        )
    return sharing


def own_tasks(sharing: Sharing | None, num_tasks: int) -> range:
    """Return the tasks of a meta-step that this process's devices compute with."""
    if sharing is None:
        return range(num_tasks)
    by_task = NamedSharding(sharing.mesh, P(sharing.mesh.axis_names))
    slices = [index[0] for index in by_task.addressable_devices_indices_map((num_tasks,)).values() if index]
    ends = [each.indices(num_tasks) for each in slices]
    return range(min(start for start, _, _ in ends), max(stop for _, stop, _ in ends))
