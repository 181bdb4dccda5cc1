"""A warm start: a run that begins with the best parameters of another one."""

import jax
import numpy as np
import pytest

from jmeta import checkpoints
from jmeta.runs import evaluate, recipes, replay, state

from .commands import jmeta

pytestmark = pytest.mark.usefixtures("nothing_is_painted")

WORDS = [
    *["--training.num-steps", "20", "--training.tasks-per-step", "2", "--training.steps-per-dispatch", "10"],
    *[
        "--training.evaluate-every",
        "10",
        "--training.num-valid-tasks",
        "4",
        "--num-features",
        "4",
        "--widths",
        "4",
        "3",
    ],
]


def train(folder, *words):
    return jmeta("train", "blobs_protonet", "--run-dir", folder, *WORDS, *words)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_a_run_begins_with_the_best_parameters_of_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train("first") == 0
    *_, best = evaluate.load_run(tmp_path / "first" / "seed_0")
    warm = ["--training.warm-start", "first/seed_0", "--meta-lr", "1e-5"]
    assert train("second", *warm) == 0
    recipe, options, after = evaluate.load_run(tmp_path / "second" / "seed_0")
    assert options.training.warm_start == "first/seed_0"
    experiment = recipe.build(options)
    started = state.start_state(experiment, 0)
    for found, wanted, cold in zip(
        leaves(started.best_meta_params),
        leaves(best),
        leaves(state.init_state(experiment, 0).meta.meta_params),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)
        assert not np.array_equal(found, cold)
    for found, wanted in zip(leaves(after), leaves(best), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)  # twenty steps of 1e-5

    (tmp_path / "first").rename(tmp_path / "gone")
    assert train("second", *warm) == 0  # a run that has begun needs the other no more
    capsys.readouterr()
    assert train("third", *warm) == 1
    assert "training.warm_start=first/seed_0: there are no checkpoints of a run" in capsys.readouterr().err
    assert not list((tmp_path / "third").rglob("config.json"))
    (tmp_path / "gone").rename(tmp_path / "first")
    assert train("fourth", *warm, "--widths", "5", "3") == 1
    error = capsys.readouterr().err
    assert "training.warm_start=first/seed_0: " in error
    assert "kernel" in error


def test_a_run_that_never_had_a_finite_score_is_no_start(tmp_path, monkeypatch, tiny_blobs):
    monkeypatch.chdir(tmp_path)
    checkpoints.save("first/checkpoints", 0, state.init_state(tiny_blobs.experiment(), 0))
    with pytest.raises(ValueError, match="warm_start=first: that run never had a finite score"):
        state.start_state(tiny_blobs.trained(warm_start="first").experiment(), 0)


def test_a_step_of_a_run_with_a_warm_start_can_be_replayed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train("first") == 0
    assert train("second", "--training.warm-start", "first/seed_0") == 0
    (tmp_path / "second" / "seed_0" / "checkpoints").rename(tmp_path / "moved")
    (report, *_) = replay.replay(tmp_path / "second" / "seed_0", 0)
    recipe = recipes.load("blobs_protonet")
    *_, best = evaluate.load_run(tmp_path / "first" / "seed_0")
    options = evaluate.recipe_of(tmp_path / "second" / "seed_0", None)[1]
    experiment = recipe.build(options)
    key = state.init_state(experiment, 0).key
    (expected, *_) = replay.examine_step(experiment, best, key, 0)
    assert report == expected
