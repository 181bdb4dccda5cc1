"""Runs live in folders of any name, or are refused in one line before anything is written."""

import json
import os
import re
import shlex

import pytest

from jmeta import checkpoints
from jmeta.runs import console, log

from .commands import content, ended, jmeta, wait_for_checkpoint_after

TINY = [
    "blobs_protonet",
    *shlex.split("--widths 8 4 --num-features 4 --num-queries 2 --training.tasks-per-step 4"),
    *shlex.split("--training.num-steps 40 --training.steps-per-dispatch 10 --training.evaluate-every 10"),
    *shlex.split("--training.num-valid-tasks 6 --testing.num-tasks 6 --testing.tasks-at-once 3"),
]
KILLED = [
    *TINY,
    *shlex.split("--training.num-steps 400 --training.steps-per-dispatch 20 --training.evaluate-every 100"),
    *shlex.split("--training.checkpoint-every 20 --training.patience 100 --training.seed 7"),
]
ODD = [
    "-rf",
    "runs/lr=[0.1]",
    "**",
    "[bold]/[/x]/[a",
    "a *?/b\nc/{d,e}",
    'it\'s "so" $HOME/%41#1',
    "s3:x/\u00e9/e\u0301",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_a_run_in_a_folder_of_any_name(here, capsys):
    """Trained to the end, started again, judged and looked at, by the words that are shown for that."""
    name = "/".join(ODD)
    train = ["train", *TINY, f"--run-dir={name}"]
    assert jmeta(*train) == 0, capsys.readouterr()
    (told,) = re.findall("(?s)next: (.*)", capsys.readouterr().out)
    program, command, *words = shlex.split(told)
    assert (program, command) == ("jmeta", "evaluate")
    assert checkpoints.steps(here / name / "seed_0" / "checkpoints")[-1] == 40
    assert jmeta(*train) == 0
    assert "resumed from step 40" in capsys.readouterr().out
    assert jmeta("evaluate", *words) == 0, capsys.readouterr()
    assert "meta_test" in capsys.readouterr().out
    run = here / name / "seed_0"
    assert json.loads((run / "evaluation.json").read_text())
    assert len(log.read_metrics(run, "meta_valid")) == 4
    assert list((run / "tensorboard").glob("events.*"))
    assert (run / "learning_curve.png").is_file()
    assert jmeta("replay", f"{words[0]}/seed_0", "--step", 25) == 0
    assert os.listdir(here) == [name.partition("/")[0]]


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_folder_with_brackets_goes_on(here, start_process):
    """To the same bits as in a plain folder."""
    words = ["jmeta", "train", *KILLED, "--run-dir"]
    plain, odd = here / "plain", here / "lr=[0.1]" / "**"
    status, output = ended(start_process(*words, plain))
    assert status == 0, output
    process = start_process(*words, odd)
    wait_for_checkpoint_after(0, odd / "seed_7", process)
    process.kill()
    process.communicate()
    status, output = ended(start_process(*words, odd))
    assert status == 0, output
    assert "resumed from step" in output
    assert content(odd / "seed_7") == content(plain / "seed_7")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gs://bucket/run", "is an address, not a folder"),
        ("a\\b", "a backslash"),
        ("dogs:/run", "ends with 'gs:'"),
        (os.fsdecode(b"\xff"), "no UTF-8"),
    ],
)
def test_a_folder_that_cannot_hold_a_run_is_one_line(here, capsys, name, message):
    for words in (["train", *TINY, "--run-dir", name], ["evaluate", name], ["replay", name, "--step", 1]):
        assert jmeta(*words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert os.listdir(here) == []


def test_a_tilde_that_the_shell_left_is_the_home_folder(here, monkeypatch):
    """`--run-dir=~/x` comes to us as it stands."""
    monkeypatch.setenv("HOME", str(here.parent / "home"))
    assert jmeta("train", *TINY, "--run-dir=~/x") == 0
    assert checkpoints.steps(here.parent / "home" / "x" / "seed_0" / "checkpoints")[-1] == 40
    assert jmeta("evaluate", "~/x") == 0
    assert os.listdir(here) == []


def test_brackets_in_a_table_are_no_markup(capsys):
    console.print_table(
        "[bold]runs[/x] and then some more", [{"": "a[/b]", "accuracy": "[red]1"}, {"": "", "accuracy": ""}]
    )
    shown = capsys.readouterr().out
    assert all(text in shown.replace("\n", "") for text in ("[bold]", "[/x]", "a[/b]", "[red]1"))
