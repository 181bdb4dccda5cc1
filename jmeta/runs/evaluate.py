"""Evaluate a trained run on meta_test: `jmeta evaluate RUN [--baselines] [--inner-steps 0 1 5 10] [--overrides]`.

RUN is the folder of one seed, or the folder of all seeds of a recipe. The parameters are the best on meta_valid. Any
option of the recipe can have another value, such as `--num-ways 20`, if the parameters keep their shapes. Results are
printed with the name of their protocol, and stored in the run folder as `evaluation.json`, one entry per protocol; the
interval over several seeds goes to `over_seeds.json` in their common folder. Predictions of classes, and distributions
over numbers, are also judged by how well they know what they do not know (`jmeta.calibration`).
"""

import dataclasses
import os
import pathlib
import time
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from .. import checkpoints
from ..evaluation import Estimate, Evaluation, evaluate_episodes, paired_difference
from ..evaluation import evaluate as evaluate_learner
from ..types import EpisodeFn, Learner, PyTree, RandomKey
from . import console, files, loop, options, recipes, seeds, state, uncertainty
from . import folder as run_folder
from .experiment import Experiment, check_testing, is_image_task
from .recipes import Recipe

__all__ = [
    "Command",
    "Timed",
    "Loaded",
    "recipe_of",
    "load_run",
    "tested_otherwise",
    "timed_evaluation",
    "evaluation_of",
    "evaluated",
    "table_row",
    "main_metric",
    "shown",
    "gains",
    "curve",
    "store",
    "as_json",
    "evaluate_seed",
    "NotStoredError",
    "overridden",
    "draw_episode",
    "draw_curve",
    "evaluate_all",
    "command",
]


@dataclasses.dataclass(frozen=True)
class Command:
    """Evaluate a trained run on meta_test."""

    run: tyro.conf.Positional[pathlib.Path]
    """Folder of one seed's run, or the folder that holds the folders of all seeds."""
    recipe: str | None = None
    """The recipe file, if the run is not one of ours; a file that only the run folder names is never executed."""
    inner_steps: tuple[int, ...] = ()
    """Numbers of inner steps to draw the adaptation curve for, such as 0 1 5 10."""
    baselines: bool = False
    """Evaluate the recipe's baselines, which learn nothing from other tasks, on the same tasks. It may take a while."""


class Timed(NamedTuple):
    """An evaluation and the time that it took.

    Attributes:
      evaluation: the estimates.
      seconds: time without compilation.
      compile_seconds: time spent tracing and compiling.
    """

    evaluation: Evaluation
    seconds: float
    compile_seconds: float


class Loaded(NamedTuple):
    """A trained run.

    Attributes:
      recipe: the recipe that it was trained with.
      options: the recipe's options.
      meta_params: the meta-parameters with the best score on meta_valid.
    """

    recipe: Recipe
    options: Any
    meta_params: PyTree


def recipe_of(folder: pathlib.Path, named: str | None) -> tuple[Recipe, Any]:
    """Return the recipe of a run and its recorded options.

    Args:
      folder: folder of one seed's run.
      named: the user's recipe file, if it is one.

    Raises:
      ValueError: if the folder holds no run, or one of a recipe file that is not named, or has another name.
    """
    config = run_folder.read_config(folder)
    if not config.is_ours and config.recipe == "fit":
        raise ValueError(
            f"{folder} is a run of jmeta.runs.fit, whose trainer and tasks are in a program; evaluate there what `fit` "
            "returns, with jmeta.evaluate"
        )
    if named is None and not config.is_ours:
        raise ValueError(
            f"{folder} is a run of the recipe file {files.short(config.recipe)}.py, which is not executed unless you "
            f"say so: add --recipe PATH/{files.short(config.recipe)}.py"
        )
    if named is not None and (config.is_ours or pathlib.Path(named).stem != config.recipe):
        ours = "one of ours" if config.is_ours else "a file"
        raise ValueError(
            f"--recipe {named}, but {folder} is a run of {files.short(config.recipe)}, {ours}; leave it out, or name "
            "that one"
        )
    recipe = recipes.ours(config.recipe) if named is None else recipes.in_file(named)
    return recipe, options.restored(recipe.options(), config.values)


