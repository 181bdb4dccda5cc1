"""Attacks on configurations: recorded options of any types, numbers of a run out of range, and recipe files."""

import copy
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from jmeta.runs import Testing, Training, options, recipes
from jmeta.runs import folder as run_folder
from jmeta.runs.experiment import check

from .cases import Outcome, judge

__all__ = ["attack", "ODD"]

_RECIPES = ["blobs_protonet", "sinusoid_maml", "bandit_rl2", "glyphs_maml"]
ODD = [
    *[
        0,
        1,
        -1,
        2,
        2**31,
        2**32,
        2**63,
        2**64,
        10**400,
        0.5,
        -0.5,
        1e308,
        float("nan"),
        float("inf"),
        True,
        False,
        None,
    ],
    *["", "3", "nan", "auto", "x" * 10_000, "\x1b[2J", "\ud800", "é", [], [1], [[1]], ["a"], {}, {"a": 1}, [None]],
]
"""Values of any JSON type, and some that JSON lacks."""


def attack(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """One of: recorded options, a `config.json`, numbers of a run, a recipe file."""
    return [_recorded, _recorded, _config, _numbers, _recipe_file][rng.integers(5)](rng, folder)


def _any(rng: np.random.Generator) -> Any:
    return copy.deepcopy(ODD[rng.integers(len(ODD))])


def _changed(values: Any, rng: np.random.Generator) -> Any:
    """Change one place of a JSON value, at any depth: replace, remove, add or rename."""
    if not isinstance(values, dict | list) or not values or rng.integers(4) == 0:
        return _any(rng)
    if isinstance(values, list):
        i = int(rng.integers(len(values)))
        return [*values[:i], *([_changed(values[i], rng)] if rng.integers(3) else []), *values[i + 1 :]]
    name = list(values)[rng.integers(len(values))]
    match rng.integers(5):
        case 0:
            return {k: v for k, v in values.items() if k != name}
        case 1:
            return {**values, f"{name}_": _any(rng)}
        case _:
            return {**values, name: _changed(values[name], rng)}


def _recorded(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """What is restored is, recorded again, what was recorded: or else it was refused."""
    del folder
    default = recipes.load(_RECIPES[rng.integers(len(_RECIPES))]).options()
    changed = _changed(options.recorded(default), rng)

    def is_right(restored: Any) -> bool:  # an option that is missing takes its default
        again, given = options.flat(options.recorded(restored)), options.flat(changed)
        elsewhere = {"training.mesh", "training.warm_start"}  # which the record leaves out
        return all(name in elsewhere or _same(again.get(name, {}), value) for name, value in given.items())

    return judge(lambda: options.restored(default, changed), what=f"options {changed!r:.200}", is_right=is_right)


def _same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)


def _config(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """A `config.json`, changed as a value or as text, and signed again or not."""
    default = recipes.load("blobs_protonet").options()
    run_folder.write_config(folder, "blobs_protonet", default, None, is_ours=True)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if rng.integers(2):
        config = _changed(config, rng)
        if isinstance(config, dict) and isinstance(config.get("options"), dict) and rng.integers(2):
            config["hash"] = options.hash_of(config["options"])
        content = json.dumps(config).encode(errors="surrogatepass")
    else:
        content = path.read_bytes()
        i, n = int(rng.integers(len(content))), int(rng.integers(1, 9))
        content = content[:i] + [b"", rng.bytes(n), b"[" * 100_000, b"9" * 10_000][rng.integers(4)] + content[i + n :]
    path.write_bytes(content)

    def is_right(found: run_folder.Config) -> bool:
        written = json.loads(content)
        return (found.recipe, found.is_ours) == (written["recipe"], written["is_ours"]) and found.values == written[
            "options"
        ]

    return judge(lambda: run_folder.read_config(folder), what=f"config.json {content[:100]!r}", is_right=is_right)


def _numbers(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """`Training` and `Testing` against their rules, written down once more."""
    del folder
    training = Training(num_steps=20, tasks_per_step=2, steps_per_dispatch=5, evaluate_every=10)
    testing = Testing(num_tasks=10, tasks_at_once=2)
    names = "num_steps tasks_per_step steps_per_dispatch evaluate_every checkpoint_every num_valid_tasks patience"
    name = [*names.split(), "max_skipped_in_a_row", "keep_last", "seed", "num_tasks", "tasks_at_once"][rng.integers(12)]
    value = [-(2**40), -5, -1, 0, 1, 2, 5, 7, 10, 15, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63][rng.integers(15)]
    of_testing = name in ("num_tasks", "tasks_at_once")
    changed = dataclasses.replace(testing if of_testing else training, **{name: value})
    least = {"num_valid_tasks": 2, "num_tasks": 2, "seed": 0}.get(name, 1)
    most = 2**32 - 1 if name == "seed" else 2**31 - 1
    is_right = least <= value <= most
    if name in ("num_steps", "evaluate_every", "checkpoint_every"):
        is_right &= value % 5 == 0
    if name == "steps_per_dispatch":
        is_right &= 20 % max(value, 1) == 0 and 10 % max(value, 1) == 0
    arguments: Any = (training, changed) if of_testing else (changed, testing)
    return judge(lambda: check(*arguments), what=f"{name}={value}", must="accept" if is_right else "refuse")


_HEAD = "import dataclasses\nfrom jmeta import runs\n"
_OPTIONS = """
@dataclasses.dataclass(frozen=True)
class Options:
    '''Mine.'''
    width: int = 3
    training: runs.Training = runs.Training(num_steps=2, tasks_per_step=1, steps_per_dispatch=1, evaluate_every=1)
    testing: runs.Testing = runs.Testing()
"""
_BUILD = "\ndef build(options):\n    return None\n"
_EDITS = {  # of a line of a recipe file: what stands there instead
    "    width: int = 3\n": [
        "    width: int\n",
        "    width = 3\n",
        "    width: int = None\n",
        "",
        "    width: 'nonsense' = 3\n",
        "    other: list = [1]\n",
    ],
    "@dataclasses.dataclass(frozen=True)\n": ["", "@dataclasses.dataclass\n", "@undefined\n"],
    "class Options:\n": ["class Option:\n", "class Options(int):\n", "class Options\n"],
    "    '''Mine.'''\n": ["", "    ''''''\n", "    '''\n"],
    "    testing: runs.Testing = runs.Testing()\n": [
        "",
        "    testing: int = 3\n",
        "    testing: runs.Testing = runs.Training\n",
    ],
    "def build(options):\n": [
        "",
        "build = 3\ndef other(options):\n",
        "class build:\n",
        "def build(:\n",
        "raise KeyError(3)\ndef build(options):\n",
    ],
    "import dataclasses\n": [
        "import missing\n",
        "import dataclasses, sys; sys.exit(3)\n",
        "\x00",
        "1/0\n",
        "raise ValueError\n",
    ],
}


def _recipe_file(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """A file of a user's with one mistake, or none."""
    text = _HEAD + _OPTIONS + _BUILD
    if is_edited := bool(rng.integers(8)):
        line = list(_EDITS)[rng.integers(len(_EDITS))]
        text = text.replace(line, _EDITS[line][rng.integers(len(_EDITS[line]))])
    path = folder / ["mine.py", "my recipe.py", "é.py", "blobs_protonet.py", "class.py", "a.b.py"][rng.integers(6)]
    path.write_text(text)
    return judge(
        lambda: recipes.in_file(str(path)).summary,
        what=f"recipe file {text!r}",
        must="either" if is_edited else "accept",
        is_right=lambda summary: is_edited or summary == "Mine.",
    )
