"""Tasks of unequal size, padded to one shape and masked, so that one compiled function serves them all.

`pad_task` fits a task of your own into fixed shapes; `ragged` turns any sampler of N-way K-shot tasks into one whose
ways and shots vary at random. Padding has mask False, label 0 and zeros for inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Shaped

from ..bounds import is_whole
from ..types import Batch, PyTree, RandomKey, Task
from .class_arrays import check_positive
from .few_shot import as_partial

__all__ = ["pad_task", "ragged"]


def pad_task(task: Task, *, num_support: int, num_query: int) -> Task:
    """Pad a task to fixed numbers of examples.

    Args:
      task: the task; its batches may already have masks, which are kept.
      num_support: number of examples in the padded support.
      num_query: number of examples in the padded query.

    Returns:
      The task with its examples first, then padding, and both masks set.

    Raises:
      ValueError: if a number is not positive, or the task has more examples than these.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.ones((2, 3)), y=jnp.array([1, 0]))
      >>> pad_task(jmeta.Task(batch, batch), num_support=4, num_query=2).support.mask.tolist()
      [True, True, False, False]
    """
    return Task(
        _pad_batch(task.support, num_support, "num_support"),
        _pad_batch(task.query, num_query, "num_query"),
        task.progress,
    )


def ragged(sample: Callable[[RandomKey], Task], *, num_ways: int, min_ways: int = 2, min_shots: int = 1) -> Partial:
    """Build a sampler whose tasks vary in ways and, class by class, in shots.

    The number of ways is uniform in `min_ways..num_ways`; the shots of each class are uniform in
    `min_shots..num_shots`, where `num_shots` is that of `sample`. Classes `ways..num_ways-1` do not appear.

    Args:
      sample: a sampler of tasks with `num_ways` classes and equally many shots of each.
      num_ways: classes in a task of `sample`: labels are `0..num_ways-1`.
      min_ways: fewest classes in a ragged task.
      min_shots: fewest support examples of a class that appears.

    Returns:
      `sample(key) -> Task` of unchanged shapes, both masks set.

    Raises:
      ValueError: if `min_ways` is not in `1..num_ways`; at trace time if `min_shots` is not in `1..num_shots`,
        or the tasks have no integer labels.

    Example:
      >>> import jax
      >>> from jmeta import tasks
      >>> sample = ragged(tasks.gaussian_blobs(num_ways=5, num_shots=3, num_queries=2), num_ways=5)
      >>> sample(jax.random.key(0)).support.mask.shape
      (15,)

    Reference:
      Triantafillou et al., "Meta-Dataset", 2020, arXiv:1903.03096, section 3 (tasks of varying ways and shots, with
      another distribution of sizes).
    """
    check_positive({"num_ways": num_ways, "min_ways": min_ways, "min_shots": min_shots})
    if min_ways > num_ways:
        raise ValueError(f"min_ways={min_ways} exceeds num_ways={num_ways}; lower it")
    draw = _Ragged(num_ways, min_ways, min_shots)
    return Partial(draw, as_partial(sample))


@dataclass(frozen=True)
class _Ragged:
    num_ways: int
    min_ways: int
    min_shots: int

    def __call__(self, sample: Partial, key: RandomKey) -> Task:
        key_task, key_ways, key_shots = jax.random.split(key, 3)
        task = sample(key_task)
        _check_labels(task)
        num_shots = task.support.y.shape[0] // self.num_ways
        if self.min_shots > num_shots:
            raise ValueError(
                f"min_shots={self.min_shots}, but the tasks have {num_shots} shots of each class; lower it"
            )
        ways = jax.random.randint(key_ways, (), self.min_ways, self.num_ways + 1)
        shots = jax.random.randint(key_shots, (self.num_ways,), self.min_shots, num_shots + 1)
        is_class = jax.nn.one_hot(task.support.y, self.num_ways, dtype=jnp.int32)
        rank = jnp.take_along_axis(jnp.cumsum(is_class, 0), task.support.y[:, None], axis=1)[
            :, 0
        ]  # 1, 2, ... in a class
        support = _keep(task.support, (task.support.y < ways) & (rank <= shots[task.support.y]))
        return Task(support, _keep(task.query, task.query.y < ways), task.progress)


def _check_labels(task: Task) -> None:
    """Refuse tasks that are not classification, such as regression."""
    for name, y in (("support", task.support.y), ("query", task.query.y)):
        if not hasattr(y, "ndim") or y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
            said = f"shape {y.shape} and dtype {y.dtype}" if hasattr(y, "ndim") else f"type {type(y).__name__}"
            raise ValueError(
                f"the {name}'s y has {said}; ragged tasks need one integer label for each example. For tasks of "
                "unequal size of another kind use pad_task"
            )


def _keep(batch: Batch, kept: Bool[Array, "examples"]) -> Batch:
    """Turn examples that are not kept into padding."""
    mask = kept if batch.mask is None else kept & batch.mask

    def blank(leaf: Shaped[Array, "examples ..."]) -> Shaped[Array, "examples ..."]:
        return jnp.where(mask.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.zeros((), leaf.dtype))

    x, y = jax.tree.map(blank, (batch.x, batch.y))
    return Batch(x, y, mask)


def _pad_batch(batch: Batch, total: int, name: str) -> Batch:
    present = jax.tree.leaves(batch.y)[0].shape[0]
    if not is_whole(total):
        raise ValueError(f"{name}={total}; expected an integer of at least 1")
    if present > total:
        raise ValueError(f"{name}={total}, but the task has {present} such examples; pass at least {present}")

    def pad(leaf: Shaped[Array | np.ndarray, "examples ..."]) -> PyTree:
        leaf = jnp.asarray(leaf)  # NumPy's int64 would ask for zeros that JAX does not have
        return jnp.concatenate([leaf, jnp.zeros((total - present, *leaf.shape[1:]), leaf.dtype)])

    mask = jnp.ones(present, bool) if batch.mask is None else batch.mask
    return Batch(*jax.tree.map(pad, (batch.x, batch.y, mask)))
