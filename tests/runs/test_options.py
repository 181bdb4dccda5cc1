"""Options by their paths: what differs from other options, and options with such differences."""

import dataclasses

import pytest

from jmeta import runs
from jmeta.runs.options import differences, replaced

TRAINING = runs.Training(num_steps=10, tasks_per_step=2, steps_per_dispatch=5, evaluate_every=5, mesh="tasks=2")
TESTING = runs.Testing()


@dataclasses.dataclass(frozen=True)
class Options:
    num_ways: int = 5
    rate: float = 0.1
    widths: tuple[int, ...] = (64, 32)
    is_greedy: bool = True
    training: runs.Training = TRAINING
    testing: runs.Testing = TESTING


def test_the_same_options_differ_in_nothing():
    assert differences(Options(), Options()) == {}
    assert replaced(Options(), {}) == Options()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_ways": 20},
        {"rate": 1},  # as JSON may write 1.0
        {"widths": [8], "is_greedy": False},
        {"widths": []},
        {"testing.num_tasks": 100, "training.patience": 3, "training.mesh": None},
    ],
)
def test_replaced_is_the_inverse_of_differences(changes):
    assert differences(replaced(Options(), changes), Options()) == changes
    assert replaced(replaced(Options(), changes), differences(Options(), replaced(Options(), changes))) == Options()


def test_what_is_not_replaced_stays():
    changed = replaced(Options(rate=0.5), {"testing.num_tasks": 100})
    assert changed == dataclasses.replace(Options(rate=0.5), testing=runs.Testing(num_tasks=100))
    assert changed.training.mesh == "tasks=2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_way": 20}, "Options has no option num_way; did you mean num_ways"),
        ({"num_tasks": 20}, "did you mean .*testing.num_tasks"),
        ({"testing": {"num_tasks": 20}}, "no option testing"),
        ({"testing.num_tasks.more": 20}, "no option testing.num_tasks.more"),
        ({"num_ways": "many"}, "num_ways is many; expected a whole number"),
        ({"widths": 8}, "widths is 8; expected a list of a whole number"),
    ],
)
def test_options_that_are_not_there_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replaced(Options(), changes)
