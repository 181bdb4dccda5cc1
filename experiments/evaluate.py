"""Judge a trained run on meta_test: `python -m experiments.evaluate RUN [--baselines] [--inner-steps 0 1 5 10]`.

RUN is the folder of one seed or that of all seeds of a recipe. The parameters are those chosen on meta_valid. Results
are printed, with the name of their protocol, and kept in the run folder as `evaluation.json`, one entry a protocol;
the interval over several seeds in `over_seeds.json` of their common folder.
"""

import dataclasses
import pathlib
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

import jmeta
from configs import parts
from jmeta import Learner, checkpoints
from jmeta.evaluation import Estimate, Evaluation, evaluate_episodes, paired_difference
from jmeta.types import EpisodeFn, PyTree, RandomKey

from . import baselines, console, files, loop, over_seeds, pictures, recipes, run_folder, run_state
from .build import Experiment, build
from .sources import named_protocol


@dataclasses.dataclass(frozen=True)
class Options:
    """Judge a trained run on meta_test."""

    run: tyro.conf.Positional[pathlib.Path]
    """Folder of one seed's run, or the one that has the folders of all seeds."""
    protocol: parts.ProtocolName | None = None
    """Another protocol than the recipe's, if none of its test classes was trained on."""
    num_ways: int | None = None
    """Classes in a test task, in place of the recipe's."""
    num_shots: int | None = None
    """Support examples of each class of a test task, in place of the recipe's."""
    num_tasks: int | None = None
    """Test tasks, in place of the recipe's."""
    tested_on: parts.TestedOn | None = None
    """Bodies of robots inside or outside of training's ranges, in place of the recipe's."""
    inner_steps: tuple[int, ...] = ()
    """Numbers of inner steps to draw the adaptation curve for, such as 0 1 5 10."""
    baselines: bool = False
    """Judge on the same tasks what learns nothing from others: the nearest mean of the inputs, and the run's network
    trained from scratch on each support. The latter takes a while."""


class Timed(NamedTuple):
    """An evaluation and what it took.

    Attributes:
      evaluation: the estimates.
      seconds: without compilation.
      compile_seconds: tracing and compiling.
    """

    evaluation: Evaluation
    seconds: float
    compile_seconds: float


