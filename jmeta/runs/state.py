"""The state of a run as one pytree: the content of a checkpoint, and all that a stopped run needs to resume."""

import math
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import checkpoints
from ..sharding import shardings_of
from ..tasks import HostTasks
from ..training import MetaState
from ..types import PyTree, RandomKey
from . import files
from .devices import own_tasks
from .experiment import Experiment, Training

__all__ = ["RunState", "init_state", "start_state", "host_stream_state", "check_memory", "with_score", "is_finished"]


class _Best(NamedTuple):
    """The part of a `RunState`, by the same names, that another run may start from."""

    best_meta_params: PyTree
    best_score: np.ndarray


class RunState(NamedTuple):
    """The state of a run: a pytree, and the content of its checkpoints.

    Attributes:
      meta: parameters, optimizer, step, counts of skipped steps.
      key: the run's key; the keys of every step follow from it.
      sampler: position in the stream of tasks from the host; empty where tasks are drawn on the device.
      best_meta_params: the meta-parameters with the best score on meta_valid so far.
      best_score: their score, higher is better; -inf before the first evaluation.
      best_step: the step of that evaluation.
      num_stale: number of evaluations since then.
    """

    meta: MetaState
    key: RandomKey
    sampler: dict[str, Any]
    best_meta_params: PyTree
    best_score: np.ndarray
    best_step: np.ndarray
    num_stale: np.ndarray


def init_state(experiment: Experiment, seed: int) -> RunState:
    """Return the state of a run at step 0, on the devices that share its tasks.

    Raises:
      ValueError: if the parameters are larger than the machine's memory, as recorded options from elsewhere may make
        them.
    """
    key_init, key_run = jax.random.split(jax.random.key(seed))
    _check_parameters(experiment)
    return _state_at_step_0(experiment, experiment.init_fn(key_init), key_run)


def start_state(experiment: Experiment, seed: int) -> RunState:
    """Return the state that a run begins with: `init_state`, or that of its `training.warm_start`.

    Raises:
      ValueError: if there is no run in the folder to start from, it never had a finite score, or its parameters are
        others; as `init_state`.
    """
    named = experiment.training.warm_start
    if named is None:
        return init_state(experiment, seed)
    key_init, key_run = jax.random.split(jax.random.key(seed))
    shapes = jax.eval_shape(experiment.init_fn, key_init)
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    folder = files.named_by_user(pathlib.Path(named)) / "checkpoints"
    try:
        found = checkpoints.restore_part(folder, _Best(like, np.zeros(())), best=True)
    except ValueError as error:
        raise ValueError(f"training.warm_start={named}: {error}") from None
    if found is None:
        raise ValueError(
            f"training.warm_start={named}: there are no checkpoints of a run; pass the folder of one seed's run, such "
            "as runs/NAME/seed_0"
        )
    if not np.isfinite(found[1].best_score):
        raise ValueError(
            f"training.warm_start={named}: that run never had a finite score on meta_valid, so it has no best "
            "parameters; name another"
        )
    return _state_at_step_0(experiment, found[1].best_meta_params, key_run)


def _state_at_step_0(experiment: Experiment, meta_params: PyTree, key_run: RandomKey) -> RunState:
    # through the host: a restored state has no weak types either, and both must meet the same compiled program
    meta_params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), meta_params)
    init, key = experiment.trainer.init, key_run
    if experiment.sharing is not None:
        meta_params = experiment.sharing.place(meta_params)
        # a sharded state is larger than the parameters, and no device holds the whole of it
        shardings = shardings_of(jax.eval_shape(init, meta_params), experiment.sharing.mesh)
        init, key = jax.jit(init, out_shardings=shardings), experiment.sharing.replicate(key)
    return RunState(
        meta=init(meta_params),
        key=key,
        sampler=host_stream_state(experiment),
        best_meta_params=meta_params,
        best_score=np.array(-np.inf),
        best_step=np.array(0),
        num_stale=np.array(0),
    )


def host_stream_state(experiment: Experiment) -> dict[str, Any]:
    """Return the start of a stream of tasks from the host; empty where tasks are drawn on the device."""
    if not isinstance(experiment.meta_train, HostTasks):
        return {}
    own = own_tasks(experiment.sharing, experiment.training.tasks_per_step)
    return iter(experiment.meta_train.open(own)).get_state()


def check_memory(experiment: Experiment) -> None:
    """Raise `ValueError` if the parameters, or the tasks of one meta-step, are larger than the machine's memory."""
    _check_parameters(experiment)
    if not isinstance(experiment.meta_train, HostTasks):
        task = jax.eval_shape(experiment.meta_train, jax.random.key(0))
        num_tasks = experiment.training.tasks_per_step
        advice = "lower training.tasks_per_step"
        _check_size(f"the {num_tasks} tasks of a meta-step", task, num_tasks / jax.process_count(), advice)


def _check_parameters(experiment: Experiment) -> None:
    shapes = jax.eval_shape(experiment.init_fn, jax.random.key(0))
    _check_size("the parameters", shapes, 1, "choose a smaller network")


def _check_size(what: str, shapes: PyTree, count: int | float, advice: str) -> None:
    num_bytes = count * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > there:
        raise ValueError(
            f"{what} would take {num_bytes / 1e9:.0f} GB, more than this machine's memory of {there / 1e9:.0f} GB; "
            f"{advice}"
        )


def with_score(state: RunState, score: float) -> RunState:
    """Return the state after an evaluation on meta_valid: a new best, or one more stale evaluation."""
    if not score > float(state.best_score):
        return state._replace(num_stale=state.num_stale + 1)
    copied = jax.tree.map(jnp.copy, state.meta.meta_params)  # the originals are donated to the next dispatch
    step = np.array(int(state.meta.step))
    return state._replace(best_meta_params=copied, best_score=np.array(score), best_step=step, num_stale=np.array(0))


def is_finished(state: RunState, training: Training) -> bool:
    """Return whether all steps are done, or meta_valid has seen no progress for too long."""
    is_stale = training.patience is not None and int(state.num_stale) >= training.patience
    return is_stale or int(state.meta.step) >= training.num_steps
