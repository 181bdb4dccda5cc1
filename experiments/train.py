"""Meta-train a recipe: `python -m experiments.train RECIPE [--overrides]`. The same command again resumes.

Every seed has its own folder with its own early stop and best checkpoint: `runs/RECIPE-HASH/seed_0`, ...
"""

import dataclasses
import pathlib
import sys
from typing import Annotated, Any

import numpy as np
import tyro

from configs.parts import Recipe
from jmeta.evaluation import estimate

from . import console, loop, pictures, recipes, run_folder
from .build import build


@dataclasses.dataclass(frozen=True)
class Options:
    """Where to write, and how often to repeat."""

    run_dir: pathlib.Path | None = None
    """Folder of the run; `runs/RECIPE-HASH` if not given, so that the same options find the same run."""
    seeds: int = 1
    """Seeds to train, one after another, from `training.seed` on."""


def parse(arguments: list[str]) -> tuple[str, Recipe, Options]:
    """The recipe's name, the recipe with its overrides, and where and how often to run it.

    Raises:
      ValueError: if there is no such recipe.
      SystemExit: after printing help, or what is wrong with an option.
    """
    if not arguments or arguments[0].startswith("-"):
        print(_overview())
        raise SystemExit(0 if {"-h", "--help"} & set(arguments) else 2)
    name, *overrides = arguments
    recipe = recipes.load(name)
    fields: Any = [  # the recipe's options and ours side by side, without a prefix
        ("recipe", Annotated[type(recipe), tyro.conf.arg(name="")], recipe),
        ("options", Annotated[Options, tyro.conf.arg(name="")], Options()),
    ]
    command_line = dataclasses.make_dataclass("CommandLine", fields, frozen=True)
    program = f"python -m experiments.train {name}"
    parsed = tyro.cli(command_line, args=overrides, prog=program, description=recipe.__doc__)
    if parsed.options.seeds < 1:
        raise ValueError(f"--seeds {parsed.options.seeds}; expected at least 1")
    return name, parsed.recipe, parsed.options


def train_one(name: str, recipe: Recipe, folder: pathlib.Path) -> loop.RunState:
    """Train or go on training one seed in its folder, and draw its learning curve."""
    with run_folder.locked(folder):
        experiment = build(recipe)
        run_folder.write_config(folder, name, recipe, experiment.source.split_hash)
        state = loop.run(experiment, recipe.training, folder, name=name, tasks_at_once=recipe.testing.tasks_at_once)
        pictures.learning_curve(folder)
    return state


def folder_of(name: str, recipe: Recipe, parent: pathlib.Path) -> pathlib.Path:
    """Where a recipe with these options is run by default: the same options find the same run."""
    options_hash = run_folder.config_hash(dataclasses.asdict(recipe))  # pyright: ignore[reportArgumentType]
    return parent / f"{name}-{options_hash}"


def train(name: str, recipe: Recipe, options: Options) -> pathlib.Path:
    """Train all seeds; returns the folder that has their folders."""
    folder = options.run_dir or folder_of(name, recipe, pathlib.Path("runs"))
    scores = []
    for seed in range(recipe.training.seed, recipe.training.seed + options.seeds):
        training = dataclasses.replace(recipe.training, seed=seed)
        seeded = dataclasses.replace(recipe, training=training)  # pyright: ignore[reportArgumentType]
        state = train_one(name, seeded, folder / f"seed_{seed}")
        scores.append(float(state.best_score))
        print(f"seed {seed}: best on meta_valid {abs(scores[-1]):.4f}, at step {state.best_step}", flush=True)
    if len(scores) > 1:
        print(f"{len(scores)} seeds: best on meta_valid {estimate(np.abs(scores))} (95 % interval over seeds)")
    return folder


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    console.use_compilation_cache()
    try:
        folder = train(*parse(arguments))
    except console.USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"next: python -m experiments.evaluate {folder}")
    return 0


def _overview() -> str:
    lines = [f"  {name:32} {(recipes.load(name).__doc__ or '').strip().splitlines()[0]}" for name in recipes.names()]
    usage = "usage: python -m experiments.train RECIPE [--run-dir DIR] [--seeds N] [--overrides]"
    return "\n".join([usage, "", "recipes:", *lines, "", "python -m experiments.train RECIPE --help lists the options"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
