"""The source of an experiment's tasks: samplers of the three splits, and the words that accompany its numbers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax.tree_util import Partial

from ..types import Task

__all__ = ["HostTasks", "Source"]


class HostTasks(NamedTuple):
    """Training tasks that the host draws, for data that do not fit on the device.

    Attributes:
      open: `own -> stream`: an endless stream of stacked tasks, as `host_fed` returns. From each meta-step's tasks it
        has those in the range `own`, which this process computes with.
    """

    open: Callable[[range], Any]


class Source(NamedTuple):
    """The tasks of an experiment, split by split.

    Attributes:
      meta_train: returns the sampler of training tasks, `key -> Task`, or `HostTasks`. It is called only when training
        tasks are needed: an evaluation with other options need not be able to train with them.
      meta_valid: sampler of the tasks that select models.
      meta_test: sampler of the tasks that test models.
      name: short name for progress and titles, such as `"glyphs/glyphs 5-way 1-shot"`.
      describe: `num_tasks -> protocol`: the words that describe the drawing of this many tasks of meta_test; every
        result carries them.
      describe_valid: the same for meta_valid, if its tasks are drawn differently; `describe` if not given.
      num_test_tasks: default number of meta_test tasks that a result is the mean over.
      split_hash: identifies the split of the classes; `None` where there are no classes.
      seen_classes: names of the classes that training or model selection sees.
      test_classes: names of the classes of meta_test; none of them may be a seen one.
      record: the data behind the tasks and their preparation, as JSON, for a run to store. `None` where the name is
        sufficient.
      placeholder: a task with the right shapes, if the data are missing: a trained run loads with it, and every sampler
        raises an error. `None` if the data are there.

    Example:
      >>> from jmeta import tasks
      >>> sample = tasks.sinusoid(num_shots=10, num_queries=10)
      >>> source = Source(
      ...     meta_train=lambda: sample,
      ...     meta_valid=sample,
      ...     meta_test=sample,
      ...     name="sinusoid 10-shot",
      ...     describe=lambda num_tasks: f"sinusoid 10-shot, 10 queries, {num_tasks} tasks",
      ... )
      >>> source.describe(1000)
      'sinusoid 10-shot, 10 queries, 1000 tasks'
    """

    meta_train: Callable[[], Partial | HostTasks]
    meta_valid: Partial
    meta_test: Partial
    name: str
    describe: Callable[[int], str]
    describe_valid: Callable[[int], str] | None = None
    num_test_tasks: int = 1000
    split_hash: str | None = None
    seen_classes: frozenset[str] = frozenset()
    test_classes: frozenset[str] = frozenset()
    record: Mapping[str, Any] | None = None
    placeholder: Task | None = None