def load_run(folder: str | os.PathLike[str], named: str | None = None) -> Loaded:
    """Load a trained run with its best parameters; it needs no training data if the recipe's source can do without.

    Args:
      folder: folder of one seed's run, such as `"runs/NAME/seed_0"`.
      named: the user's recipe file, if the run's recipe is not one of ours.

    Raises:
      ValueError: if the folder holds no run, one without a checkpoint yet, one that never had a finite score, or one
        with other classes than the data now have.
    """
    folder = files.named_by_user(pathlib.Path(folder))
    recipe, chosen = recipe_of(folder, named)
    experiment = recipe.build(chosen)
    if experiment.source.placeholder is None:  # otherwise no classes to compare
        run_folder.check_split(folder, experiment.source.split_hash)
    like = state.init_state(experiment, chosen.training.seed)
    restored = checkpoints.restore(folder / "checkpoints", like, best=True)
    if restored is None:
        raise ValueError(f"{folder} has no checkpoint yet; train it first")
    if not np.isfinite(restored[1].best_score):
        raise ValueError(f"{folder} never had a finite score on meta_valid, so there is no model to judge")
    step, latest = checkpoints.restore(folder / "checkpoints", like) or restored
    if not state.is_finished(latest, chosen.training):
        print(f"note: {folder} is at step {step} of {chosen.training.num_steps}; judged is the best model until then")
    return Loaded(recipe, chosen, restored[1].best_meta_params)


def tested_otherwise(recipe: Recipe, trained: Any, tested: Any) -> Experiment:
    """Build the experiment of a trained run with other options, for testing.

    Args:
      recipe: the run's recipe.
      trained: the options that it was trained with.
      tested: the options that it is tested with.

    Raises:
      ValueError: if the other options change the parameters' shapes, or test on classes that were trained on.
    """
    changed = recipe.build(tested)
    if options.recorded(trained) == options.recorded(tested):
        return changed
    original = recipe.build(trained)
    shapes = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), jax.eval_shape(each.init_fn, jax.random.key(0)))
        for each in (original, changed)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "with these options the parameters have other shapes than those that were trained, as of a method with an "
            "output for each way; train a run with them"
        )
    if changed.source.split_hash != original.source.split_hash:
        overlap = original.source.seen_classes & changed.source.test_classes
        if overlap:
            raise ValueError(
                f"{len(overlap)} of the {len(changed.source.test_classes)} test classes of {changed.source.name} are "
                f"among those that the run trained on or chose models by; train a run with these options"
            )
    return changed


def timed_evaluation(
    experiment: Experiment, tested: Learner | EpisodeFn, meta_params: PyTree, *, num_steps: int | None = None
) -> Timed:
    """Evaluate on the fixed tasks of meta_test, the same for all; the protocol's name includes `num_steps`.

    A learner is evaluated by its predictions, an episode function by the values that it reports.
    """
    start = time.perf_counter()
    steps = "" if num_steps is None else f", {loop.inner_steps(num_steps)}"
    with console.compile_clock() as compiling:
        evaluation = evaluation_of(experiment, tested, meta_params, loop.split_key("meta_test"), steps=steps)
    return Timed(evaluation, time.perf_counter() - start - compiling.seconds, compiling.seconds)


def evaluation_of(
    experiment: Experiment, tested: Learner | EpisodeFn, meta_params: PyTree, key: RandomKey, *, steps: str
) -> Evaluation:
    """Evaluate a learner by its predictions, or an episode function by its reports, on the tasks drawn with `key`."""
    arguments = (meta_params, experiment.source.meta_test, key)
    numbers: Any = {
        "protocol": experiment.test_protocol + steps,
        "num_tasks": experiment.num_test_tasks,
        "tasks_at_once": experiment.testing.tasks_at_once,
    }
    if isinstance(tested, Learner):
        assert experiment.loss_fn is not None
        return evaluate_learner(tested, experiment.loss_fn, *arguments, **numbers)
    return evaluate_episodes(tested, *arguments, **numbers)


def evaluated(experiment: Experiment, meta_params: PyTree) -> Timed:
    """Evaluate the experiment's own learner on meta_test."""
    return timed_evaluation(experiment, experiment.tested, meta_params, num_steps=experiment.num_test_steps)


def table_row(name: str, timed: Timed) -> dict[str, str]:
    """Return one line of the table of results."""
    evaluation = timed.evaluation
    metric = main_metric(evaluation)
    both = evaluation.transductive
    return {
        "": name,
        f"{metric}, inductive": shown(metric, evaluation.inductive[metric]),
        "transductive": shown(metric, both[metric]) if both else "same",
        "tasks": str(evaluation.num_tasks),
        "tasks/s": f"{evaluation.num_tasks / max(timed.seconds, 1e-9):.0f}",
        "compile": f"{timed.compile_seconds:.1f} s",
        "protocol": evaluation.protocol,
    }


def main_metric(evaluation: Evaluation) -> str:
    """Return the name of the main metric: accuracy or return where there is one, else loss."""
    return next(name for name in ("accuracy", "return", "loss") if name in evaluation.inductive)