def seed_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the seeds' runs in a folder, which may be such a one itself.

    Raises:
      ValueError: if there is none.
    """
    if (folder / "config.json").is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob("seed_*/config.json"))
    if not found:
        runs = sorted(str(path.parent) for path in folder.glob("*/config.json"))
        inside = f", but {', '.join(runs)} {'are' if len(runs) > 1 else 'is'}" if runs else " and has none in it"
        raise ValueError(f"{folder} is not a run folder{inside}; pass what --run-dir was, or runs/NAME")
    return found


def load_run(folder: pathlib.Path) -> tuple[str, parts.Recipe, PyTree]:
    """`(recipe name, recipe, meta-parameters)`, the last those with the best score on meta_valid.

    Raises:
      ValueError: if the folder holds no run, one without a checkpoint yet, one that never had a finite score, or one of
        other classes than the data now have.
    """
    name, options = run_folder.read_config(folder)
    recipe = recipes.with_options(recipes.load(name), options)
    experiment = build(recipe)
    run_folder.check_split(folder, experiment.source.split_hash)
    like = run_state.init_state(experiment, recipe.training.seed)
    restored = checkpoints.restore(folder / "checkpoints", like, best=True)
    if restored is None:
        raise ValueError(f"{folder} has no checkpoint yet; train it first")
    if not np.isfinite(restored[1].best_score):
        raise ValueError(f"{folder} never had a finite score on meta_valid, so there is no model to judge")
    step, latest = checkpoints.restore(folder / "checkpoints", like) or restored
    if not run_state.is_finished(latest, recipe.training):
        print(f"note: {folder} is at step {step} of {recipe.training.num_steps}; judged is the best model until then")
    return name, recipe, restored[1].best_meta_params


def tested_otherwise(recipe: parts.Recipe, options: Options) -> parts.Recipe:
    """The recipe with the options' test tasks; of its training tasks only the number of ways matters any more.

    Raises:
      ValueError: if what is asked for is not of its kind of data, or it was trained on classes that another protocol
        tests.
    """
    given = {name: getattr(options, name) for name in ("num_ways", "num_shots", "num_tasks")}
    testing = dataclasses.replace(recipe.testing, **{k: v for k, v in given.items() if v is not None})
    changed: dict[str, Any] = {"testing": testing}
    if isinstance(recipe.data, parts.Images):
        ways = recipe.data.train_ways or named_protocol(recipe.data.protocol).train_ways or recipe.testing.num_ways
        protocol = options.protocol or recipe.data.protocol
        _check_unseen(recipe.data.protocol, protocol)
        # training tasks are not drawn again: one image for each part, so that no class has too few
        changed["data"] = dataclasses.replace(
            recipe.data, protocol=protocol, train_ways=ways, train_shots=1, train_queries=1
        )
    elif options.protocol is not None:
        raise ValueError(f"--protocol {options.protocol} is of named images, but the run is not; leave it out")
    elif isinstance(recipe.data, parts.Folder):
        ways = recipe.data.train_ways or recipe.testing.num_ways
        changed["data"] = dataclasses.replace(recipe.data, train_ways=ways, train_shots=1)
    if options.tested_on is not None:
        if not isinstance(recipe.data, parts.Robot):
            raise ValueError(f"--tested-on {options.tested_on} is of robots' bodies; the run has none, leave it out")
        changed["data"] = dataclasses.replace(recipe.data, tested_on=options.tested_on)
    return dataclasses.replace(recipe, **changed)  # pyright: ignore[reportArgumentType]


def _check_unseen(trained: parts.ProtocolName, tested: parts.ProtocolName) -> None:
    if trained == tested or named_protocol(trained).dataset != named_protocol(tested).dataset:
        return
    splits = named_protocol(trained).load(None)
    seen = {*splits.meta_train.class_names, *splits.meta_valid.class_names}
    judged = named_protocol(tested).load(None).meta_test.class_names
    if overlap := seen & set(judged):
        raise ValueError(
            f"--protocol {tested}: {len(overlap)} of its {len(judged)} test classes are among those that {trained} "
            f"trains on or chooses models by; train a run with --data.protocol {tested}"
        )


def timed_evaluation(
    experiment: Experiment,
    learner: Learner | EpisodeFn,
    meta_params: PyTree,
    *,
    tasks_at_once: int,
    num_steps: int | None = None,
) -> Timed:
    """What is judged, on the fixed tasks of meta_test, the same for all; `num_steps` goes with the protocol.

    A learner is judged by its predictions, an episode function by what it reports.
    """
    start = time.perf_counter()
    steps = "" if num_steps is None else f", {loop.inner_steps(num_steps)}"
    with console.compile_clock() as compiling:
        evaluation = evaluation_of(
            experiment, learner, meta_params, loop.split_key("meta_test"), steps=steps, tasks_at_once=tasks_at_once
        )
    return Timed(evaluation, time.perf_counter() - start - compiling.seconds, compiling.seconds)


def evaluation_of(
    experiment: Experiment,
    judged: Learner | EpisodeFn,
    meta_params: PyTree,
    key: RandomKey,
    *,
    steps: str,
    tasks_at_once: int,
) -> Evaluation:
    """A learner judged by its predictions, or an episode function by what it reports, on the tasks of a key."""
    arguments = (meta_params, experiment.source.meta_test, key)
    numbers: Any = {
        "protocol": experiment.source.protocol + steps,
        "num_tasks": experiment.source.num_test_tasks,
        "tasks_at_once": tasks_at_once,
    }
    if isinstance(judged, Learner):
        return jmeta.evaluate(judged, experiment.loss_fn, *arguments, **numbers)
    return evaluate_episodes(judged, *arguments, **numbers)


def evaluated(experiment: Experiment, meta_params: PyTree, tasks_at_once: int) -> Timed:
    """The experiment's own learner on meta_test."""
    judged, steps = experiment.judge or experiment.learner, experiment.num_test_steps
    return timed_evaluation(experiment, judged, meta_params, tasks_at_once=tasks_at_once, num_steps=steps)


def table_row(name: str, timed: Timed) -> dict[str, str]:
    """One line of the table of results."""
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
    """Accuracy or return where there is one, else loss."""
    return next(name for name in ("accuracy", "return", "loss") if name in evaluation.inductive)


def shown(metric: str, value: Estimate) -> str:
    """An estimate as text; accuracy in per cent."""
    if metric != "accuracy":
        return f"{value.mean:.3f} ± {value.half_width:.3f}"
    return f"{100 * value.mean:.2f} ± {100 * value.half_width:.2f} %"


def gains(results: dict[str, Timed], over: str) -> dict[str, str]:
    """How far each result is from that of one name on the same tasks, inductive, as text; accuracy in points."""
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


