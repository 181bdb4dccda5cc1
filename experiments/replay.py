"""Look at one meta-step of a run again, task by task: `python -m experiments.replay RUN --step N`.

The step's tasks follow from the run's key and its number. The parameters it started from are those of the latest
checkpoint that is not after it; steps between the two are made again.
"""

import dataclasses
import pathlib
import sys

import jax
import tyro

from jmeta import checkpoints, training

from . import console, files, recipes, run_folder
from .build import Experiment, build
from .diagnosis import TaskReport, examine_step, sample_step
from .run_state import RunState, init_state


@dataclasses.dataclass(frozen=True)
class Options:
    """Look at one meta-step of a run again, task by task."""

    run: tyro.conf.Positional[pathlib.Path]
    """Folder of one seed's run."""
    step: int
    """Number of the step, from 0."""


def state_before(experiment: Experiment, folder: pathlib.Path, start: RunState, step: int) -> tuple[RunState, int]:
    """The state that a step started from, and how many steps were made again to get there."""
    diverged = checkpoints.restore(folder / "diverged", start)
    if diverged is not None:
        meta = diverged[1].meta
        if int(meta.step) - int(meta.num_skipped_in_a_row) <= step < int(meta.step):
            return diverged[1], 0  # skipped steps change no parameters
    saved, state = checkpoints.restore(folder / "checkpoints", start, up_to=step) or (0, start)
    meta, update = state.meta, jax.jit(experiment.trainer.update)
    for i in range(saved, step):
        meta, _ = update(meta, sample_step(experiment, state.key, i), training.step_keys(state.key, i)[1])
    return state._replace(meta=meta), step - saved


def replay(folder: pathlib.Path, step: int) -> list[TaskReport]:
    """Each task's share in a meta-step of the run in `folder`.

    Raises:
      ValueError: if there is no run, or it has no such step.
    """
    name, options = run_folder.read_config(folder)
    recipe = recipes.with_options(recipes.load(name), options)
    if not 0 <= step < recipe.training.num_steps:
        raise ValueError(f"--step {step}, but the run's steps are 0 to {recipe.training.num_steps - 1}")
    experiment = build(recipe)
    state, remade = state_before(experiment, folder, init_state(experiment, recipe.training.seed), step)
    print(f"step {step} of {folder}, from a checkpoint {remade} steps before it")
    return examine_step(experiment, state.meta.meta_params, state.key, step)


def show(options: Options) -> None:
    """Replay, and print one line for each task."""
    reports = replay(files.named_by_user(options.run), options.step)
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


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.replay")
    console.use_compilation_cache()
    return console.run_command(lambda: show(options), if_interrupted="nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
