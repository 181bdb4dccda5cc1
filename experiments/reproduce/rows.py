"""Rows of the results: the training, the evaluation, its numbers, and the weights, so that it can be repeated.

A row NAME is two files in `experiments/reproduce/rows`: NAME.json, and NAME.npz with the meta-parameters by path and
the metric and scores of every test task, from which differences between rows are computed task by task.
"""

import json
import pathlib
import shlex
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmeta import Learner
from jmeta.params import path_name
from jmeta.runs import Experiment, evaluate, files, options, recipes
from jmeta.runs.recipes import Recipe
from jmeta.types import EpisodeFn, PyTree

FOLDER = pathlib.Path(__file__).parent / "rows"
MAX_BYTES = 1_000_000

_GROUPS = ("meta_params/", "per_task/", "reliability/")  # of the arrays in a row's file
_OLDER_NAMES = {"nearest mean": "nearest mean of the inputs", "from scratch": "from scratch, 100 steps"}


class Row(NamedTuple):
    """One row of the results.

    Attributes:
      name: name of the row's two files.
      facts: content of the JSON file.
      meta_params: leaves of the meta-parameters, by path.
      per_task: the metric of every test task, by number and kind of the evaluation, such as `"0 inductive"`,
        `"0 transductive"`; and each score of class predictions, such as `"0 inductive negative_log_likelihood"`.
      reliability: the reliability diagrams of class predictions, `[3, bins]`, by number and kind of the evaluation.
    """

    name: str
    facts: dict[str, Any]
    meta_params: dict[str, np.ndarray]
    per_task: dict[str, np.ndarray]
    reliability: dict[str, np.ndarray]


def names() -> list[str]:
    """Return the names of all rows."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> Row:
    """Read a row from its files."""
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        split = {key: arrays[key] for key in arrays.files}

    def of(group: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(group): values for key, values in split.items() if key.startswith(group)}

    return Row(name, facts, *(of(group) for group in _GROUPS))


def write(row: Row) -> None:
    """Write a row's two files.

    Raises:
      ValueError: if the weights are larger than the repository should carry.
    """
    FOLDER.mkdir(exist_ok=True)
    per_task = {key: values.astype(np.float32) for key, values in row.per_task.items()}
    groups = zip(_GROUPS, (row.meta_params, per_task, row.reliability), strict=True)
    arrays = {f"{group}{key}": values for group, each in groups for key, values in each.items()}
    temporary = FOLDER / f".{row.name}.npz"
    with temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    if (size := temporary.stat().st_size) > MAX_BYTES:
        temporary.unlink()
        raise ValueError(f"the weights of {row.name!r} take {size} bytes, above {MAX_BYTES}; use a smaller network")
    temporary.replace(FOLDER / f"{row.name}.npz")
    files.replace_text(FOLDER / f"{row.name}.json", json.dumps(row.facts, indent=1) + "\n")


def flattened(meta_params: PyTree) -> dict[str, np.ndarray]:
    """Return the leaves of meta-parameters, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(meta_params)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def restored(experiment: Experiment, leaves: dict[str, np.ndarray]) -> PyTree:
    """Restore meta-parameters from `flattened` leaves, in the structure of `experiment.init_fn`; `{}` for a baseline.

    Raises:
      ValueError: if paths or shapes differ from the experiment's.
    """
    if not leaves:
        return {}
    like = jax.eval_shape(experiment.init_fn, jax.random.key(0))
    expected = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    got = {path: leaf.shape for path, leaf in leaves.items()}
    if expected != got:
        differing = sorted(set(expected.items()) ^ set(got.items()))
        raise ValueError(f"the row's weights are not those of its recipe; they differ in {differing[:4]}")
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(leaves[path_name(path)]), like)


def recipe_of(facts: dict[str, Any]) -> tuple[Recipe, Any]:
    """Return the recipe of a row, and the options that it was trained with."""
    recipe = recipes.load(facts["recipe"])
    return recipe, options.restored(recipe.options(), facts["options"])


class Line(NamedTuple):
    """What one line of a row evaluates: `learner`, with `num_steps` inner steps, on the test tasks of `experiment`."""

    experiment: Experiment
    learner: Learner | EpisodeFn
    num_steps: int | None


def lines_of(facts: dict[str, Any], *, num_tasks: int | None = None) -> list[Line]:
    """Return what each line of a row evaluates: the variants of its test options in turn, each with its inner steps."""
    variants = facts["test"].get("variants", [{}])
    experiments = [experiment_of(facts, num_tasks=num_tasks, variant=each) for each in variants]
    return [Line(each, *pair) for each in experiments for pair in learners_of(facts, each)]


def experiment_of(
    facts: dict[str, Any], *, num_tasks: int | None = None, variant: dict[str, Any] | None = None
) -> Experiment:
    """Build the experiment that evaluates a row or one of its variants, on `num_tasks` tasks if given.

    Raises:
      FileNotFoundError: if its data are missing.
    """
    recipe, trained = recipe_of(facts)
    changes = facts["test"]["options"] | ({} if num_tasks is None else {"testing.num_tasks": num_tasks})
    changes |= variant or {}
    return evaluate.tested_otherwise(recipe, trained, options.replaced(trained, changes))


def learners_of(facts: dict[str, Any], experiment: Experiment) -> list[tuple[Learner | EpisodeFn, int | None]]:
    """Return the learners that a row evaluates with their inner steps: one for each number, or the recipe's own.

    Raises:
      ValueError: if the recipe has no such baseline, or no inner steps.
    """
    if "baseline" in facts["test"]:
        baseline: str = facts["test"]["baseline"]
        name = _OLDER_NAMES.get(baseline, baseline)
        if name not in experiment.baselines:
            there_are = ", ".join(experiment.baselines) or "none"
            raise ValueError(f"{facts['recipe']} has no baseline {name!r}; its baselines: {there_are}")
        return [(experiment.baselines[name], None)]
    if not facts["test"]["inner_steps"]:
        return [(experiment.tested, experiment.num_test_steps)]
    if (make := experiment.with_num_steps) is None:
        raise ValueError(f"{facts['recipe']} adapts without gradient steps; pass no numbers of inner steps")
    return [(make(steps), steps) for steps in facts["test"]["inner_steps"]]


def command_of(recipe: Recipe, trained: Any) -> str:
    """Return the command that trains a recipe with these options; only options that differ from defaults are named.

    Example:
      >>> recipe = recipes.load("glyphs_maml")
      >>> command_of(recipe, options.replaced(recipe.options(), {"first_order": True, "training.num_steps": 500}))
      'jmeta train glyphs_maml --first-order --training.num-steps 500'
    """
    words = ["jmeta", "train", recipe.name]
    for path, value in options.differences(trained, recipe.options()).items():
        groups, dot, name = path.replace("_", "-").rpartition(".")
        if isinstance(value, bool):
            words.append(f"--{groups}{dot}{name}" if value else f"--{groups}{dot}no-{name}")
        else:
            words += [f"--{groups}{dot}{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)
