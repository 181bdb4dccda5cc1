"""The host's side of a run: dispatch, log, evaluate, keep the best, save, stop, go on.

All that a run depends on is in its `RunState`, and dispatches begin at multiples of `steps_per_dispatch` whether or not
the run was interrupted. So a run that is killed, at whatever moment, and started again computes the same programs on
the same numbers, and ends in the same bits: on one kind of device and one version of JAX, that is.
"""

import pathlib
import shlex
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs.parts import Training
from jmeta import checkpoints, tasks, training
from jmeta.evaluation import Estimate, estimate, per_task_metrics
from jmeta.training import MetaState
from jmeta.types import Aux, PyTree, RandomKey

from . import console, run_folder
from .build import Experiment
from .diagnosis import examine_step
from .sources import HostTasks


class RunState(NamedTuple):
    """What a run needs to go on: a pytree, and the content of its checkpoints.

    Attributes:
      meta: parameters, optimizer, step, counts of skipped steps.
      key: the run's; the keys of every step follow from it.
      sampler: of tasks that come from the host, where to go on; nothing where they are drawn on the device.
      best_meta_params: those with the best score on meta_valid so far.
      best_score: their score, higher is better; -inf before the first evaluation.
      best_step: their step.
      num_stale: evaluations since then.
    """

    meta: MetaState
    key: RandomKey
    sampler: dict[str, Any]
    best_meta_params: PyTree
    best_score: np.ndarray
    best_step: np.ndarray
    num_stale: np.ndarray


class DivergedError(console.StoppedError):
    """Too many meta-steps in a row had a loss or gradient that was not finite."""


def init_state(experiment: Experiment, seed: int) -> RunState:
    """The state of a run at step 0."""
    key_init, key_run = jax.random.split(jax.random.key(seed))
    # through the host: a restored state has no weak types either, and both must meet the same compiled program
    meta_params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), experiment.init(key_init))
    stream = experiment.source.meta_train
    return RunState(
        meta=experiment.trainer.init(meta_params),
        key=key_run,
        sampler=iter(stream.tasks).get_state() if isinstance(stream, HostTasks) else {},
        best_meta_params=meta_params,
        best_score=np.array(-np.inf),
        best_step=np.array(0),
        num_stale=np.array(0),
    )


def mean_metrics(aux: Aux) -> dict[str, float]:
    """The mean over the meta-steps of one dispatch that were not skipped, and how many were."""
    kept = np.asarray(aux["is_skipped"]) == 0
    names = [name for name, values in aux.items() if name != "is_skipped" and np.ndim(values) == 1]
    means = {name: np.asarray(aux[name], np.float64)[kept].mean() if kept.any() else np.nan for name in sorted(names)}
    return {name: float(mean) for name, mean in means.items()} | {"num_skipped": float((~kept).sum())}


def with_score(state: RunState, score: float) -> RunState:
    """The state after an evaluation on meta_valid: a new best, or one more without."""
    if not score > float(state.best_score):
        return state._replace(num_stale=state.num_stale + 1)
    copied = jax.tree.map(jnp.copy, state.meta.meta_params)  # the others are donated to the next dispatch
    step = np.array(int(state.meta.step))
    return state._replace(best_meta_params=copied, best_score=np.array(score), best_step=step, num_stale=np.array(0))


def is_finished(state: RunState, part: Training) -> bool:
    """Whether all steps are done, or meta_valid has seen no progress for too long."""
    is_stale = part.patience is not None and int(state.num_stale) >= part.patience
    return is_stale or int(state.meta.step) >= part.num_steps


def split_key(split: str) -> RandomKey:
    """The key that evaluation tasks of a split are drawn with: the same for every run, so that runs can be compared."""
    # not from a small seed: a run's own keys are split from those, and fold_in can meet them
    return jax.random.key({"meta_valid": 1_000_000_007, "meta_test": 1_000_000_009}[split])


def dispatcher(experiment: Experiment, part: Training, start: RunState) -> Callable[[RunState], tuple[RunState, Aux]]:
    """`state -> (state, aux)`: one dispatch of `steps_per_dispatch` meta-steps; the state given is used up."""
    stream, num_total_steps = experiment.source.meta_train, experiment.num_total_steps
    if not isinstance(stream, HostTasks):
        sample = tasks.stacked(stream, part.tasks_per_step)
        run = training.sampled_steps(
            experiment.trainer, num_steps=part.steps_per_dispatch, num_total_steps=num_total_steps
        )

        def on_device(state: RunState) -> tuple[RunState, Aux]:
            meta, aux = run(state.meta, sample, state.key)
            return state._replace(meta=meta), aux

        return on_device

    run_fed = training.fed_steps(experiment.trainer, num_total_steps=num_total_steps)
    batches = iter(stream.tasks)
    batches.set_state(start.sampler)

    def from_host(state: RunState) -> tuple[RunState, Aux]:
        steps = [next(batches) for _ in range(part.steps_per_dispatch)]
        meta, aux = run_fed(state.meta, jax.tree.map(lambda *leaves: np.stack(leaves), *steps), state.key)
        return state._replace(meta=meta, sampler=batches.get_state()), aux

    return from_host


def validator(experiment: Experiment, part: Training, tasks_at_once: int) -> Callable[[PyTree], dict[str, Estimate]]:
    """`meta_params -> estimates` on the fixed tasks of meta_valid, compiled once."""
    measure = per_task_metrics(experiment.learner, experiment.loss_fn)
    numbers = {"num_tasks": part.num_valid_tasks, "tasks_at_once": tasks_at_once}

    def validate(meta_params: PyTree) -> dict[str, Estimate]:
        measured, _ = measure(meta_params, experiment.source.meta_valid, split_key("meta_valid"), **numbers)
        return {name: estimate(values) for name, values in measured.items()}

    return validate


