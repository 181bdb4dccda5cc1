"""Per-task scalars of many tasks: a few tasks in one `vmap`, repeated."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Key

from ..calibration import Reliability
from ..episodes import task_without_padding
from ..losses import checked_loss
from ..tasks.few_shot import as_partial
from ..types import Aux, ChunkMap, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task

__all__ = [
    "evaluation_episode",
    "scalars",
    "scalars_and_sums",
    "map_on_one_device",
    "ONE_DEVICE",
    "per_task_values",
    "per_task",
    "check_numbers",
    "keys_of_dispatches",
    "draw_stacked",
]


def evaluation_episode(learner: Learner, loss_fn: LossFn) -> EpisodeFn:
    """Build the episode that evaluates a learner: adapt to the support with a key, predict the query without one.

    Args:
      learner: the learner, with the number of inner steps to test; its `episode` is ignored.
      loss_fn: `(outputs, batch) -> (loss, aux)`.

    Returns:
      The episode function `(meta_params, task, key) -> (loss, aux)` of one task. It differs from `jmeta.plain_episode`,
      which trains, in that prediction is deterministic (no dropout).

    Raises:
      ValueError: at trace time, if `loss_fn` returns anything but a scalar and a dictionary.

    Example:
      >>> import jax, jmeta
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> episode_fn = evaluation_episode(jmeta.learners.nearest_mean(num_ways=5), jmeta.losses.cross_entropy)
      >>> loss, aux = episode_fn({}, task, jax.random.key(1))
      >>> sorted(aux)
      ['accuracy']
    """

    def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
        task = task_without_padding(task)
        adapted = learner.adapt(meta_params, task.support, key)
        outputs = learner.predict(meta_params, adapted, task.query.x, None)
        return checked_loss(loss_fn(outputs, task.query), "what loss_fn returns")

    return episode_fn


def scalars(value: Any, source: str) -> Aux:
    """Return the scalars of an episode's or a loss's `aux` by name, with the loss as `"loss"`; errors name `source`."""
    reported = scalars_and_sums(value, source)
    return {name: value for name, value in reported.items() if not isinstance(value, Reliability)}


def scalars_and_sums(value: Any, source: str) -> Aux:
    """Return what `scalars` does, and each `Reliability` of `aux`: sums, which those of all tasks are added to."""
    loss, aux = checked_loss(value, source)
    is_reported = lambda value: isinstance(value, Reliability) or jnp.ndim(value) == 0  # noqa: E731
    return {**{name: value for name, value in aux.items() if is_reported(value)}, "loss": loss}


def map_on_one_device(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Map a function over the chunks of a dispatch, one after another; see `jmeta.types.ChunkMap`."""

    @jax.jit
    def on_drawn(meta_params: PyTree, tasks: PyTree, keys_of: Partial, dispatch: Array) -> PyTree:
        results = jax.lax.map(lambda chunk: fn(meta_params, *chunk), (tasks, keys_of(dispatch)[..., 1]))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)

    return lambda params, sample, keys_of, i: on_drawn(params, draw_stacked(sample, keys_of, i), keys_of, i)


ONE_DEVICE = ChunkMap(map_on_one_device, num_at_once=1, to_local=lambda tree: tree)
"""The chunk map that computes chunks of tasks one after another, on the default device."""


def per_task_values(episode_fn: EpisodeFn, *, chunk_map: ChunkMap = ONE_DEVICE) -> Callable[..., dict[str, np.ndarray]]:
    """Build the function under `evaluate`, which is compiled once and called often; it returns every task's scalars.

    Args:
      episode_fn: `(meta_params, task, key) -> (loss, aux)`, such as `evaluation_episode(learner, loss_fn)`.
      chunk_map: as for `evaluate`.

    Returns:
      `measure(meta_params, sample, key, *, num_tasks, tasks_at_once=1) -> values`: the loss and every scalar of `aux`
      by name, `[num_tasks]` float64. It raises `ValueError` if a number is not positive.

    Example:
      >>> import jax
      >>> measure = per_task_values(lambda meta_params, task, key: (task, {"doubled": 2 * task}))
      >>> values = measure({}, jax.random.normal, jax.random.key(0), num_tasks=20, tasks_at_once=8)
      >>> values["doubled"].shape
      (20,)
    """

    def one_task(meta_params: PyTree, task: PyTree, key: RandomKey) -> Aux:
        return scalars(episode_fn(meta_params, task, key), "what episode_fn returns")

    return per_task(one_task, chunk_map)


