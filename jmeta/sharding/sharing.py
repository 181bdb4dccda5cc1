"""Devices that share the tasks of a meta-step, as one value that trainers are made with."""

from typing import NamedTuple

from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .devices import MeanFn, over_devices


class Sharing(NamedTuple):
    """Devices that share tasks, and the blocks that fix the order of sums (see `jmeta.sharding`)."""

    mesh: Mesh
    num_blocks: int | None = None

    def over(self, mean_fn: MeanFn) -> MeanFn:
        """A mean over tasks, with the tasks shared among the devices."""
        return over_devices(mean_fn, self.mesh, num_blocks=self.num_blocks)

    def replicated(self) -> NamedSharding:
        """The sharding of what every device has."""
        return NamedSharding(self.mesh, P())

    def of_steps(self) -> NamedSharding:
        """The sharding of stacked tasks, `[steps, tasks, ...]`."""
        return NamedSharding(self.mesh, P(None, self.mesh.axis_names))
