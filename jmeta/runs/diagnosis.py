"""Examination of one meta-step, task by task: which of its tasks has a loss or a gradient that is not finite.

A step's tasks and keys follow from the run's key and the step's number. So any step can be examined again, given the
meta-parameters that it started from.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import tasks, training
from ..batching import count_tasks
from ..tasks import HostTasks
from ..types import PyTree, RandomKey
from .devices import own_tasks
from .experiment import Experiment

__all__ = ["TaskReport", "advice_on", "sample_step", "examine_step"]


class TaskReport(NamedTuple):
    """One task's contribution to a meta-step.

    Attributes:
      index: position in the batch of tasks.
      key_data: data of the key that the task was sampled with; empty for a task from the host, identified by step and
        index.
      loss: loss of its episode.
      grad_norm: norm of its meta-gradient.
      is_finite: whether the loss and the whole gradient are finite.
      is_input_finite: whether the sampled task itself is finite.
    """

    index: int
    key_data: tuple[int, ...]
    loss: float
    grad_norm: float
    is_finite: bool
    is_input_finite: bool


def advice_on(reports: list[TaskReport]) -> str:
    """Name the usual trap if some task has a finite loss and a gradient that is not finite; else return nothing."""
    if not any(math.isfinite(report.loss) and not report.is_finite for report in reports):
        return ""
    return (
        " A finite loss whose gradient is not finite is most often that of an inner optimizer which divides by a root "
        "or a norm (Adam, RMSProp, clipping): where an inner gradient is exactly zero, the meta-gradient is NaN; wrap "
        "the inner optimizer in safe_at_zero."
    )


def sample_step(experiment: Experiment, key: RandomKey, step: int) -> PyTree:
    """Return the stacked tasks of a meta-step, in the run with this key."""
    stream, num_tasks = experiment.meta_train, experiment.training.tasks_per_step
    if isinstance(stream, HostTasks):
        batches = iter(stream.open(own_tasks(experiment.sharing, num_tasks)))
        batches.set_state({"next_index": step})
        sampled = next(batches)
    else:
        key_tasks, _ = training.step_keys(key, step)
        sampled = tasks.stacked(stream, num_tasks)(key_tasks)
    if experiment.num_total_steps is None:
        return sampled
    return sampled._replace(progress=jnp.full(count_tasks(sampled), step / experiment.num_total_steps))


def examine_step(experiment: Experiment, meta_params: PyTree, key: RandomKey, step: int) -> list[TaskReport]:
    """Recompute the loss and gradient of each task of a meta-step, one task after another.

    If the hosts of several processes draw the tasks, only this process's tasks are examined. Without a gradient of one
    task (`Experiment.grad_fn`) there is no report.

    Args:
      experiment: the run's experiment.
      meta_params: the meta-parameters that the step started from.
      key: the run's key.
      step: the step's number, from 0.
    """
    grad_fn = experiment.grad_fn
    if grad_fn is None:
        return []
    key_tasks, key_update = training.step_keys(key, step)
    is_from_host = isinstance(experiment.meta_train, HostTasks)
    num_tasks = experiment.training.tasks_per_step
    own = own_tasks(experiment.sharing if is_from_host else None, num_tasks)
    task_keys = jax.random.split(key_tasks, num_tasks)
    update_keys = jax.random.split(key_update, num_tasks)[own.start : own.stop]

    @jax.jit
    def examine(task_and_key: tuple[PyTree, RandomKey]) -> tuple[jax.Array, ...]:
        task, key = task_and_key
        (loss, _), grads = grad_fn(meta_params, task, key)
        return loss, optax.tree.norm(grads), training.all_finite((loss, grads)), training.all_finite(task)

    stacked = sample_step(experiment, key, step)
    results = jax.device_get(jax.lax.map(examine, (stacked, update_keys)))
    key_data = [[] for _ in task_keys] if is_from_host else np.asarray(jax.random.key_data(task_keys)).tolist()
    return [TaskReport(i, tuple(key_data[i]), *(value[i - own.start].item() for value in results)) for i in own]
