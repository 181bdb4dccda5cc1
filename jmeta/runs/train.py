"""Meta-train a recipe: `jmeta train RECIPE [--overrides]`. The same command again resumes.

Every seed has its own folder with its own early stop and best checkpoint: `runs/RECIPE-HASH/seed_0`, ...
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro

from .. import tasks
from ..checkpoints.cluster import Operation
from ..episodes import check_predictions
from ..tasks import HostTasks
from ..types import Learner
from . import console, devices, files, log, loop, options, processes, seeds
from . import folder as run_folder
from .experiment import Experiment, check, is_image_task
from .recipes import Recipe
from .state import RunState, check_memory, host_stream_state, start_state

__all__ = [
    "Run",
    "parse",
    "Trained",
    "train_one",
    "train_together",
    "with_seed",
    "folder_of",
    "train",
    "say",
    "command",
]


@dataclasses.dataclass(frozen=True)
class Run:
    """Where to write, and how many seeds to train."""

    run_dir: pathlib.Path | None = None
    """Folder of the run, of any name, with `~` for the home folder; no address such as `gs://bucket`. The default is
    `runs/RECIPE-HASH`, so that the same options find the same run."""
    seeds: int = 1
    """Seeds to train, from `training.seed` on, each with its own early stop and best checkpoint."""
    seeds_at_once: int = 1
    """Seeds whose meta-steps share a dispatch, which pays off for small networks on large devices. Results equal those
    of seeds trained alone up to rounding, and resume bit for bit only with the same `seeds` and `seeds-at-once`."""
    mesh: str | None = None
    """Devices that share the tasks of a meta-step, like `training.mesh`: `tasks=8`, or `tasks=4,model=2`."""
    distributed: bool = False
    """Join the other processes of a job, which JAX detects on Slurm, Kubernetes, Cloud TPU and Open MPI."""


def parse(recipe: Recipe, arguments: list[str], *, program: str) -> tuple[Any, Run]:
    """Parse `(options, run)`: a recipe's options with their overrides, and where and how often to run it.

    Raises:
      ValueError: if an option is out of range.
      SystemExit: after printing help, or the fault in an option.
    """
    fields: Any = [  # the recipe's options and ours side by side, without a prefix
        ("options", Annotated[recipe.options, tyro.conf.arg(name="")], recipe.options()),
        ("run", Annotated[Run, tyro.conf.arg(name="")], Run()),
    ]
    command_line = dataclasses.make_dataclass("CommandLine", fields, frozen=True)
    parsed = tyro.cli(command_line, args=arguments, prog=program, description=recipe.options.__doc__)
    for option, number in {"--seeds": parsed.run.seeds, "--seeds-at-once": parsed.run.seeds_at_once}.items():
        if number < 1:
            raise ValueError(f"{option} {number}; expected at least 1")
    check(parsed.options.training, parsed.options.testing)
    options.recorded(parsed.options)  # refuses values that could not be read back
    chosen = parsed.options if parsed.run.mesh is None else _with(parsed.options, mesh=parsed.run.mesh)
    if chosen.training.mesh is not None:
        devices.parse_axes(chosen.training.mesh)
    return chosen, parsed.run


class Trained(NamedTuple):
    """Seeds that were trained together.

    Attributes:
      states: final state of each seed, by seed.
      metric: the metric that selected the models.
      protocol: the protocol of meta_valid.
    """

    states: dict[int, RunState]
    metric: str
    protocol: str


def train_one(recipe: Recipe, chosen: Any, folder: pathlib.Path) -> RunState:
    """Train one seed in its folder, from its latest checkpoint if there is one, and draw its learning curve."""
    return train_together(recipe, chosen, {chosen.training.seed: folder}).states[chosen.training.seed]


def train_together(
    recipe: Recipe,
    chosen: Any,
    folders: Mapping[int, pathlib.Path],
    is_preempted: Callable[[], bool] = loop.never,
) -> Trained:
    """Train seeds that share their dispatches, each in its folder, from its latest checkpoint if there is one."""
    check(chosen.training, chosen.testing)
    with contextlib.ExitStack() as locks:
        with processes.agreed("lock the run folders"):
            for folder in folders.values() if processes.is_main() else ():
                locks.enter_context(run_folder.locked(folder))
        with processes.agreed("build the experiment"):  # from data that one machine may lack
            experiment = recipe.build(with_seed(chosen, min(folders)))
            if experiment.source.placeholder is not None:
                experiment.source.meta_valid(jax.random.key(0))  # reports missing data
            check_memory(experiment)
            host_stream_state(experiment)  # needs training tasks: a refusal comes before anything is written
            is_begun = all((folder / "checkpoints").exists() for folder in folders.values())
            if not is_begun:
                _check_first_task(experiment)
        if experiment.training.warm_start is not None and not Operation("begin warm").gather(is_begun)[0]:
            start_state(experiment, min(folders))  # is refused, if at all, before anything is written
        with processes.agreed("write the configurations"):
            for seed, folder in folders.items() if processes.is_main() else ():
                run_folder.write_config(
                    folder,
                    recipe.name,
                    with_seed(chosen, seed),
                    experiment.source.split_hash,
                    is_ours=recipe.path is None,
                )
                if experiment.source.record is not None:
                    run_folder.write_record(folder, experiment.source.record)
                    _draw_first_task(folder, experiment)
        try:
            states = loop.run_seeds(experiment, folders, name=recipe.name, is_preempted=is_preempted)
        except loop.DivergedError:  # from one seed; the others have finished
            _draw_learning_curves(folders)
            raise
        _draw_learning_curves(folders)
    return Trained(states, experiment.metric, loop.valid_protocol(experiment))


def _check_first_task(experiment: Experiment) -> None:
    """Raise `ValueError` if a task of meta_valid has labels that the learner does not predict."""
    learner, sample = experiment.tested, experiment.source.meta_valid
    if not isinstance(learner, Learner) or experiment.loss_fn is None:
        return
    key_task, key_init = jax.random.split(jax.random.key(experiment.training.seed))
    if not jnp.issubdtype(getattr(jax.eval_shape(sample, key_task).query.y, "dtype", float), jnp.integer):
        return
    drawn = jax.jit(lambda sample, key: tasks.stacked(sample, 1)(key))(sample, key_task)  # its arrays are no constants
    check_predictions(learner, experiment.loss_fn, jax.eval_shape(experiment.init_fn, key_init), drawn)


def _draw_learning_curves(folders: Mapping[int, pathlib.Path]) -> None:
    with processes.agreed("draw learning curves"):
        from . import pictures  # imported late: it needs Matplotlib, which `--help` does not

        for folder in folders.values() if processes.is_main() else ():
            if log.read_metrics(folder):  # otherwise somebody removed the log of a finished run
                pictures.learning_curve(folder)


def _draw_first_task(folder: pathlib.Path, experiment: Experiment) -> None:
    """Draw a training task of a user's own images, as the learner sees them, so that the user sees what is wrong."""
    path = folder / "training_task.png"
    if path.exists() or not is_image_task(experiment):
        return
    from . import pictures  # imported late, as above

    stream = experiment.meta_train
    if isinstance(stream, HostTasks):
        task = jax.tree.map(lambda leaf: leaf[0], next(iter(stream.open(range(1)))))
    else:
        task = jax.device_get(jax.jit(stream)(jax.random.key(experiment.training.seed)))
    pictures.episode(path, task, None, title=f"a training task of {experiment.source.name}")


