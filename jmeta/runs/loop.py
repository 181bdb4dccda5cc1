"""The host's side of a run: dispatch, log, evaluate, keep the best, save, stop, resume.

A run depends only on its `RunState`, and dispatches begin at multiples of `steps_per_dispatch` whether or not the run
was interrupted. So a run that is killed at any moment and started again computes the same programs on the same numbers
and ends with the same bits, given the same kind of device, the same version of JAX and the same seeds trained with it.
Several seeds may share their dispatches; everything else is separate for each.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from .. import checkpoints
from ..checkpoints.cluster import Operation
from ..evaluation import ONE_DEVICE, Estimate, estimate, evaluation_episode, per_task_values
from ..sharding import to_local_device
from ..tasks.few_shot import as_partial
from ..types import Aux, Learner, PyTree, RandomKey
from . import console, files, processes, terminal
from .diagnosis import TaskReport, advice_on, examine_step
from .dispatch import dispatcher
from .experiment import Experiment, Training, check_steps
from .folder import record_session
from .log import MetricsLog, NoLog
from .state import RunState, init_state, is_finished, start_state, with_score

__all__ = [
    "DivergedError",
    "never",
    "mean_metrics",
    "split_key",
    "valid_protocol",
    "inner_steps",
    "validator",
    "run",
    "run_seeds",
]


class DivergedError(console.StoppedError):
    """Too many meta-steps in a row had a loss, gradient or result that was not finite."""


def never() -> bool:
    """Return False: nobody asks this run to stop."""
    return False


def mean_metrics(aux: Aux, training_names: Mapping[str, str]) -> dict[str, float]:
    """Return the mean over a dispatch's meta-steps that were not skipped, and the number skipped; see `Experiment`."""
    kept = np.asarray(aux["is_skipped"]) == 0
    aux = {training_names.get(name, name): values for name, values in aux.items()}
    names = [name for name, values in aux.items() if name != "is_skipped" and np.ndim(values) == 1]
    means = {name: np.asarray(aux[name], np.float64)[kept].mean() if kept.any() else np.nan for name in sorted(names)}
    return {name: float(mean) for name, mean in means.items()} | {"num_skipped": float((~kept).sum())}


def split_key(split: str) -> RandomKey:
    """Return the key that draws a split's evaluation tasks: the same for every run, so that runs can be compared."""
    # not from a small seed: a run's own keys are split from small seeds, and fold_in can produce the same keys
    return jax.random.key({"meta_valid": 1_000_000_007, "meta_test": 1_000_000_009}[split])


def valid_protocol(experiment: Experiment) -> str:
    """Return the protocol of meta_valid results: how tasks are drawn, and from what the learner predicts."""
    steps = "" if experiment.num_test_steps is None else f", {inner_steps(experiment.num_test_steps)}"
    together = ", all queries of a task together" if isinstance(experiment.tested, Learner) else ""
    describe = experiment.source.describe_valid or experiment.source.describe
    return f"{describe(experiment.training.num_valid_tasks)}, of meta_valid{steps}{together}"


def inner_steps(num_steps: int) -> str:
    """Return the number of inner steps in words."""
    return "1 inner step" if num_steps == 1 else f"{num_steps} inner steps"


def validator(experiment: Experiment) -> Callable[[PyTree], dict[str, Estimate]]:
    """Build `meta_params -> estimates` on the fixed tasks of meta_valid, compiled once."""
    tested, sharing = experiment.tested, experiment.sharing
    if isinstance(tested, Learner):
        assert experiment.loss_fn is not None
        tested = evaluation_episode(tested, experiment.loss_fn)
    measure = per_task_values(tested, chunk_map=ONE_DEVICE if sharing is None else sharing.chunk_map)
    training, testing = experiment.training, experiment.testing
    numbers = {"num_tasks": training.num_valid_tasks, "tasks_at_once": testing.tasks_at_once}
    sample = as_partial(experiment.source.meta_valid)
    sample = sample if sharing is None else sharing.replicate(sample)

    def validate(meta_params: PyTree) -> dict[str, Estimate]:
        measured = measure(meta_params, sample, split_key("meta_valid"), **numbers)
        return {name: estimate(values) for name, values in measured.items()}

    return validate


def run(
    experiment: Experiment,
    folder: pathlib.Path,
    *,
    name: str = "run",
    is_preempted: Callable[[], bool] = never,
) -> RunState:
    """Meta-train to the end, from the latest checkpoint of `folder` if there is one.

    Args:
      experiment: the experiment; the seed of its training makes the run's key.
      folder: the run's folder; the caller holds it (see `folder.locked`).
      name: shown with the progress.
      is_preempted: called after every dispatch, by all processes of a job; True in all of them if they are to save and
        stop.

    Returns:
      The final state; its `best_meta_params` are the ones to use.

    Raises:
      ValueError: if numbers of steps are not multiples of `steps_per_dispatch`.
      DivergedError: after `max_skipped_in_a_row` skipped steps.
      processes.PreemptedError: after saving, if the run was asked to stop.
    """
    seed = experiment.training.seed
    return run_seeds(experiment, {seed: folder}, name=name, is_preempted=is_preempted)[seed]


