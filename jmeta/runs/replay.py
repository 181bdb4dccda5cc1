"""Replay of one meta-step of a run, task by task: `jmeta replay RUN --step N`.

The step's tasks follow from the run's key and the step's number. Its parameters come from the latest checkpoint that is
not after it; the steps between the two are computed again.
"""

import dataclasses
import pathlib

import jax
import tyro

from .. import checkpoints, training
from . import console, files
from .diagnosis import TaskReport, examine_step, sample_step
from .evaluate import recipe_of
from .experiment import Experiment
from .state import RunState, init_state, start_state

__all__ = ["Command", "state_before", "replay", "show", "command"]


@dataclasses.dataclass(frozen=True)
class Command:
    """Look at one meta-step of a run again, task by task."""

    run: tyro.conf.Positional[pathlib.Path]
    """Folder of one seed's run."""
    step: int
    """Number of the step, from 0."""
    recipe: str | None = None
    """The recipe file, if the run's recipe is not one of ours."""


def state_before(experiment: Experiment, folder: pathlib.Path, start: RunState, step: int) -> tuple[RunState, int]:
    """Return the state that a step started from, and the number of steps that were computed again to reach it."""
    diverged = checkpoints.restore(folder / "diverged", start)
    if diverged is not None:
        meta = diverged[1].meta
        if int(meta.step) - int(meta.num_skipped_in_a_row) <= step < int(meta.step):
            return diverged[1], 0  # skipped steps change no parameters
    restored = checkpoints.restore(folder / "checkpoints", start, up_to=step)
    saved, state = restored or (0, start_state(experiment, experiment.training.seed))
    meta, update = state.meta, jax.jit(experiment.trainer.update)
    for i in range(saved, step):
        meta, _ = update(meta, sample_step(experiment, state.key, i), training.step_keys(state.key, i)[1])
    return state._replace(meta=meta), step - saved


def replay(folder: pathlib.Path, step: int, named: str | None = None) -> list[TaskReport]:
    """Examine each task's share in a meta-step of the run in `folder`.

    Raises:
      ValueError: if there is no run, or it has no such step.
    """
    recipe, options = recipe_of(folder, named)
    if not 0 <= step < options.training.num_steps:
        raise ValueError(f"--step {step}, but the run's steps are 0 to {options.training.num_steps - 1}")
    experiment = recipe.build(options)
    state, remade = state_before(experiment, folder, init_state(experiment, options.training.seed), step)
    print(f"step {step} of {folder}, from a checkpoint {remade} steps before it")
    return examine_step(experiment, state.meta.meta_params, state.key, step)


def show(command: Command) -> None:
    """Replay a step and print one line for each task."""
    reports = replay(files.named_by_user(command.run), command.step, command.recipe)
    finite = sum(report.is_finite for report in reports)
    rows = [
        {
            "task": str(report.index),
            "loss": f"{report.loss:.4g}",
            "gradient norm": f"{report.grad_norm:.4g}",
            "finite": "yes" if report.is_finite else "NO",
            "inputs finite": "yes" if report.is_input_finite else "NO",
            "key data": " ".join(map(str, report.key_data)),
        }
        for report in reports
    ]
    console.print_table(f"{finite} of {len(reports)} tasks are finite", rows)


def command(arguments: list[str]) -> int:
    """Run `jmeta replay` and return the exit status."""
    parsed = tyro.cli(Command, args=arguments, prog="jmeta replay")
    console.use_compilation_cache()
    return console.run_command(lambda: show(parsed), if_interrupted="nothing was written")
