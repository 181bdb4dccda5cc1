"""The program of `make run`: meta-train two learners from nothing and print one table, in minutes on two CPU cores.

Prototypical networks and second-order MAML are meta-trained on the embedded glyphs and evaluated on a script that
neither has seen, on the same test tasks as the baseline, the nearest mean of pixels. An interrupted run continues where
it stopped.
"""

import dataclasses
import pathlib
import sys
import time

import tyro

from jmeta.domains.images.baselines import NEAREST_MEAN
from jmeta.runs import console, evaluate, files, recipes, train
from jmeta.runs.options import replaced

BASELINE = "nearest mean of pixels"
RECIPES = ("glyphs_protonet", "glyphs_maml")
LEFT = {
    "config.json": "every option",
    "metrics.jsonl": "all logged metrics; tensorboard/ has the same",
    "learning_curve.png": "meta_train and meta_valid over training",
    "test_episode.png": "a meta_test task with its predictions",
    "evaluation.json": "the numbers of the table",
    "checkpoints/": "the last few and the best",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Meta-train on glyphs and evaluate on an unseen script, in a few minutes."""

    run_dir: pathlib.Path = pathlib.Path("runs", "quickstart")
    """Folder of all output: one run folder for each method."""
    num_steps: int | None = None
    """Number of meta-steps in place of the recipes', rounded up to whole dispatches (for a quick look)."""
    num_tasks: int | None = None
    """Number of test tasks in place of the recipes'."""


def run(options: Options) -> tuple[dict[str, evaluate.Timed], list[pathlib.Path]]:
    """Train, evaluate, draw and store; return the results by name, the baseline first, and the run folders."""
    folders, parent = {}, files.named_by_user(options.run_dir)
    for name in RECIPES:
        recipe = recipes.load(name)
        chosen = recipe.options()
        if options.num_steps is not None:
            unit = chosen.training.steps_per_dispatch
            chosen = replaced(chosen, {"training.num_steps": -(-options.num_steps // unit) * unit})
        # the folder's name depends on the options: a changed recipe starts anew, and a quick look does not interfere
        folders[name] = train.folder_of(recipe, chosen, parent)
        train.train_one(recipe, chosen, folders[name])
    results: dict[str, evaluate.Timed] = {}
    for name, folder in folders.items():
        recipe, trained, meta_params = evaluate.load_run(folder)
        fewer = {} if options.num_tasks is None else {"testing.num_tasks": options.num_tasks}
        experiment = evaluate.tested_otherwise(recipe, trained, replaced(trained, fewer))
        if not results:
            results[BASELINE] = evaluate.timed_evaluation(experiment, experiment.baselines[NEAREST_MEAN], {})
        results[name] = evaluate.evaluated(experiment, meta_params)
        evaluate.store(folder, experiment.source.split_hash, {key: results[key] for key in (BASELINE, name)})
        evaluate.draw_episode(folder, name, experiment, meta_params)
    return results, list(folders.values())


def show(options: Options) -> None:
    """Run, and print the table and the list of files."""
    start = time.monotonic()
    results, folders = run(options)
    title = "meta_test: 95 % intervals over tasks, the same tasks for every row"
    console.print_table(title, [evaluate.table_row(name, timed) for name, timed in results.items()])
    protocol = results[BASELINE].evaluation.protocol
    for name, gain in evaluate.gains(results, over=BASELINE).items():
        print(f"{name}: {gain} over the {BASELINE}, task by task, on {protocol}")
    print(f"\n{time.monotonic() - start:.0f} s. In {' and '.join(map(str, folders))}:")
    for name, what in LEFT.items():
        print(f"  {name:20} {what}")


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.quickstart")
    console.use_compilation_cache()
    return console.run_command(
        lambda: show(options), if_interrupted="the same command continues from the last checkpoint"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