def run_seeds(
    experiment: Experiment,
    folders: Mapping[int, pathlib.Path],
    *,
    name: str = "run",
    is_preempted: Callable[[], bool] = never,
) -> dict[int, RunState]:
    """Meta-train several seeds at the same time, each as `run` trains one, dispatched together (see `dispatcher`).

    Every seed has its own log, evaluations, early stop, best parameters and checkpoints in its own folder, and resumes
    from its own latest checkpoint. A seed that has stopped keeps its place until all have, so that nothing is compiled
    again and the others keep the bits that they would have had.

    Args:
      experiment: the experiment; the seed of its training is not used, unless tasks come from the host.
      folders: the folder of each seed's run, by seed.
      name, is_preempted: as for `run`.

    Returns:
      The final state of each seed, by seed.

    Raises:
      ValueError: as for `run` and `dispatcher`.
      DivergedError: if any seed had too many skipped steps, after the others have finished.
      processes.PreemptedError: after all have saved, if the run was asked to stop.
    """
    training = experiment.training
    check_steps(training)
    runs = []
    with contextlib.ExitStack() as open_files:
        for seed, folder in folders.items():
            one = _SeedRun.opened(experiment, seed, folder, tuple(folders))
            runs.append(one)
            open_files.callback(one.log.close)
            open_files.enter_context(one.saver)
        start = min(int(one.state.meta.step) for one in runs)
        is_quiet = not processes.is_main()
        with console.progress(name, start=start, total=training.num_steps, is_quiet=is_quiet) as progress:
            for one in runs:
                one.tell_of_resuming(progress, training)
            progress.say(f"models are chosen by {valid_protocol(experiment)}")
            _steps(experiment, runs, progress, is_preempted)
    if diverged := [one.prefix + one.divergence for one in runs if one.divergence]:
        raise DivergedError("\n".join(diverged))
    return {one.seed: one.state for one in runs}


@dataclasses.dataclass(eq=False)
class _SeedRun:
    """One of the seeds that are trained at the same time: its state and the places it writes to."""

    seed: int
    folder: pathlib.Path
    state: RunState
    log: MetricsLog | NoLog
    saver: checkpoints.AsyncSaver
    prefix: str
    changes: str
    saved_step: int
    divergence: str = ""

    @classmethod
    def opened(
        cls,
        experiment: Experiment,
        seed: int,
        folder: pathlib.Path,
        trained_together: tuple[int, ...],
    ) -> "_SeedRun":
        """Open a run at its latest checkpoint, or at step 0; only the main process writes more than checkpoints."""
        state = init_state(experiment, seed)
        restored = checkpoints.restore(folder / "checkpoints", state)
        if restored is None and experiment.training.warm_start is not None:
            state = start_state(experiment, seed)
        step, state = restored or (0, state)
        changes, log = "", NoLog()
        with processes.agreed("open the logs"):
            if processes.is_main():
                changes = record_session(
                    folder,
                    seed=seed,
                    resumed_from=step,
                    trained_together=list(trained_together),
                    has_blocks=experiment.sharing is not None and experiment.sharing.num_blocks is not None,
                )
                log = MetricsLog(folder, last_step=step)
        prefix = f"seed {seed}: " if len(trained_together) > 1 else ""
        saver = checkpoints.AsyncSaver(folder / "checkpoints", keep_last=experiment.training.keep_last)
        return cls(seed, folder, state, log, saver, prefix, changes, saved_step=step)

    def save(self, score: float | None) -> None:
        """Begin a checkpoint, after everything logged so far is on disk."""
        with processes.agreed("write the logs"):
            self.log.to_disk()
        self.saved_step = int(self.state.meta.step)
        self.saver.save(self.saved_step, self.state, score=score)

    def is_going(self, training: Training) -> bool:
        return not self.divergence and not is_finished(self.state, training)

    def tell_of_resuming(self, progress: console.Progress, training: Training) -> None:
        if step := int(self.state.meta.step):
            progress.say(f"{self.prefix}resumed from step {step}")
            if self.changes and self.is_going(training):
                progress.say(
                    f"{self.prefix}warning: since the last session {self.changes}; so the run may end in other bits "
                    "than one that was never stopped"
                )


def _steps(
    experiment: Experiment, runs: list[_SeedRun], progress: console.Progress, is_preempted: Callable[[], bool]
) -> None:
    dispatch = dispatcher(experiment, [one.state for one in runs])
    validate = validator(experiment)
    while going := [one for one in runs if one.is_going(experiment.training)]:
        with console.compile_clock() as compiling:
            start = time.perf_counter()
            results = dispatch([one.state for one in runs])
            auxes = jax.device_get([aux for _, aux in results])
            seconds = time.perf_counter() - start - compiling.seconds
        metrics = {}
        for one, (state, _), aux in zip(runs, results, auxes, strict=True):
            if one in going:
                one.state, metrics[one.seed] = state, mean_metrics(aux, experiment.training_names)
                # its share, so that the seeds' times sum to the elapsed time
                seconds_each = {"seconds": seconds / len(going)}
                one.log.append(int(state.meta.step), "meta_train", {**metrics[one.seed], **seconds_each})
        mean = {name: float(np.mean([each[name] for each in metrics.values()])) for name in metrics[going[0].seed]}
        progress.update(min(int(one.state.meta.step) for one in going), seconds, mean)
        for one in going:
            _after_dispatch(experiment, one, validate, progress)
        terminal.raise_if_interrupted()
        if is_preempted():
            _leave(runs)


