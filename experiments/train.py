"""Meta-train a recipe: `python -m experiments.train RECIPE [--overrides]`. The same command again resumes.

Every seed has its own folder with its own early stop and best checkpoint: `runs/RECIPE-HASH/seed_0`, ...
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import tyro

from configs import parts
from configs.parts import Recipe

from . import (
    checks,
    cluster,
    console,
    devices,
    files,
    loop,
    metrics_log,
    over_seeds,
    pictures,
    planning,
    recipes,
    run_folder,
    run_state,
)
from .build import build, metric_of


@dataclasses.dataclass(frozen=True)
class Options:
    """Where to write, and how often to repeat."""

    run_dir: pathlib.Path | None = None
    """Folder of the run, of any name, with `~` for the home folder; no address such as `gs://bucket`. If not given,
    `runs/RECIPE-HASH`, so that the same options find the same run."""
    seeds: int = 1
    """Seeds to train, from `training.seed` on, each with its own early stop and best checkpoint."""
    seeds_at_once: int | Literal["auto"] = "auto"
    """Seeds whose meta-steps share a dispatch. `auto` is as many as were measured to pay, which
    `python -m experiments.benchmarks.seeds` measures for other machines. Seeds trained together end as those trained
    alone up to rounding; to the bit only if resumed with the same `seeds` and `seeds-at-once`."""
    memory_gb: float | None = None
    """Plan the run: of all ways to the same meta-gradient, the fastest that takes no more memory than this; instead of
    `method.adjoint` and `training.batching` (see `experiments.planning`). A meta-step is planned, not its judging on
    meta_valid, and for one device."""
    allow_bfloat16: bool = False
    """Let the plan choose activations of half the size, which no longer give the same meta-gradient."""
    mesh: str | None = None
    """Devices that share the tasks of a meta-step, as `training.mesh`: `tasks=8`, or `tasks=4,model=2`."""
    distributed: bool = False
    """Join the other processes of a job, which JAX finds by itself on Slurm, Kubernetes, Cloud TPU and Open MPI."""


def parse(arguments: list[str]) -> tuple[str, Recipe, Options]:
    """The recipe's name, the recipe with its overrides, and where and how often to run it.

    Raises:
      ValueError: if there is no such recipe, or an option comes before it.
      SystemExit: after printing help, or what is wrong with an option.
    """
    if not arguments or {"-h", "--help"} & set(arguments[:1]):
        print(_overview())
        raise SystemExit(0 if arguments else 2)
    if arguments[0].startswith("-"):
        raise ValueError(
            f"the recipe's name comes first, but the first word is {arguments[0]}; --help lists the recipes"
        )
    name, *overrides = arguments
    recipe = recipes.load(name)
    fields: Any = [  # the recipe's options and ours side by side, without a prefix
        ("recipe", Annotated[type(recipe), tyro.conf.arg(name="")], recipe),
        ("options", Annotated[Options, tyro.conf.arg(name="")], Options()),
    ]
    command_line = dataclasses.make_dataclass("CommandLine", fields, frozen=True)
    program = f"python -m experiments.train {name}"
    parsed = tyro.cli(command_line, args=overrides, prog=program, description=recipe.__doc__)
    for option, number in {"--seeds": parsed.options.seeds, "--seeds-at-once": parsed.options.seeds_at_once}.items():
        if number != "auto" and number < 1:
            raise ValueError(f"{option} {number}; expected at least 1")
    if parsed.options.memory_gb is not None and not parsed.options.memory_gb > 0:
        raise ValueError(f"--memory-gb {parsed.options.memory_gb}; expected a positive number")
    if parsed.options.memory_gb is not None and parsed.options.seeds_at_once not in ("auto", 1):
        raise ValueError("--memory-gb plans for one seed at a time; leave out --seeds-at-once")
    if parsed.options.allow_bfloat16 and parsed.options.memory_gb is None:
        raise ValueError(
            "--allow-bfloat16 is for a plan: add --memory-gb, or choose it yourself with --model.dtype bfloat16"
        )
    recipe = parsed.recipe if parsed.options.mesh is None else _with(parsed.recipe, mesh=parsed.options.mesh)
    if recipe.training.mesh is not None:
        devices.parse_axes(recipe.training.mesh)
    return name, recipe, parsed.options


def train_one(name: str, recipe: Recipe, folder: pathlib.Path) -> run_state.RunState:
    """Train or go on training one seed in its folder, and draw its learning curve."""
    return train_together(name, recipe, {recipe.training.seed: folder})[recipe.training.seed]


def train_together(
    name: str,
    recipe: Recipe,
    folders: Mapping[int, pathlib.Path],
    is_preempted: Callable[[], bool] = loop.never,
) -> dict[int, run_state.RunState]:
    """Train or go on training seeds that share their dispatches, each in its folder; returns their states by seed."""
    checks.check(recipe)
    with contextlib.ExitStack() as locks:
        with cluster.agreed("lock the run folders"):
            for folder in folders.values() if cluster.is_main() else ():
                locks.enter_context(run_folder.locked(folder))
        with cluster.agreed("build the experiment"):  # of data that one machine may lack
            experiment = build(with_seed(recipe, min(folders)))
        with cluster.agreed("write the configurations"):
            for seed, folder in folders.items() if cluster.is_main() else ():
                run_folder.write_config(folder, name, with_seed(recipe, seed), experiment.source.split_hash)
        at_once = recipe.testing.tasks_at_once
        try:
            states = loop.run_seeds(
                experiment, recipe.training, folders, name=name, tasks_at_once=at_once, is_preempted=is_preempted
            )
        except loop.DivergedError:  # of one; the others are at their end
            _draw_learning_curves(folders)
            raise
        _draw_learning_curves(folders)
    return states


def _draw_learning_curves(folders: Mapping[int, pathlib.Path]) -> None:
    with cluster.agreed("draw learning curves"):
        for folder in folders.values() if cluster.is_main() else ():
            if metrics_log.read_metrics(folder):  # else somebody took the log of a finished run away
                pictures.learning_curve(folder)


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another seed."""
    return _with(recipe, seed=seed)


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    training = dataclasses.replace(recipe.training, **changes)
    return dataclasses.replace(recipe, training=training)  # pyright: ignore[reportArgumentType]


