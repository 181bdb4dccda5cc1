"""Recipe files of a user's own: trained and judged as ours are, and run by nobody who was not asked to."""

import dataclasses
import json
import pathlib
import runpy
import shutil
import sys

import jax
import pytest

from jmeta import checkpoints
from jmeta.runs import recipes, train

from .commands import MINE, content, jmeta


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """A recipe file in an empty folder, in which commands work."""
    monkeypatch.chdir(tmp_path)
    return shutil.copy(MINE, tmp_path / "mine.py")


def the_error(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def run_by_itself(monkeypatch, *words):
    """The exit status of `python mine.py ...`, as this process would run it."""
    monkeypatch.setattr(sys, "argv", ["mine.py", *words])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path("mine.py", run_name="__main__")
    return caught.value.code


def test_a_file_is_trained_by_the_command_and_by_itself_to_the_same_bits(tmp_path, capsys, monkeypatch):
    assert run_by_itself(monkeypatch, "--inner-lr", "0.1", "--run-dir", "alone") == 0
    assert "next: jmeta evaluate alone --recipe mine.py" in capsys.readouterr().out
    assert jmeta("train", "./mine.py", "--inner-lr", "0.1", "--run-dir", "command") == 0
    alone, command = (content(tmp_path / name / "seed_0", "./mine.py") for name in ("alone", "command"))
    assert alone == command
    config = json.loads((tmp_path / "alone" / "seed_0" / "config.json").read_text())
    assert (config["recipe"], config["is_ours"], config["options"]["inner_lr"]) == ("mine", False, 0.1)


def test_a_file_is_judged_and_replayed_by_itself(capsys, monkeypatch):
    assert run_by_itself(monkeypatch, "train", "--run-dir", "out") == 0
    assert run_by_itself(monkeypatch, "evaluate", "out") == 0
    assert "mine, 10 tasks" in capsys.readouterr().out
    assert run_by_itself(monkeypatch, "replay", "out/seed_0", "--step", "3") == 0
    assert run_by_itself(monkeypatch, "--inner-rate", "3") == 2
    assert "--inner-lr" in capsys.readouterr().err


def test_a_file_that_is_stopped_goes_on_and_is_judged_when_it_is_named(tmp_path, capsys, monkeypatch):
    assert jmeta("train", "./mine.py", "--run-dir", "whole") == 0
    save = checkpoints.AsyncSaver.save

    def save_once(*args, **kwargs):
        save(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.AsyncSaver, "save", save_once)
        assert jmeta("train", "./mine.py", "--run-dir", "stopped") == 130
    assert jmeta("train", tmp_path / "mine.py", "--run-dir", "stopped") == 0  # the same file, named otherwise
    assert "resumed from step 20" in capsys.readouterr().out
    assert content(tmp_path / "stopped" / "seed_0", "mine.py") == content(tmp_path / "whole" / "seed_0", "mine.py")

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "_run", lambda path: pytest.fail(f"{path} is executed"))
        for words in (["evaluate", "whole"], ["replay", "whole/seed_0", "--step", "3"]):
            assert jmeta(*words) == 1
            assert "is a run of the recipe file mine.py, which is not executed unless you say so" in the_error(capsys)
    assert jmeta("replay", "whole/seed_0", "--step", "3", "--recipe", "mine.py") == 0
    assert jmeta("evaluate", "whole", "--recipe", "mine.py", "--num-shots", "5") == 0
    assert "mine, 10 tasks" in capsys.readouterr().out


def test_the_words_that_are_shown_judge_it(capsys):
    assert jmeta("train", "./mine.py") == 0
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next: jmeta "))
    (folder,) = pathlib.Path("runs").iterdir()
    assert told == f"next: jmeta evaluate {folder} --recipe mine.py"
    assert jmeta(*told.split()[2:]) == 0


def test_a_file_named_as_one_of_ours_is_not_taken_for_it(capsys, tmp_path):
    shutil.copy(MINE, tmp_path / "blobs_protonet.py")
    assert jmeta("train", "./blobs_protonet.py", "--run-dir", "out") == 0
    capsys.readouterr()
    assert jmeta("evaluate", "out") == 1
    assert "is a run of the recipe file blobs_protonet.py" in the_error(capsys)
    assert jmeta("evaluate", "out", "--recipe", "blobs_protonet") == 1
    assert "there is no recipe file blobs_protonet; expected the path of a Python file" in the_error(capsys)
    assert jmeta("train", "blobs_protonet", "--run-dir", "out") == 1
    assert "is_ours was False, is True" in the_error(capsys)