def _leave(runs: list[_SeedRun]) -> None:
    for one in runs:
        if not one.divergence and one.saved_step < int(one.state.meta.step):
            one.save(None)
        one.saver.wait()
    steps = sorted({int(one.state.meta.step) for one in runs})
    where = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    raise processes.PreemptedError(f"asked to leave; saved at {where}, and the same command goes on from there")


def _after_dispatch(
    experiment: Experiment,
    one: _SeedRun,
    validate: Callable[[PyTree], dict[str, Estimate]],
    progress: console.Progress,
) -> None:
    """Evaluate and save a seed when it is due; give it up when it diverges."""
    step, training = int(one.state.meta.step), experiment.training
    if int(one.state.meta.num_skipped_in_a_row) >= training.max_skipped_in_a_row:
        with processes.agreed("write the logs"):
            one.log.to_disk()
        one.divergence = _explain_divergence(experiment, one.state, one.folder)
        return
    is_evaluated = step >= training.num_steps or step % training.evaluate_every == 0
    if is_evaluated:
        _evaluate(experiment, one, validate, progress)
    if is_evaluated or (training.checkpoint_every and step % training.checkpoint_every == 0):
        one.save(float(one.state.best_score) if is_evaluated and int(one.state.best_step) == step else None)


def _evaluate(
    experiment: Experiment,
    one: _SeedRun,
    validate: Callable[[PyTree], dict[str, Estimate]],
    progress: console.Progress,
) -> None:
    estimates = validate(one.state.meta.meta_params)
    shown = experiment.metric
    if shown not in estimates:
        raise ValueError(f"models are chosen by the metric {shown!r}, but an evaluation has {', '.join(estimates)}")
    score = -estimates[shown].mean if shown == "loss" else estimates[shown].mean
    step = int(one.state.meta.step)
    one.state = with_score(one.state, score)
    intervals = {f"{name}_half_width": value.half_width for name, value in estimates.items()}
    measured = {name: value.mean for name, value in estimates.items()} | intervals
    one.log.append(step, "meta_valid", measured, protocol=valid_protocol(experiment))
    best = "  (best)" if int(one.state.best_step) == step else ""
    of = experiment.source.name
    progress.say(f"{one.prefix}step {step}  meta_valid {shown} {estimates[shown]}, {of}{best}")


def _explain_divergence(experiment: Experiment, state: RunState, folder: pathlib.Path) -> str:
    """Save the state for a replay and name the tasks of the last step that were at fault.

    Skipped steps change no parameters, so the current ones are those that the last step started from.
    """
    step, in_a_row = int(state.meta.last_skipped_step), int(state.meta.num_skipped_in_a_row)
    skipped = (
        f"meta-steps {step - in_a_row + 1} to {step} were skipped, since their loss, their gradient or what it would "
        "have led to was not finite."
    )
    checkpoints.save(folder / "diverged", int(state.meta.step), state, keep_last=1)
    meta_params, key = to_local_device((state.meta.meta_params, state.key))
    reports = examine_step(experiment, meta_params, key, step)
    if experiment.grad_fn is None:
        return (
            f"{skipped} The state before them is in {folder / 'diverged'}, and checkpoints.restore_part gets the best "
            f"parameters until then from {folder / 'checkpoints'}; lower the meta-optimizer's learning rate"
        )
    if len(reports) < experiment.training.tasks_per_step:  # only this process's tasks, as its host draws no others
        everywhere = Operation("say which tasks are at fault").gather(reports)
        reports = [TaskReport(*report) for each in everywhere for report in each]
    guilty = [report for report in reports if not report.is_finite]
    named = "; ".join(f"task {r.index} (key data {list(r.key_data)}, loss {r.loss:.4g})" for r in guilty[:3])
    more = f" and {len(guilty) - 3} more" if len(guilty) > 3 else ""
    command = f"jmeta replay {files.as_argument(folder)} --step {step}"
    if not guilty:
        fault = "every single task is finite, so the step may be too large (lower the meta-optimizer's learning rate)"
    elif len(guilty) == len(reports) > 1:
        fault = f"all {len(reports)} tasks are at fault, so perhaps the parameters or the inner loop: {named}{more}"
    else:
        fault = f"{len(guilty)} of its {len(reports)} tasks are at fault: {named}{more}"
    return f"{skipped} In step {step} {fault}.{advice_on(guilty)} Look at it with: {command}"
