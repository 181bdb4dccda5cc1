"""Tasks for data that do not fit on the device: drawn and stacked on the host by Grain, a few batches ahead.

The device path (`few_shot`, `stacked`) is simpler, and faster if the data fit. This one reads single examples from
anything that can be indexed: a memory-mapped array, a TFDS data source, a list of files behind a function. Batch number
i depends only on the seed and on i, and the iterator's state can be saved and restored, so a resumed run sees the same
tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, Shaped

from ..types import Batch, Task
from .class_arrays import check_positive, check_values, examples_by_label, is_scaled, sampled_dtype

__all__ = ["host_fed"]


def host_fed(
    source: Sequence[Any] | np.ndarray,
    labels: Shaped[np.ndarray, "..."],
    *,
    num_ways: int,
    num_shots: int,
    num_queries: int,
    num_tasks: int,
    seed: int,
    own: range | None = None,
    get_image: Callable[[Any], Any] = np.asarray,
    scale: bool | None = None,
    num_threads: int = 2,
    prefetch: int = 4,
) -> Any:
    """Build an endless stream of stacked tasks, as NumPy arrays.

    Args:
      source: `source[i]` is example i.
      labels: the class of each example, any integer. Classes with fewer than `num_shots + num_queries` examples are
        left out.
      num_ways: classes in a task.
      num_shots: support examples of each class.
      num_queries: query examples of each class.
      num_tasks: tasks in a batch.
      seed: seed of all draws.
      own: the tasks of a batch to draw, for a process that needs no others; all if not given.
      get_image: turns `source[i]` into an array, or a pytree of arrays.
      scale: as in `few_shot`, and so are dtypes: images of uint8 or uint16 are scaled to [0, 1], integers are
        unchanged.
      num_threads: number of threads that read examples.
      prefetch: number of batches kept ready.

    Returns:
      A `grain.IterDataset` of `Task`s whose leaves have the tasks on their first axis. `iter()` returns an iterator
      with `get_state()` and `set_state(state)`; states are dictionaries of numbers, which Orbax can store.

    Raises:
      ValueError: if a number is not positive, `labels` are not one integer for each example, too few classes are large
        enough, or the first example's dtype cannot be sampled.
      ImportError: if Grain is not installed.

    Example:
      >>> import numpy as np
      >>> images = np.zeros((60, 8, 8, 1), np.uint8)
      >>> stream = host_fed(
      ...     images, np.arange(60) % 10, num_ways=5, num_shots=1, num_queries=2, num_tasks=4, seed=0, num_threads=0
      ... )
      >>> next(iter(stream)).query.x.shape
      (4, 10, 8, 8, 1)
    """
    sizes = {"num_ways": num_ways, "num_shots": num_shots, "num_queries": num_queries, "num_tasks": num_tasks}
    check_positive(sizes)
    if own is not None and not (own and own.step == 1 and 0 <= own.start < own.stop <= num_tasks):
        raise ValueError(f"own={own} of {num_tasks} tasks; expected a range of some of them")
    examples_of = tuple(examples_by_label(labels, len(source)))
    large_enough = tuple(of_class for of_class in examples_of if len(of_class) >= num_shots + num_queries)
    if len(large_enough) < num_ways:
        raise ValueError(
            f"num_ways={num_ways}, but only {len(large_enough)} of {len(examples_of)} classes have the "
            f"{num_shots + num_queries} examples that a task needs; lower num_ways, num_shots or num_queries"
        )
    for leaf in jax.tree.leaves(get_image(source[int(large_enough[0][0])])):
        check_values(np.asarray(leaf), np.shape(leaf), scale)
    try:
        import grain
    except ImportError as error:
        raise ImportError('the host-fed path takes Grain: pip install "jmeta[data]"') from error
    own = range(num_tasks) if own is None else own
    draw = _Draw(source, large_enough, num_ways, num_shots, num_queries, own, seed, get_image, scale)
    steps = grain.MapDataset.range(np.iinfo(np.int64).max).map(draw)
    return steps.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch))


@dataclass(frozen=True, eq=False)
class _Draw:
    """The draw of batch number `step`, a pure function of the seed and the step; each task has its own generator."""

    source: Sequence[Any] | np.ndarray
    examples_of: tuple[np.ndarray, ...]
    num_ways: int
    num_shots: int
    num_queries: int
    own: range
    seed: int
    get_image: Callable[[Any], Any]
    scale: bool | None

    def __call__(self, step: int) -> Task:
        tasks = [self.draw_task(np.random.default_rng([self.seed, step, index])) for index in self.own]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *tasks)

    def draw_task(self, rng: np.random.Generator) -> Task:
        classes = rng.choice(len(self.examples_of), self.num_ways, replace=False)
        num_each = self.num_shots + self.num_queries
        chosen = np.stack([rng.choice(self.examples_of[c], num_each, replace=False) for c in classes])
        return Task(self.read(chosen[:, : self.num_shots], rng), self.read(chosen[:, self.num_shots :], rng))

    def read(self, chosen: Int[np.ndarray, "ways each"], rng: np.random.Generator) -> Batch:
        order = rng.permutation(chosen.size)
        examples = [self.get_image(self.source[int(i)]) for i in chosen.reshape(-1)[order]]
        x = jax.tree.map(lambda *leaves: self.finish(np.stack(leaves)), *examples)
        return Batch(x, (order // chosen.shape[1]).astype(np.int32))

    def finish(self, x: np.ndarray) -> np.ndarray:
        """Scale and convert as `class_arrays.finish` does on the device."""
        if is_scaled(x.dtype, x.shape[1:], self.scale):
            x = x.astype(np.float32) / np.iinfo(x.dtype).max
        return x.astype(sampled_dtype(x.dtype))