def with_seed(chosen: Any, seed: int) -> Any:
    """Return a recipe's options with another seed."""
    return _with(chosen, seed=seed)


def _with(chosen: Any, **changes: Any) -> Any:
    return dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, **changes))


def folder_of(recipe: Recipe, chosen: Any, parent: pathlib.Path) -> pathlib.Path:
    """Return the default folder of a recipe with these options: the same options find the same run."""
    return parent / f"{recipe.name}-{options.hash_of(options.recorded(chosen))}"


def train(recipe: Recipe, chosen: Any, run: Run, is_preempted: Callable[[], bool] = loop.never) -> pathlib.Path:
    """Train all seeds and return the folder that holds their folders.

    Args:
      recipe: the recipe to train.
      chosen: its options, with overrides.
      run: where to write, and how many seeds to train.
      is_preempted: called after every dispatch; True when the run is to save and stop.

    Raises:
      loop.DivergedError: if any seed diverged, after all others are trained.
      processes.PreemptedError: after saving, if the run was asked to stop.
      ValueError: if the options contradict each other, or the folder cannot hold a run.
    """
    folder = files.named_by_user(run.run_dir or folder_of(recipe, chosen, pathlib.Path("runs")))
    check(chosen.training, chosen.testing)
    training = chosen.training
    if training.seed + run.seeds > 2**32:
        raise ValueError(f"--seeds {run.seeds} from training.seed={training.seed} on; expected all below {2**32}")
    sharing = devices.sharing_of(
        training.mesh, training.num_blocks, training.tasks_per_step
    )  # before the folder is made
    processes.meet(None if sharing is None else sharing.mesh)
    if run.seeds_at_once > 1 and sharing is not None:
        raise ValueError("--seeds-at-once is for one device, and here devices share the tasks; leave one of them out")
    files.refuse_links(folder.glob("seed_*"))
    all_seeds = range(training.seed, training.seed + run.seeds)
    scores, diverged, protocol, metric = {}, [], "", "score"
    for i in range(0, len(all_seeds), run.seeds_at_once):
        folders = {seed: folder / f"seed_{seed}" for seed in all_seeds[i : i + run.seeds_at_once]}
        try:
            states, metric, protocol = train_together(recipe, chosen, folders, is_preempted)
        except loop.DivergedError as error:
            diverged.append(str(error))
            continue
        with processes.agreed("tell the best scores"):
            for seed, state in states.items() if processes.is_main() else ():
                sign = -1 if metric == "loss" else 1  # a loss is stored negated
                best = scores[f"seed_{seed}"] = sign * float(state.best_score)
                say(f"seed {seed}: best on meta_valid {best:.4f}, at step {state.best_step} ({protocol})")
    if diverged:
        raise loop.DivergedError("\n".join(diverged))
    with processes.agreed("store the mean over seeds"):
        stored = (folder, f"meta_valid | {protocol}", {f"best {metric}": scores})
        for words, over in seeds.store(*stored).items() if len(scores) > 1 and processes.is_main() else ():
            print(f"{len(scores)} seeds: {words} on meta_valid {over} (95 % interval over seeds), {protocol}")
    return folder


def say(text: str) -> None:
    """Print a line, once for all processes of a job."""
    if processes.is_main():
        print(text, flush=True)


def command(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Run `jmeta train` on a recipe and return the exit status."""
    console.use_compilation_cache()

    def train_all() -> None:
        chosen, run = parse(recipe, arguments, program=program)
        processes.join(detect=run.distributed)
        with processes.preemption() as is_preempted:
            folder = train(recipe, chosen, run, is_preempted)
        own = "" if recipe.path is None else f" --recipe {files.as_argument(recipe.path)}"
        say(f"next: jmeta evaluate {files.as_argument(folder)}{own}")

    return console.run_command(train_all, if_interrupted="the same command goes on from the last checkpoint")