def choose_seeds_at_once(recipe: Recipe, options: Options) -> tuple[int, str]:
    """How many seeds share a dispatch, and why.

    Left to us, seeds go together where that was measured to be faster: prototypical networks with an MLP on a CPU. By
    `experiments.benchmarks.seeds`, on 2 CPU cores with other work on them and jax 0.10.2, five seeds together take the
    CPU time of five apart divided by 1.25 for `blobs_protonet` (1.23 for two seeds, 1.32 for ten) and 0.88 for
    `sinusoid_maml`; in wall time, 0.52 for `glyphs_protonet` and 0.76 for `glyphs_maml`, as convolutions do not gain.
    A whole `blobs_protonet --seeds 5`, from the second time on, took 9.6 s of CPU time together and 11.4 s apart.
    """
    if options.seeds == 1:
        return 1, "there is no other"
    if options.memory_gb is not None:
        return 1, "the plan is of the memory of one"
    if devices.sharing_of(recipe.training) is not None:
        return 1, "their tasks are shared among devices"
    if isinstance(recipe.data, parts.Folder) and recipe.data.host_fed:
        return 1, "the host draws the tasks of each seed"
    if options.seeds_at_once != "auto":
        return min(options.seeds_at_once, options.seeds), "as asked for"
    if jax.default_backend() != "cpu":
        return 1, "together was measured on CPUs only; --seeds-at-once is there to try it"
    if isinstance(recipe.model, parts.Mlp) and isinstance(recipe.method, parts.Protonet):
        return min(10, options.seeds), "measured to be faster for an MLP in a prototypical network"  # up to ten seeds
    return 1, "together was measured to be faster for no such network and method"


def folder_of(name: str, recipe: Recipe, parent: pathlib.Path) -> pathlib.Path:
    """Where a recipe with these options is run by default: the same options find the same run."""
    options_hash = run_folder.config_hash(run_folder.options_of(recipe))
    return parent / f"{name}-{options_hash}"


