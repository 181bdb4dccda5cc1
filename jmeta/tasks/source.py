"""The source of an experiment's tasks: samplers of the three splits, and the words that accompany its numbers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax.tree_util import Partial

from ..types import Task

__all__ = ["HostTasks", "Source"]


class HostTasks(NamedTuple):
    """Training tasks that the host draws, for data that do not fit on the device.

    Attributes:
      open: `own -> stream`: an endless stream of stacked tasks, as `host_fed` returns; of each meta-step's tasks, those
        in the range `own`, which are the ones that this process computes with.
    """

    open: Callable[[range], Any]


class Source(NamedTuple):
    """The tasks of an experiment, split by split.

    Attributes:
      meta_train: returns the sampler of training tasks, `key -> Task`, or `HostTasks`. It is called when training tasks
        are needed: what is tested in another way than it was trained need not be able to train in that way.
      meta_valid: sampler of the tasks that models are chosen by.
      meta_test: sampler of the tasks that models are tested on.
      name: short, for progress and titles, such as `"glyphs/glyphs 5-way 1-shot"`.
      describe: `num_tasks -> protocol`: how so many tasks of meta_test are drawn, in words; every number carries them.
      describe_valid: the same of meta_valid, where its tasks are drawn otherwise; `describe` if not given.
      num_test_tasks: tasks of meta_test that a number is the mean over, if not said otherwise.
      split_hash: identifies which class is in which split; `None` where there are no classes.
      seen_classes: names of the classes that training or choosing a model sees.
      test_classes: names of the classes of meta_test; none of them may be a seen one.
      record: the data behind the tasks and their preparation, as JSON; a run stores it. `None` where the name says it
        all.
      placeholder: a task of the right shapes, where the data are not there: a trained run is loaded by it, and every
        sampler raises an error. `None` where the data are there.

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
