"""The command `jmeta`: what its words lead to, and what it says to words that lead nowhere."""

import sys

import pytest

from jmeta.runs import recipes

from .commands import MINE, jmeta, ran


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Commands write to `runs/`."""
    monkeypatch.chdir(tmp_path)


def test_no_words_and_help_show_the_commands(capsys):
    assert (jmeta(), jmeta("--help"), jmeta("-h")) == (2, 0, 0)
    output = capsys.readouterr().out
    assert all(output.count(f"  jmeta {name} ") == 3 for name in ("recipes", "train", "evaluate", "replay", "launch"))


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trian", "did you mean train?"), ("eval", "did you mean evaluate?"), ("x", "jmeta --help lists")],
)
def test_an_unknown_command_is_refused_with_a_suggestion(capsys, word, hint):
    assert jmeta(word) == 2
    assert capsys.readouterr().err.startswith(f"error: there is no command '{word}'; {hint}")


def test_recipes_are_listed_with_a_line_each(capsys, monkeypatch):
    for name in ("robot_unadapted", "glyphs_boil"):
        monkeypatch.delitem(sys.modules, f"jmeta_recipe_{name}", raising=False)  # of another test
    assert jmeta("recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipes.names()
    assert all(len(line.split(maxsplit=1)[1]) > 10 for line in lines)
    assert not (
        set(sys.modules) & {f"jmeta_recipe_{name}" for name in ("robot_unadapted", "glyphs_boil")}
    )  # none is run


def test_help_shows_the_recipes_and_a_recipes_paper(capsys):
    assert (jmeta("train"), jmeta("train", "--help")) == (2, 0)
    assert capsys.readouterr().out.count("sinusoid_maml ") == 2
    with pytest.raises(SystemExit) as caught:
        jmeta("train", "sinusoid_maml", "--help")
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert all(words in output for words in ("jmeta train sinusoid_maml", "1703.03400", "--train-shots", "--seeds"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("evaluate", ("--recipe", "--baselines", "--inner-steps")),
        ("replay", ("--recipe", "--step")),
        ("launch", ("--processes", "--devices", "--grace-seconds")),
    ],
)
def test_help_of_the_other_commands(capsys, command, words):
    with pytest.raises(SystemExit) as caught:
        jmeta(command, "--help")
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert f"jmeta {command}" in output
    assert all(word in output for word in words)


def test_a_misspelt_recipe_is_refused_with_a_suggestion(capsys):
    assert jmeta("train", "sinusoid_mamal") == 1
    assert "there is no recipe 'sinusoid_mamal'; did you mean sinusoid_maml" in capsys.readouterr().err


def test_a_file_that_is_named_as_ours_are_is_told_how_to_be_named(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(MINE.read_text())
    assert jmeta("train", "mine") == 1
    assert "a file of your own is named by its path, ./mine.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        (["--training.num-step", "3"], "--training.num-steps"),
        (["--num-wayz", "3"], "--num-ways"),
        (["--training.batching", "all"], "scan"),
        (["--num-ways", "few"], "--num-ways"),
    ],
)
def test_a_misspelt_option_or_value_is_refused_with_a_suggestion(capsys, words, suggested):
    with pytest.raises(SystemExit) as caught:
        jmeta("train", "blobs_protonet", *words)
    assert caught.value.code == 2
    assert suggested in capsys.readouterr().err


def test_options_before_the_recipe_are_an_error(capsys):
    assert jmeta("train", "--seeds", "5", "blobs_protonet") == 1
    assert "the recipe's name comes first, but the first word is --seeds" in capsys.readouterr().err


BLOCKED = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from jmeta.runs.main import cli
sys.exit(cli())
"""


@pytest.mark.parametrize(
    ("blocked", "message"),
    [(["tyro"], "tyro is"), (["tensorboardX", "PIL"], "tensorboardX, PIL are")],
)
def test_what_the_extra_brings_is_asked_for_in_one_line(blocked, message):
    words = [sys.executable, "-c", BLOCKED.format(blocked=blocked), "train", "blobs_protonet"]
    status, output = ran(words)
    assert (status, output) == (1, f'error: {message} not installed; run pip install "jmeta[runs]"\n')


def test_the_module_is_the_command():
    status, output = ran([sys.executable, "-m", "jmeta", "trian"])
    assert (status, output) == (2, "error: there is no command 'trian'; did you mean train?\n")