def shown(metric: str, value: Estimate) -> str:
    """Return an estimate as text; accuracy in per cent."""
    if metric != "accuracy":
        return f"{value.mean:.3f} ± {value.half_width:.3f}"
    return f"{100 * value.mean:.2f} ± {100 * value.half_width:.2f} %"


def gains(results: dict[str, Timed], over: str) -> dict[str, str]:
    """Return, as text, each result's paired inductive difference from the result named `over`; accuracy in points."""
    metric = main_metric(results[over].evaluation)
    others = {name: timed.evaluation.inductive[metric] for name, timed in results.items() if name != over}
    differences = {
        name: paired_difference(value, results[over].evaluation.inductive[metric]) for name, value in others.items()
    }
    if metric != "accuracy":
        return {name: f"{value.mean:+.3f} ± {value.half_width:.3f} in {metric}" for name, value in differences.items()}
    return {
        name: f"{100 * value.mean:+.1f} ± {100 * value.half_width:.1f} points" for name, value in differences.items()
    }


def curve(experiment: Experiment, meta_params: PyTree, nums_steps: tuple[int, ...]) -> dict[int, Timed]:
    """Evaluate the same test tasks after different numbers of inner steps.

    Raises:
      ValueError: if the learner has no inner steps.
    """
    make = experiment.with_num_steps
    if make is None:
        raise ValueError("--inner-steps was given, but this method adapts without gradient steps; leave it out")
    return {
        steps: timed_evaluation(experiment, make(steps), meta_params, num_steps=steps)
        for steps in sorted(set(nums_steps))
    }


def store(folder: pathlib.Path, split_hash: str | None, results: dict[str, Timed]) -> None:
    """Add results, by name, to the folder's `evaluation.json`, one process after the other."""
    entries = {}
    for name, timed in results.items():
        seconds = {"seconds": timed.seconds, "compile_seconds": timed.compile_seconds}
        entry = {**as_json(timed.evaluation), **seconds, "split_hash": split_hash}
        entries[f"{name} | {timed.evaluation.protocol}"] = entry
    files.add_to_json(folder / "evaluation.json", entries)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the stored form of an evaluation: means and half-widths, without the values of single tasks."""

    def plain(estimates: dict[str, Estimate] | None) -> dict[str, Any] | None:
        if estimates is None:
            return None
        return {name: {"mean": value.mean, "half_width": value.half_width} for name, value in estimates.items()}

    diagrams = {
        kind: {
            "calibration_error": float(each.calibration_error()),
            **{k: v.tolist() for k, v in each._asdict().items()},
        }
        for kind, each in evaluation.reliability.items()
    }
    return {
        "protocol": evaluation.protocol,
        "num_tasks": evaluation.num_tasks,
        "inductive": plain(evaluation.inductive),
        "transductive": plain(evaluation.transductive),
    } | ({"reliability": diagrams} if diagrams else {})


def evaluate_seed(folder: pathlib.Path, command: Command, overrides: list[str]) -> Timed:
    """Evaluate one seed's run, print and store the result, and draw its pictures."""
    recipe, trained, meta_params = load_run(folder, command.recipe)
    experiment = uncertainty.with_scores(tested_otherwise(recipe, trained, overridden(recipe, trained, overrides)))
    name, timed = recipe.name, evaluated(experiment, meta_params)
    results = {name: timed}
    beside = experiment.baselines if command.baselines else {}
    for baseline, learner in beside.items():
        results[baseline] = timed_evaluation(experiment, learner, {})
    by_steps = {}
    if command.inner_steps:
        by_steps = curve(experiment, meta_params, command.inner_steps)
        results |= {f"{name}, {steps} inner steps": result for steps, result in by_steps.items()}
    console.print_table(f"{folder}: meta_test", [table_row(key, result) for key, result in results.items()])
    evaluations = {key: result.evaluation for key, result in results.items()}
    if scored := uncertainty.rows(evaluations):
        console.print_table("inductive predictions: scores of what they are sure of", scored)
    for baseline in beside:
        gain = gains({name: timed, baseline: results[baseline]}, over=baseline)[name]
        print(f"{name}: {gain} over {baseline}, task by task, on {experiment.source.name}")
    try:
        store(folder, experiment.source.split_hash, results)
        if by_steps:
            draw_curve(folder, name, experiment.test_protocol, by_steps)
        uncertainty.draw_reliability(folder, evaluations, title=f"{name}\n{timed.evaluation.protocol}")
        draw_episode(folder, name, experiment, meta_params)
    except OSError as error:  # someone else's folder, or a full disk: the results are printed all the same
        raise NotStoredError(timed, f"what is printed above could not be stored ({error})") from error
    return timed


class NotStoredError(console.StoppedError):
    """An evaluation that was printed but that the system did not let us store."""

    def __init__(self, timed: Timed, message: str):
        super().__init__(message)
        self.timed = timed