TEXT = MINE.read_text()
NO_RECIPES = {
    "nothing": ("x = 1\n", "broken.py is no recipe: expected a dataclass `Options` and a function `build(options)`"),
    "no dataclass": ("class Options: ...\ndef build(options): ...\n", "is no recipe: expected a dataclass `Options`"),
    "no build": (TEXT.replace("def build(", "def make("), "is no recipe: expected a dataclass"),
    "an import": ("import jmeta\n\nimport nowhere\n", "broken.py:3 raises ModuleNotFoundError: No module named 'now"),
    "an exception": ("def f():\n    return {}['a']\n\nf()\n", "broken.py:2 raises KeyError: 'a'"),
    "an exit": ("import sys\n\nsys.exit(3)\n", "broken.py:3 raises SystemExit: 3"),
    "syntax": ("a = (\n", "broken.py:1 raises SyntaxError: "),
    "no default": (
        TEXT.replace("    inner_lr: float = 0.01", "    inner_lr: float"),
        "the options inner_lr need defaults",
    ),
    "no testing": (TEXT.replace("testing: runs.Testing", "tested: runs.Testing"), "field `testing: runs.Testing`"),
    "no training": (TEXT.replace("training: runs.Training", "trained: runs.Training"), "`training: runs.Training`"),
    "no JSON": (TEXT.replace("(8,)\n", "(8,)\n    root: object = dataclass\n"), "since JSON records them"),
}


@pytest.mark.parametrize(("text", "message"), NO_RECIPES.values(), ids=NO_RECIPES)
def test_a_file_that_is_no_recipe_is_one_line(capsys, tmp_path, text, message):
    (tmp_path / "broken.py").write_text(text)
    assert jmeta("train", "./broken.py") == 1
    assert message in the_error(capsys)
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize("name", ["nowhere.py", "folder.py"])
def test_a_file_that_is_not_there_is_one_line(capsys, tmp_path, name):
    (tmp_path / "folder.py").mkdir()
    assert jmeta("train", f"./{name}") == 1
    assert f"there is no recipe file ./{name}" in the_error(capsys)
    assert jmeta("train", "./mine.py", "--run-dir", "out") == 0
    capsys.readouterr()
    assert jmeta("evaluate", "out", "--recipe", "gone/mine.py") == 1
    assert "there is no recipe file gone/mine.py" in the_error(capsys)


def test_a_file_that_changed_its_options_is_told_apart(capsys, tmp_path):
    """A run is judged by what it was trained with, or not at all."""
    assert jmeta("train", "./mine.py", "--run-dir", "out") == 0
    (tmp_path / "new").mkdir()
    changed = MINE.read_text().replace("inner_lr", "rate")
    (tmp_path / "new" / "mine.py").write_text(changed)
    capsys.readouterr()
    assert jmeta("evaluate", "out", "--recipe", "new/mine.py") == 1
    assert "the recorded options and Options differ in inner_lr, rate" in the_error(capsys)


def test_labels_that_the_learner_does_not_predict_are_refused_before_training(tmp_path, tiny_blobs):
    """Classes called -1 and +1 train to a loss of nearly 0, and then nothing is right."""

    def build(options):
        experiment = tiny_blobs.recipe.build(options)
        sample = lambda key: _of_sign(experiment.source.meta_valid(key))
        return dataclasses.replace(
            experiment, source=experiment.source._replace(meta_valid=jax.tree_util.Partial(sample))
        )

    with pytest.raises(ValueError, match="the support has labels -1, 1, but the learner tells 5 classes apart"):
        train.train_one(tiny_blobs.recipe._replace(build=build), tiny_blobs.options, tmp_path)
    assert not (tmp_path / "config.json").exists()


def _of_sign(task):
    sign = lambda batch: batch._replace(y=2 * (batch.y % 2) - 1)
    return task._replace(support=sign(task.support), query=sign(task.query))