def run(
    experiment: Experiment, part: Training, folder: pathlib.Path, *, name: str = "run", tasks_at_once: int = 8
) -> RunState:
    """Meta-train to the end, from the latest checkpoint of `folder` if there is one.

    Args:
      experiment: what to compute.
      part: how long and how often; its seed makes the run's key.
      folder: the run's; held (see `run_folder.locked`) by the caller.
      name: shown with the progress.
      tasks_at_once: of an evaluation.

    Returns:
      The final state; its `best_meta_params` are the ones to use.

    Raises:
      ValueError: if numbers of steps are not multiples of `steps_per_dispatch`.
      DivergedError: after `max_skipped_in_a_row` skipped steps.
    """
    check_steps(part)
    state = init_state(experiment, part.seed)
    restored = checkpoints.restore(folder / "checkpoints", state)
    step, state = restored or (0, state)
    run_folder.record_session(folder, seed=part.seed, resumed_from=step)
    log = run_folder.MetricsLog(folder, last_step=step)
    try:
        with console.progress(name, start=step, total=part.num_steps) as progress:
            if step:
                progress.say(f"resumed from step {step}")
            return _steps(experiment, part, folder, state, log, progress, tasks_at_once)
    finally:
        log.close()


def check_steps(part: Training) -> None:
    """Raise `ValueError` unless numbers of steps are multiples of `steps_per_dispatch`."""
    unit = part.steps_per_dispatch
    numbers = {"num_steps": part.num_steps, "evaluate_every": part.evaluate_every}
    numbers |= {"checkpoint_every": part.checkpoint_every} if part.checkpoint_every is not None else {}
    for name, number in {"steps_per_dispatch": unit, **numbers}.items():
        if number < 1 or number % unit:
            raise ValueError(
                f"training.{name}={number}; expected a positive multiple of training.steps_per_dispatch={unit}, so "
                "that a resumed run dispatches the same steps together"
            )


def _steps(
    experiment: Experiment,
    part: Training,
    folder: pathlib.Path,
    state: RunState,
    log: run_folder.MetricsLog,
    progress: console.Progress,
    tasks_at_once: int,
) -> RunState:
    dispatch = dispatcher(experiment, part, state)
    validate = validator(experiment, part, tasks_at_once)
    while not is_finished(state, part):
        with console.compile_clock() as compiling:
            start = time.perf_counter()
            state, aux = dispatch(state)
            metrics = mean_metrics(jax.device_get(aux))
            seconds = time.perf_counter() - start - compiling.seconds
        step = int(state.meta.step)
        log.append(step, "meta_train", {**metrics, "seconds": seconds})
        progress.update(step, seconds, metrics)
        if int(state.meta.num_skipped_in_a_row) >= part.max_skipped_in_a_row:
            log.to_disk()
            raise DivergedError(_explain_divergence(experiment, state, folder))
        is_last = step >= part.num_steps
        is_evaluated = is_last or step % part.evaluate_every == 0
        if is_evaluated:
            state = _evaluate(experiment, state, validate, log, progress)
        if is_evaluated or (part.checkpoint_every and step % part.checkpoint_every == 0):
            log.to_disk()  # before the checkpoint: what it has seen must not be cut
            score = float(state.best_score) if is_evaluated and int(state.best_step) == step else None
            checkpoints.save(folder / "checkpoints", step, state, score=score, keep_last=part.keep_last)
    return state


def _evaluate(
    experiment: Experiment,
    state: RunState,
    validate: Callable[[PyTree], dict[str, Estimate]],
    log: run_folder.MetricsLog,
    progress: console.Progress,
) -> RunState:
    estimates = validate(state.meta.meta_params)
    score = estimates["accuracy"].mean if experiment.is_classification else -estimates["loss"].mean
    step = int(state.meta.step)
    state = with_score(state, score)
    intervals = {f"{name}_half_width": value.half_width for name, value in estimates.items()}
    log.append(step, "meta_valid", {name: value.mean for name, value in estimates.items()} | intervals)
    shown = "accuracy" if experiment.is_classification else "loss"
    best = "  (best)" if int(state.best_step) == step else ""
    progress.say(f"step {step}  meta_valid {shown} {estimates[shown]}{best}")
    return state


def _explain_divergence(experiment: Experiment, state: RunState, folder: pathlib.Path) -> str:
    """Save the state for a replay and say which tasks of the last step were at fault.

    Skipped steps change no parameters, so those at hand are the ones that the last step started from.
    """
    step, in_a_row = int(state.meta.last_skipped_step), int(state.meta.num_skipped_in_a_row)
    checkpoints.save(folder / "diverged", int(state.meta.step), state, keep_last=1)
    reports = examine_step(experiment, state.meta.meta_params, state.key, step)
    guilty = [report for report in reports if not report.is_finite]
    named = "; ".join(f"task {r.index} (key data {list(r.key_data)}, loss {r.loss:.4g})" for r in guilty[:3])
    more = f" and {len(guilty) - 3} more" if len(guilty) > 3 else ""
    command = shlex.join(["python", "-m", "experiments.replay", str(folder), "--step", str(step)])
    fault = (
        f"{len(guilty)} of its {len(reports)} tasks are at fault: {named}{more}" if guilty else "no task by itself is"
    )
    return (
        f"meta-steps {step - in_a_row + 1} to {step} were skipped, since their loss or gradient was not finite. "
        f"In step {step} {fault}. Look at it with: {command}"
    )