def train(name: str, recipe: Recipe, options: Options, is_preempted: Callable[[], bool] = loop.never) -> pathlib.Path:
    """Train all seeds; returns the folder that has their folders.

    Args:
      name: of the recipe.
      recipe: with its overrides.
      options: where and how often.
      is_preempted: asked after every dispatch; True when the run is to save and leave.

    Raises:
      loop.DivergedError: if any seed diverged, when all others are trained.
      cluster.PreemptedError: when it has saved, since it is to leave.
      ValueError: if the options do not go together, or the folder cannot hold a run.
    """
    folder = files.named_by_user(options.run_dir or folder_of(name, recipe, pathlib.Path("runs")))
    checks.check(recipe)
    sharing = devices.sharing_of(recipe.training)  # before there is a folder
    if options.memory_gb is not None:
        if sharing is not None:  # whose devices might choose differently, by their own clocks
            raise ValueError(
                "--memory-gb plans for a device that has all tasks of a meta-step, and here they are shared out; plan "
                "a run in one process without --mesh and training.num-blocks, and say what it chose with "
                "--method.adjoint and --training.batching"
            )
        recipe, reasons = planning.planned(recipe, options.memory_gb, folder, allow_bfloat16=options.allow_bfloat16)
        _say(reasons)
    seeds = range(recipe.training.seed, recipe.training.seed + options.seeds)
    at_once, reason = choose_seeds_at_once(recipe, options)
    if len(seeds) > 1:
        _say(f"{len(seeds)} seeds, {at_once} at once: {reason}")
    scores, diverged, protocol = {}, [], ""
    for i in range(0, len(seeds), at_once):
        folders = {seed: folder / f"seed_{seed}" for seed in seeds[i : i + at_once]}
        try:
            states = train_together(name, recipe, folders, is_preempted)
        except loop.DivergedError as error:
            diverged.append(str(error))
            continue
        with cluster.agreed("tell the best scores"):
            for seed, state in states.items() if cluster.is_main() else ():
                sign = -1 if metric_of(recipe) == "loss" else 1  # a loss is kept with a minus
                best = scores[f"seed_{seed}"] = sign * float(state.best_score)
                evaluations = metrics_log.read_metrics(folders[seed], "meta_valid")
                protocol = evaluations[-1].get("protocol", "") if evaluations else "whose log is gone"
                _say(f"seed {seed}: best on meta_valid {best:.4f}, at step {state.best_step} ({protocol})")
    if diverged:
        raise loop.DivergedError("\n".join(diverged))
    with cluster.agreed("store the mean over seeds"):
        metric = metric_of(recipe)
        stored = (folder, f"meta_valid | {protocol}", {f"best {metric}": scores})
        for words, over in over_seeds.store(*stored).items() if len(scores) > 1 else ():
            print(f"{len(scores)} seeds: {words} on meta_valid {over} (95 % interval over seeds), {protocol}")
    return folder


def _say(text: str) -> None:
    if cluster.is_main():
        print(text, flush=True)


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    console.use_compilation_cache()

    def command() -> None:
        name, recipe, options = parse(arguments)
        cluster.join(detect=options.distributed)
        with cluster.preemption() as is_preempted:
            folder = train(name, recipe, options, is_preempted)
        _say(f"next: python -m experiments.evaluate {files.as_argument(folder)}")

    return console.run_command(command, if_interrupted="the same command goes on from the last checkpoint")


def _overview() -> str:
    lines = [f"  {name:32} {(recipes.load(name).__doc__ or '').strip().splitlines()[0]}" for name in recipes.names()]
    options = "[--run-dir DIR] [--seeds N [--seeds-at-once N]] [--memory-gb X] [--mesh tasks=N] [--distributed]"
    usage = f"usage: python -m experiments.train RECIPE {options} [--overrides]"
    return "\n".join([usage, "", "recipes:", *lines, "", "python -m experiments.train RECIPE --help lists the options"])


if __name__ == "__main__":
    sys.exit(cluster.run(main, sys.argv[1:]))
