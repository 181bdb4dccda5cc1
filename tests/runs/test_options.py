"""Options as a run records them, and as they come back from a file that may be older, or from anyone."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from jmeta import runs
from jmeta.runs import options, recipes

TRAINING = runs.Training(num_steps=20, tasks_per_step=4, steps_per_dispatch=10, evaluate_every=10)


@dataclass(frozen=True)
class Inner:
    width: int
    rates: tuple[float, ...] = (0.1, 0.2)


@dataclass(frozen=True)
class Options:
    norm: Literal["batch", "group"] = "batch"
    size: tuple[int, int] | None = (28, 28)
    names: tuple[str, ...] = field(default_factory=lambda: ("a",))
    inner: Inner = Inner(3)
    training: runs.Training = TRAINING
    testing: runs.Testing = runs.Testing()


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_comes_back_from_its_options(name):
    defaults = recipes.load(name).options()
    assert options.restored(defaults, options.recorded(defaults)) == defaults


def test_where_a_run_computes_is_no_part_of_what_it_is():
    elsewhere = Options(training=dataclasses.replace(TRAINING, mesh="tasks=8"))
    assert options.recorded(elsewhere) == options.recorded(Options())
    assert "mesh" not in options.recorded(Options())["training"]
    assert options.restored(Options(), options.recorded(elsewhere)).training.mesh is None


def test_the_hash_does_not_depend_on_order():
    assert options.hash_of({"a": 1, "b": [2]}) == options.hash_of({"b": [2], "a": 1})
    assert options.hash_of({"a": 1}) != options.hash_of({"a": 2})


def test_options_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError, match="since JSON records them"):
        options.recorded(Options(names=(object(),)))


def test_options_that_are_newer_than_a_run_mean_what_was_done_before():
    """The defaults of the class, and not those of the recipe."""
    values = options.recorded(Options(size=None, inner=Inner(5, (0.3,))))
    assert options.restored(Options(), values) == Options(size=None, inner=Inner(5, (0.3,)))
    for older in ("norm", "size", "names"):
        del values[older]
    del values["inner"]["rates"]
    restored = options.restored(Options(norm="group", size=(1, 1), names=("b",), inner=Inner(7, (0.9,))), values)
    assert restored == Options(inner=Inner(5, (0.1, 0.2)))


def test_options_that_there_are_not_and_those_that_are_needed_are_named():
    values = options.recorded(Options())
    with pytest.raises(ValueError, match="the recorded options and Options differ in colour; use the version"):
        options.restored(Options(), {**values, "colour": "red"})
    del values["training"]["num_steps"]  # which has no default
    with pytest.raises(ValueError, match="Training differ in mesh, num_steps"):
        options.restored(Options(), values)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[("norm", value, "'batch' or 'group'") for value in ("layer", 1, ["batch"], {"batch": 1}, None)],
        *[
            ("size", value, "a list of a whole number, a whole number or null")
            for value in ([1], [1, 2, 3], [1, "2"], 5)
        ],
        *[("names", value, "a list of text, ...") for value in ("a", [1], [["a"]], ["a\x1b[2J"])],
        *[("inner", value, "named options") for value in (3, [], None, "text")],
    ],
)
def test_values_of_other_types_are_refused(name, value, expected):
    with pytest.raises(ValueError, match="the recorded ") as caught:
        options.restored(Options(), {**options.recorded(Options()), name: value})
    assert str(caught.value).startswith(f"the recorded {name} is ")
    assert str(caught.value).endswith(f"; expected {expected}")
    assert str(caught.value).isprintable()


def test_numbers_are_told_from_truth_and_text():
    inner = lambda **values: options.restored(
        Options(), {**options.recorded(Options()), "inner": {"width": 3, **values}}
    )
    assert inner(rates=[1, 2.5]).inner.rates == (1, 2.5)  # a whole number is a number
    for values in ({"width": True}, {"width": 3.0}, {"width": "3"}, {"width": 10**30}, {"rates": [True]}):
        with pytest.raises(ValueError, match=r"the recorded inner\.(width|rates) is "):
            inner(**values)


def test_differences_are_what_replaces_them():
    changed = Options(norm="group", inner=Inner(3, (0.5,)), testing=runs.Testing(num_tasks=5))
    differences = options.differences(changed, Options())
    assert differences == {"norm": "group", "inner.rates": [0.5], "testing.num_tasks": 5}
    assert options.replaced(Options(), differences) == changed
    with pytest.raises(ValueError, match=r"Options has no option testing\.num_task; did you mean testing\.num_tasks"):
        options.replaced(Options(), {"testing.num_task": 5})