def curve(
    experiment: Experiment, meta_params: PyTree, nums_steps: tuple[int, ...], *, tasks_at_once: int
) -> dict[int, Timed]:
    """The same test tasks after different numbers of inner steps.

    Raises:
      ValueError: if the learner has no inner steps.
    """
    make = experiment.make_judge or experiment.make_learner
    if make is None:
        raise ValueError("--inner-steps was given, but this method adapts without gradient steps; leave it out")
    return {
        steps: timed_evaluation(experiment, make(steps), meta_params, tasks_at_once=tasks_at_once, num_steps=steps)
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
    """What is written of an evaluation: means and half-widths, without the values of single tasks."""

    def plain(estimates: dict[str, Estimate] | None) -> dict[str, Any] | None:
        if estimates is None:
            return None
        return {name: {"mean": value.mean, "half_width": value.half_width} for name, value in estimates.items()}

    return {
        "protocol": evaluation.protocol,
        "num_tasks": evaluation.num_tasks,
        "inductive": plain(evaluation.inductive),
        "transductive": plain(evaluation.transductive),
    }


def evaluate_seed(folder: pathlib.Path, options: Options) -> Timed:
    """Evaluate one seed's run, print and store the result, and draw its pictures."""
    name, recipe, meta_params = load_run(folder)
    experiment, tasks_at_once = build(tested_otherwise(recipe, options)), recipe.testing.tasks_at_once
    timed = evaluated(experiment, meta_params, tasks_at_once)
    results = {name: timed}
    beside = baselines.learners_of(recipe, experiment) if options.baselines else {}
    for baseline, learner in beside.items():
        results[baseline] = timed_evaluation(experiment, learner, {}, tasks_at_once=tasks_at_once)
    if options.inner_steps:
        by_steps = curve(experiment, meta_params, options.inner_steps, tasks_at_once=tasks_at_once)
        results |= {f"{name}, {steps} inner steps": result for steps, result in by_steps.items()}
        draw_curve(folder, name, experiment.source.protocol, by_steps)
    if is_image_task(experiment):
        draw_episode(folder, name, experiment, meta_params)
    store(folder, experiment.source.split_hash, results)
    console.print_table(f"{folder}: meta_test", [table_row(key, result) for key, result in results.items()])
    for baseline in beside:
        gain = gains({name: timed, baseline: results[baseline]}, over=baseline)[name]
        print(f"{name}: {gain} over {baseline}, task by task, on {experiment.source.name}")
    return timed


def is_image_task(experiment: Experiment) -> bool:
    """Whether inputs are `[height, width, channels]`."""
    if experiment.judge is not None:
        return False
    task = jax.eval_shape(experiment.source.meta_test, jax.random.key(0))
    return hasattr(task.query.x, "shape") and len(task.query.x.shape) == 4


def draw_episode(folder: pathlib.Path, name: str, experiment: Experiment, meta_params: PyTree) -> pathlib.Path:
    """The first test task with the learner's predictions, as `test_episode.png`."""
    key_task, key_adapt = jax.random.split(jax.random.split(loop.split_key("meta_test"), 2)[0])
    learner = experiment.learner

    @jax.jit
    def predictions(meta_params: PyTree) -> tuple[Any, Any]:
        task = experiment.source.meta_test(key_task)
        adapted = learner.adapt(meta_params, task.support, key_adapt)
        return task, learner.predict(meta_params, adapted, task.query.x, None)

    task, logits = jax.device_get(predictions(meta_params))
    title = f"{name}, a test task of {experiment.source.name}"
    return pictures.episode(folder / "test_episode.png", task, logits, title=title)


def draw_curve(folder: pathlib.Path, name: str, protocol: str, by_steps: dict[int, Timed]) -> pathlib.Path:
    """The adaptation curve as `adaptation_curve.png`, inductive and, where it differs, transductive."""
    first = next(iter(by_steps.values())).evaluation
    metric = main_metric(first)
    curves = {"inductive": {steps: timed.evaluation.inductive[metric] for steps, timed in by_steps.items()}}
    transductive = {s: t.evaluation.transductive[metric] for s, t in by_steps.items() if t.evaluation.transductive}
    curves |= {"transductive": transductive} if transductive else {}
    title = f"{name}\n{protocol}"
    return pictures.adaptation_curve(folder / "adaptation_curve.png", curves, metric=metric, title=title)


def evaluate_all(options: Options) -> None:
    """Evaluate every seed's run, and print and store the interval over several."""
    run = files.named_by_user(options.run)
    results = {folder.name: evaluate_seed(folder, options).evaluation for folder in seed_folders(run)}
    if len(results) == 1:
        return
    first = next(iter(results.values()))
    metric = main_metric(first)
    by_seed = {f"{metric}, inductive": {seed: one.inductive[metric].mean for seed, one in results.items()}}
    both = {seed: one.transductive[metric].mean for seed, one in results.items() if one.transductive}
    by_seed |= {f"{metric}, transductive": both} if both else {}
    for words, over in over_seeds.store(run, f"meta_test | {first.protocol}", by_seed).items():
        print(f"{len(results)} seeds: {words}, {shown(metric, over)} (95 % interval over seeds), {first.protocol}")


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.evaluate")
    console.use_compilation_cache()
    return console.run_command(lambda: evaluate_all(options), if_interrupted="what was printed is stored")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
