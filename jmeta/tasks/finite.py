"""A fixed set of tasks from any sampler: what meta-training sees where tasks are few."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ..types import PyTree, RandomKey
from .class_arrays import check_positive

__all__ = ["finite"]


def finite(sample: Callable[[RandomKey], PyTree], num_tasks: int, key: RandomKey) -> Partial:
    """Build a sampler of `num_tasks` fixed tasks, all equally likely; their support and query are fixed, too.

    Nothing but keys is stored: a task is drawn again, from its own key, whenever it is chosen. To judge on every task
    once, map `sample` over `jax.random.split(key, num_tasks)`.

    Args:
      sample: `key -> task`.
      num_tasks: size of the set.
      key: draws the set.

    Raises:
      ValueError: if `num_tasks` is not positive.

    Example:
      >>> import jax
      >>> from jmeta import tasks
      >>> waves = tasks.sinusoid(num_shots=5, num_queries=5)
      >>> sample = tasks.finite(waves, 3, jax.random.key(0))
      >>> len({float(sample(jax.random.key(i)).support.x[0, 0]) for i in range(50)})
      3
    """
    check_positive({"num_tasks": num_tasks})
    return Partial(
        _one_of, sample if isinstance(sample, Partial) else Partial(sample), jax.random.split(key, num_tasks)
    )


def _one_of(sample: Partial, keys: Any, key: RandomKey) -> PyTree:
    return sample(keys[jax.random.randint(key, (), 0, keys.shape[0], jnp.int32)])