def per_task(one_task: Callable[[PyTree, PyTree, RandomKey], PyTree], chunk_map: ChunkMap) -> Callable[..., Any]:
    """Build `measure`, as `per_task_values` does, from a function that returns a tree of arrays for one task."""
    on_chunks = chunk_map.map(jax.vmap(one_task, in_axes=(None, 0, 0)))

    def measure(
        meta_params: PyTree,
        sample: Callable[[RandomKey], PyTree],
        key: RandomKey,
        *,
        num_tasks: int,
        tasks_at_once: int = 1,
    ) -> Any:
        check_numbers(num_tasks, tasks_at_once)
        sample = as_partial(sample)
        keys_of, num_dispatches = keys_of_dispatches(key, num_tasks, tasks_at_once, chunk_map.num_at_once)
        results = [on_chunks(meta_params, sample, keys_of, np.int32(i)) for i in range(num_dispatches)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_tasks].astype(np.float64), *results)

    return measure


def check_numbers(num_tasks: Any, tasks_at_once: Any, *, least: int = 1) -> None:
    """Raise `ValueError` unless both are whole numbers, `num_tasks` at least `least` and `tasks_at_once` at least 1."""
    for number, smallest in ((num_tasks, least), (tasks_at_once, 1)):
        is_whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
        if not is_whole or number < smallest:
            why = ", since an interval needs two" if least == 2 else ""
            raise ValueError(
                f"num_tasks={num_tasks!r} and tasks_at_once={tasks_at_once!r}; expected whole numbers, the first at "
                f"least {least}{why}, the second at least 1"
            )


# One dispatch reuses its memory from chunk to chunk. Fresh pages for every chunk cost a CPU more than the arithmetic.
_CHUNKS_PER_DISPATCH = 16


def keys_of_dispatches(key: RandomKey, num_tasks: int, tasks_at_once: int, chunks_at_once: int) -> tuple[Partial, int]:
    """Return the keys of the tasks, dispatch by dispatch, and the number of dispatches.

    All dispatches have one shape, so that one program serves all: the last is padded, and the padding dropped.

    Returns:
      `keys_of`, whose leaves are the numbers of the keys, and `num_dispatches`; `keys_of(dispatch)` has the shape
      `[chunks, tasks, 2]`: for each task, the key that draws it and the key that adapts to it.
    """
    each = min(_CHUNKS_PER_DISPATCH, -(-num_tasks // (tasks_at_once * chunks_at_once)))
    shape = (each * chunks_at_once, tasks_at_once)
    num_dispatches = -(-num_tasks // math.prod(shape))
    numbers = _key_numbers(key, num_tasks, (num_dispatches, *shape))
    return Partial(_KeysOf(jax.random.key_impl(key)), numbers), num_dispatches


@dataclass(frozen=True)
class _KeysOf:
    impl: Any

    def __call__(self, numbers: Array, dispatch: Any) -> Key[Array, "chunks tasks two"]:
        return jax.random.wrap_key_data(numbers[dispatch], impl=self.impl)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _key_numbers(key: RandomKey, num_tasks: int, shape: tuple[int, ...]) -> Array:
    key = jax.random.clone(key)  # using one key for several learners is intended
    keys = jax.vmap(jax.random.split)(jax.random.split(key, num_tasks))
    return jax.random.key_data(keys)[np.arange(math.prod(shape)).reshape(shape) % num_tasks]


@jax.jit
def draw_stacked(sample: Partial, keys_of: Partial, dispatch: Any) -> PyTree:
    """Draw the tasks of one dispatch, `[chunks, tasks]`, by the first key of each pair.

    This is a separate program, so that all learners share it: samplers can be slow to compile.
    """
    return jax.lax.map(jax.vmap(sample), keys_of(dispatch)[..., 0])  # one chunk is quicker to compile than all
