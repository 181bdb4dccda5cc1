"""Stacked tasks that are drawn where they are used: on the device, and in the block of tasks, that computes with them.

What travels from the sampler to the episode is a key for each task, so that no device draws, holds or sends another's
share. The same keys draw the same tasks as `stacked` does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax.tree_util import Partial
from jaxtyping import Array, Key

from ..types import PyTree, RandomKey
from .few_shot import as_partial, check_positive


class Drawn(NamedTuple):
    """Stacked tasks, by the keys that draw them.

    Attributes:
      sample: `key -> task`; its leaves are the data, common to all tasks.
      keys: `[tasks]`, of each task its own.
    """

    sample: Partial
    keys: Key[Array, "tasks"]


def drawn(sample: Callable[[RandomKey], PyTree], num_tasks: int) -> Partial:
    """A sampler of stacked tasks that leaves the drawing to `jmeta.sharding`; otherwise as `stacked`.

    Args:
      sample: a sampler of one task. If it is a `Partial`, its arrays stay leaves.
      num_tasks: number of tasks in a batch.

    Returns:
      `sample(key) -> Drawn`.

    Raises:
      ValueError: if `num_tasks` is not positive.

    Example:
      >>> import jax
      >>> from jmeta import tasks
      >>> sample, key = tasks.sinusoid(num_shots=5, num_queries=10), jax.random.key(0)
      >>> later = tasks.drawn(sample, 25)(key)
      >>> bool((draw(later).query.x == tasks.stacked(sample, 25)(key).query.x).all())
      True
    """
    check_positive({"num_tasks": num_tasks})
    return Partial(_Keys(num_tasks), as_partial(sample))


def draw(tasks: PyTree) -> PyTree:
    """The stacked tasks of a `Drawn`; any others as they are."""
    return jax.vmap(tasks.sample)(tasks.keys) if isinstance(tasks, Drawn) else tasks


@dataclass(frozen=True)
class _Keys:
    num_tasks: int

    def __call__(self, sample: Partial, key: RandomKey) -> Drawn:
        return Drawn(sample, jax.random.split(key, self.num_tasks))
