"""A row of the results: what was trained, how it was judged, what came out, and the weights to judge again.

A row NAME is two files in `experiments/reproduce/rows`: NAME.json, and NAME.npz with the meta-parameters by path and
the metric of every test task, from which differences between rows are computed task by task.
"""

import dataclasses
import json
import pathlib
import shlex
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs import parts
from jmeta import Learner
from jmeta.adaptation import path_name
from jmeta.types import EpisodeFn, PyTree

from .. import baselines, evaluate, files, recipes
from ..build import Experiment, build

FOLDER = pathlib.Path(__file__).parent / "rows"
MAX_BYTES = 1_000_000


class Row(NamedTuple):
    """One row.

    Attributes:
      name: of its two files.
      facts: the content of the JSON file.
      meta_params: leaves by path.
      per_task: for each evaluation `"0"`, `"1"`, ... and kind the metric of every test task, as
        `"0 inductive"`, `"0 transductive"`.
    """

    name: str
    facts: dict[str, Any]
    meta_params: dict[str, np.ndarray]
    per_task: dict[str, np.ndarray]


def names() -> list[str]:
    """All rows there are."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> Row:
    """A row from its files."""
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        split = {key: arrays[key] for key in arrays.files}
    meta_params = {key.removeprefix("meta_params/"): split[key] for key in split if key.startswith("meta_params/")}
    per_task = {key.removeprefix("per_task/"): split[key] for key in split if key.startswith("per_task/")}
    return Row(name, facts, meta_params, per_task)


def write(row: Row) -> None:
    """Write a row's two files.

    Raises:
      ValueError: if the weights are larger than the repository should carry.
    """
    FOLDER.mkdir(exist_ok=True)
    arrays = {f"meta_params/{path}": leaf for path, leaf in row.meta_params.items()}
    arrays |= {f"per_task/{key}": values.astype(np.float32) for key, values in row.per_task.items()}
    temporary = FOLDER / f".{row.name}.npz"
    with temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    if (size := temporary.stat().st_size) > MAX_BYTES:
        temporary.unlink()
        raise ValueError(f"the weights of {row.name!r} take {size} bytes, above {MAX_BYTES}; use a smaller network")
    temporary.replace(FOLDER / f"{row.name}.npz")
    files.replace_text(FOLDER / f"{row.name}.json", json.dumps(row.facts, indent=1) + "\n")


def flattened(meta_params: PyTree) -> dict[str, np.ndarray]:
    """Leaves by path."""
    leaves = jax.tree_util.tree_leaves_with_path(meta_params)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def restored(experiment: Experiment, leaves: dict[str, np.ndarray]) -> PyTree:
    """The inverse of `flattened`, in the structure that the experiment's `init` gives; `{}` of a baseline's no leaves.

    Raises:
      ValueError: if paths or shapes differ from the experiment's.
    """
    if not leaves:
        return {}
    like = jax.eval_shape(experiment.init, jax.random.key(0))
    expected = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    got = {path: leaf.shape for path, leaf in leaves.items()}
    if expected != got:
        differing = sorted(set(expected.items()) ^ set(got.items()))
        raise ValueError(f"the row's weights are not those of its recipe; they differ in {differing[:4]}")
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(leaves[path_name(path)]), like)


def experiment_of(facts: dict[str, Any], *, num_tasks: int | None = None) -> tuple[parts.Recipe, Experiment]:
    """The recipe of a row and the experiment that tests it, on `num_tasks` tasks if given.

    Raises:
      FileNotFoundError: if its data are not there.
    """
    recipe = recipes.with_options(recipes.load(facts["recipe"]), facts["options"])
    test = facts["test"]
    options = evaluate.Options(
        run=pathlib.Path(),
        protocol=test["protocol"],
        num_ways=test["num_ways"],
        num_shots=test["num_shots"],
        num_tasks=test["num_tasks"] if num_tasks is None else num_tasks,
        tested_on=test.get("tested_on"),  # older rows have none
    )
    return recipe, build(evaluate.tested_otherwise(recipe, options))


def learners_of(
    facts: dict[str, Any], recipe: parts.Recipe, experiment: Experiment
) -> list[tuple[Learner | EpisodeFn, int | None]]:
    """What a row judges, with its inner steps: one for each number of them, or the recipe's own."""
    match facts["test"].get("baseline"):
        case "nearest mean":
            return [(baselines.nearest_mean(experiment), None)]
        case "from scratch":
            return [(baselines.from_scratch(recipe, experiment), baselines.NUM_SCRATCH_STEPS)]
    if not facts["test"]["inner_steps"]:
        return [(experiment.judge or experiment.learner, experiment.num_test_steps)]
    make = experiment.make_judge or experiment.make_learner
    assert make is not None, "only a method with inner steps has a list of them"
    return [(make(steps), steps) for steps in facts["test"]["inner_steps"]]


def recipe_data_name(facts: dict[str, Any]) -> str:
    """The class of a row's data, such as `"Bandit"`."""
    return type(recipes.load(facts["recipe"]).data).__name__


def command_of(name: str, recipe: parts.Recipe) -> str:
    """The command that trains a recipe with these options: what differs from the defaults is spelt out."""

    def overrides(value: Any, default: Any, prefix: str) -> list[str]:
        words = []
        for field in dataclasses.fields(value):
            new, old = getattr(value, field.name), getattr(default, field.name)
            path = f"{prefix}{field.name.replace('_', '-')}"
            if dataclasses.is_dataclass(new) and type(new) is type(old):
                words += overrides(new, old, f"{path}.")
            elif new != old and isinstance(new, bool):
                words.append(f"--{path}" if new else f"--{prefix}no-{path.removeprefix(prefix)}")
            elif new != old:
                words += [f"--{path}", *(str(word) for word in (new if isinstance(new, tuple) else (new,)))]
        return words

    return shlex.join(["python", "-m", "experiments.train", name, *overrides(recipe, recipes.load(name), "")])