def overridden(recipe: Recipe, trained: Any, words: list[str], *, program: str = "jmeta evaluate RUN") -> Any:
    """Return the options of a run with the values that a command line overrides.

    Args:
      recipe: the run's recipe.
      trained: the run's options.
      words: words of the command line, such as `["--num-ways", "20"]`; any option of the recipe.
      program: name of the command in help and errors.

    Raises:
      SystemExit: after printing help, or the fault in an option.
      ValueError: if a number is out of range.
    """
    if not words:
        return trained
    unprefixed = Annotated[recipe.options, tyro.conf.arg(name="")]
    fields: Any = [("options", unprefixed, trained)]
    parsed = dataclasses.make_dataclass("Overrides", fields, frozen=True)
    chosen = tyro.cli(parsed, args=words, prog=program).options
    options.recorded(chosen)  # refuses numbers that JAX does not have
    check_testing(chosen.testing)
    return chosen


def draw_episode(folder: pathlib.Path, name: str, experiment: Experiment, meta_params: PyTree) -> pathlib.Path | None:
    """Draw the first test task with the learner's predictions, as `test_episode.png`; of images to complete, a few.

    Returns:
      The picture; `None` unless inputs are images, or the learner predicts distributions of numbers or of pixels.
    """
    keys = jax.random.split(jax.random.split(loop.split_key("meta_test"), 2)[0])
    learner, title = experiment.tested, f"{name}, a test task of {experiment.source.name}"
    if not is_image_task(experiment):
        picture = uncertainty.draw_regression(folder, experiment, meta_params, keys, title=title)
        return picture or uncertainty.draw_completion(folder, experiment, meta_params, keys[0], title=title)
    assert isinstance(learner, Learner)

    @jax.jit
    def predictions(meta_params: PyTree) -> tuple[Any, Any]:
        task = experiment.source.meta_test(keys[0])
        adapted = learner.adapt(meta_params, task.support, keys[1])
        return task, learner.predict(meta_params, adapted, task.query.x, None)

    from . import pictures  # imported late: it needs Matplotlib, which `--help` does not

    task, logits = jax.device_get(predictions(meta_params))
    return pictures.episode(folder / "test_episode.png", task, logits, title=title)


def draw_curve(folder: pathlib.Path, name: str, protocol: str, by_steps: dict[int, Timed]) -> pathlib.Path:
    """Draw the adaptation curve as `adaptation_curve.png`: inductive and, where it differs, transductive."""
    from . import pictures  # imported late, as above

    first = next(iter(by_steps.values())).evaluation
    metric = main_metric(first)
    curves = {"inductive": {steps: timed.evaluation.inductive[metric] for steps, timed in by_steps.items()}}
    transductive = {s: t.evaluation.transductive[metric] for s, t in by_steps.items() if t.evaluation.transductive}
    curves |= {"transductive": transductive} if transductive else {}
    title = f"{name}\n{protocol}"
    return pictures.adaptation_curve(folder / "adaptation_curve.png", curves, metric=metric, title=title)


def evaluate_all(command: Command, overrides: list[str]) -> None:
    """Evaluate every seed's run, then print and store the interval over seeds."""
    run = files.named_by_user(command.run)
    results, refused = {}, []
    for folder in run_folder.seed_folders(run):
        try:
            results[folder.name] = evaluate_seed(folder, command, overrides).evaluation
        except NotStoredError as error:
            results[folder.name] = error.timed.evaluation
            refused.append(str(error))
    if len(results) > 1:
        _over_seeds(run, results)
    if refused:
        raise console.StoppedError(refused[0])


def _over_seeds(run: pathlib.Path, results: dict[str, Evaluation]) -> None:
    first = next(iter(results.values()))
    metric = main_metric(first)
    by_seed = {f"{metric}, inductive": {seed: one.inductive[metric].mean for seed, one in results.items()}}
    both = {seed: one.transductive[metric].mean for seed, one in results.items() if one.transductive}
    by_seed |= {f"{metric}, transductive": both} if both else {}
    for words, over in seeds.over(by_seed).items():
        print(f"{len(results)} seeds: {words}, {shown(metric, over)} (95 % interval over seeds), {first.protocol}")
    seeds.store(run, f"meta_test | {first.protocol}", by_seed)


def command(arguments: list[str]) -> int:
    """Run `jmeta evaluate` and return the exit status."""
    parsed, overrides = tyro.cli(Command, args=arguments, prog="jmeta evaluate", return_unknown_args=True)
    console.use_compilation_cache()
    return console.run_command(lambda: evaluate_all(parsed, overrides), if_interrupted="what was printed is stored")
