"""The commands `train` and `evaluate`: what they refuse, and a tiny run from training to a table and pictures."""

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import shlex

import jax
import numpy as np
import pytest

import jmeta as library
from jmeta import checkpoints
from jmeta.runs import evaluate, log, loop, train

from .commands import jmeta

TINY = shlex.split(
    "--training.num-steps 20 --training.tasks-per-step 2 --training.steps-per-dispatch 10 --training.evaluate-every 10 "
    "--training.num-valid-tasks 6 --testing.num-tasks 6 --testing.tasks-at-once 3"
)
UNPAINTED = pytest.mark.usefixtures("nothing_is_painted")
TRAIN_BLOBS = ["train", "blobs_protonet", *TINY, "--widths", "8", "--run-dir", "out"]
TRAIN_SINUSOID = ["train", "sinusoid_maml", *TINY, "--hidden", "8", "--run-dir", "out"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Commands write to `runs/`."""
    monkeypatch.chdir(tmp_path)


def stored(seed=0):
    """What was stored of the evaluations of a seed, by name and protocol."""
    return json.loads(pathlib.Path("out", f"seed_{seed}", "evaluation.json").read_text())


def test_from_training_to_a_table(capsys, tmp_path):
    assert jmeta(*TRAIN_BLOBS, "--seeds", "2") == 0
    output = capsys.readouterr().out
    assert "2 seeds: best accuracy on meta_valid" in output
    assert "next: jmeta evaluate out\n" in output
    assert jmeta("evaluate", "out") == 0
    output = capsys.readouterr().out
    assert "blobs 5-way 1-shot, 5 queries, 6 tasks" in output
    assert "2 seeds: accuracy, inductive" in output
    kept = json.loads((tmp_path / "out" / "over_seeds.json").read_text())
    valid = "blobs 5-way 1-shot, 5 queries, 6 tasks, of meta_valid, all queries of a task together"
    assert set(kept) == {f"meta_valid | {valid}", "meta_test | blobs 5-way 1-shot, 5 queries, 6 tasks"}
    for seed in (0, 1):
        (entry,) = stored(seed).values()
        assert entry["num_tasks"] == 6
        assert 0 <= entry["inductive"]["accuracy"]["mean"] <= 1
        assert entry["transductive"] is None
        assert (tmp_path / "out" / f"seed_{seed}" / "learning_curve.png").stat().st_size > 5000
    assert jmeta(*TRAIN_BLOBS, "--meta-lr", "0.5") == 1
    assert "meta_lr was 0.001, is 0.5" in capsys.readouterr().err


def test_the_curve_over_inner_steps(tmp_path):
    assert jmeta(*TRAIN_SINUSOID, "--num-test-steps", "1") == 0
    assert jmeta("evaluate", "out/seed_0", "--inner-steps", "1", "0", "5", "--testing.num-tasks", "5") == 0
    losses = {name.split(" | ")[0]: entry["inductive"]["loss"]["mean"] for name, entry in stored().items()}
    assert losses["sinusoid_maml"] == losses["sinusoid_maml, 1 inner steps"] != losses["sinusoid_maml, 0 inner steps"]
    assert all(name.split(" | ")[1].startswith("sinusoid 5-shot, 100 queries, 5 tasks, ") for name in stored())
    assert (tmp_path / "out" / "seed_0" / "adaptation_curve.png").stat().st_size > 5000


@UNPAINTED
def test_a_run_is_judged_with_other_options(capsys):
    """Its entry stands beside the others, under its protocol."""
    assert jmeta(*TRAIN_BLOBS) == 0
    assert jmeta("evaluate", "out", "--num-ways", "3", "--testing.num-tasks", "4") == 0
    assert jmeta("evaluate", "out") == 0
    assert [name.split(" | ")[1] for name in stored()] == [
        "blobs 3-way 1-shot, 5 queries, 4 tasks",
        "blobs 5-way 1-shot, 5 queries, 6 tasks",
    ]
    capsys.readouterr()
    assert jmeta("evaluate", "out", "--widths", "16") == 1
    assert "with these options the parameters have other shapes than those that were" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        jmeta("evaluate", "out", "--num-wayz", "3")
    assert caught.value.code == 2
    assert "--num-ways" in capsys.readouterr().err


@UNPAINTED
@pytest.mark.parametrize(
    ("words", "name", "unit"),
    [(TRAIN_BLOBS, "nearest mean of the inputs", "points"), (TRAIN_SINUSOID, "from scratch, 100 steps", "in loss")],
)
def test_baselines_are_judged_on_the_same_tasks(capsys, words, name, unit):
    recipe, metric, factor, digits = (words[1], *(("accuracy", 100, 1) if unit == "points" else ("loss", 1, 3)))
    assert jmeta(*words) == 0
    assert jmeta("evaluate", "out", "--baselines", "--testing.num-tasks", "6") == 0
    means = {key.split(" | ")[0]: entry["inductive"][metric]["mean"] for key, entry in stored().items()}
    assert set(means) == {recipe, name}
    output = capsys.readouterr().out
    gain = factor * (means[recipe] - means[name])
    assert f"{recipe}: {gain:+.{digits}f} ± " in output
    assert f" {unit} over {name}, task by task" in output


def test_a_run_that_is_not_finished_is_said_to_be(capsys, tiny_blobs, monkeypatch):
    save, folder = checkpoints.AsyncSaver.save, pathlib.Path("run")

    def save_once(*args, **kwargs):
        save(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.AsyncSaver, "save", save_once)
        with pytest.raises(KeyboardInterrupt):
            train.train_one(*tiny_blobs, folder)
    loaded = evaluate.load_run(folder)
    assert (loaded.recipe.name, loaded.options) == ("blobs_protonet", tiny_blobs.options)
    assert "note: run is at step 20 of 60" in capsys.readouterr().out
    train.train_one(*tiny_blobs, folder)
    evaluate.load_run(folder)
    assert "note:" not in capsys.readouterr().out


def test_a_run_without_a_checkpoint_is_not_judged(tiny_blobs, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "dispatcher", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.train_one(*tiny_blobs, pathlib.Path("run"))
    with pytest.raises(ValueError, match="run has no checkpoint yet; train it first"):
        evaluate.load_run(pathlib.Path("run"))


def test_two_evaluations_at_once_lose_nothing(tmp_path):
    one = library.evaluation.estimate(np.array([0.0, 1.0]))
    timed = evaluate.Timed(library.evaluation.Evaluation("blobs", 2, {"accuracy": one}, None), 0.0, 0.0)
    names = [f"method {i}" for i in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: evaluate.store(tmp_path, None, {name: timed}), names))
    assert set(json.loads((tmp_path / "evaluation.json").read_text())) == {f"{name} | blobs" for name in names}


@UNPAINTED
def test_a_curve_without_inner_steps_is_refused(capsys):
    assert jmeta(*TRAIN_BLOBS) == 0
    assert jmeta("evaluate", "out", "--inner-steps", "1") == 1
    assert "adapts without gradient steps" in capsys.readouterr().err


@UNPAINTED
def test_a_folder_without_a_run_is_refused(capsys, tmp_path):
    assert jmeta("evaluate", tmp_path) == 1
    assert "is not a run folder" in capsys.readouterr().err


@UNPAINTED
def test_the_default_folder_follows_from_the_options():
    for _ in range(2):
        assert jmeta(*TRAIN_BLOBS[:-2]) == 0
    (folder,) = pathlib.Path("runs").iterdir()
    assert folder.name.startswith("blobs_protonet-")


def with_classes(tiny, test_classes):
    """A recipe whose classes at test depend on how many ways they are tested with."""

    def build(options):
        experiment = tiny.recipe.build(options)
        source = experiment.source._replace(
            split_hash=f"{options.num_ways}", seen_classes=frozenset("abc"), test_classes=test_classes[options.num_ways]
        )
        return dataclasses.replace(experiment, source=source)

    return tiny.recipe._replace(build=build)


def test_other_options_are_refused_when_their_test_classes_were_trained_on(tiny_blobs):
    recipe = with_classes(tiny_blobs, {5: frozenset("de"), 3: frozenset("cde"), 2: frozenset("fg")})
    tested = {ways: tiny_blobs.but(num_ways=ways).options for ways in (5, 3, 2)}
    with pytest.raises(ValueError, match="1 of the 3 test classes of blobs 3-way 1-shot are among those that the run"):
        evaluate.tested_otherwise(recipe, tested[5], tested[3])
    assert evaluate.tested_otherwise(recipe, tested[5], tested[2]).source.test_classes == frozenset("fg")


@pytest.mark.data
def test_another_protocol_is_refused_when_its_test_classes_were_trained_on():
    from jmeta.domains.images import protocols

    trained, tested = (protocol.source(num_ways=5, num_shots=1) for protocol in (protocols.finn2017, protocols.lake))
    assert len(trained.seen_classes & tested.test_classes) > 0
    assert not trained.seen_classes & trained.test_classes
    assert not tested.seen_classes & tested.test_classes
    assert len(tested.test_classes) == 659


@UNPAINTED
def test_every_line_of_meta_valid_has_its_protocol(capsys, tmp_path):
    assert jmeta(*TRAIN_BLOBS) == 0
    words = "blobs 5-way 1-shot, 5 queries, 6 tasks, of meta_valid, all queries of a task together"
    lines = log.read_metrics(tmp_path / "out" / "seed_0", "meta_valid")
    assert {line["protocol"] for line in lines} == {words}
    output = capsys.readouterr().out
    assert f"models are chosen by {words}" in output
    of_meta_valid = [line for line in output.splitlines() if "meta_valid accuracy" in line]
    assert len(of_meta_valid) == len(lines)
    assert all(", blobs 5-way 1-shot" in line for line in of_meta_valid)


def test_what_is_descended_is_not_called_what_is_judged(tmp_path, tiny_blobs):
    """An objective of its own has no counterpart on meta_valid."""

    def build(options):
        return dataclasses.replace(tiny_blobs.recipe.build(options), training_names={"loss": "objective"})

    train.train_one(tiny_blobs.recipe._replace(build=build), tiny_blobs.options, tmp_path / "run")
    trained, valid = (log.read_metrics(tmp_path / "run", split)[-1] for split in ("meta_train", "meta_valid"))
    assert "objective" in trained
    assert "loss" not in trained
    assert {"loss", "accuracy"} <= set(valid)
    assert (tmp_path / "run" / "learning_curve.png").stat().st_size > 5000


def test_other_shots_at_test_are_those_of_the_test_tasks(tiny_folder):
    experiment = evaluate.tested_otherwise(*tiny_folder, tiny_folder.but(num_shots=2).options)
    task = jax.eval_shape(experiment.source.meta_test, jax.random.key(0))
    assert task.support.y.size == 2 * tiny_folder.options.num_ways


def test_the_name_of_a_folder_may_have_a_comma(tiny_folder, tmp_path):
    images = pathlib.Path(tiny_folder.options.path).rename(tmp_path / "a,b")
    assert tiny_folder.but(path=str(images)).experiment().source.name == "folder/a,b 2-way 1-shot"


@UNPAINTED
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "format, hash, is_ours, options, recipe, split_hash missing"),
        (b"[", "is damaged"),
        (b"[]", "has no names in it"),
        (b"\xff\xfe", "can't decode"),
    ],
)
def test_a_damaged_configuration_is_named(capsys, tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    assert jmeta("evaluate", tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'config.json'} is damaged")
    assert message in error


@UNPAINTED
def test_a_run_of_an_older_version_is_refused_by_all_commands_in_one_line(capsys, tmp_path):
    (tmp_path / "out" / "seed_0").mkdir(parents=True)
    config = {"recipe": "blobs_protonet", "hash": "0123456789ab", "split_hash": None, "options": {"model": {}}}
    (tmp_path / "out" / "seed_0" / "config.json").write_text(json.dumps(config))
    for words in (TRAIN_BLOBS, ["evaluate", "out"], ["replay", "out/seed_0", "--step", "1"]):
        assert jmeta(*words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: out/seed_0/config.json has format 1, and this version of jmeta reads 2")


@UNPAINTED
def test_an_interrupted_run_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupt)
    assert jmeta(*TRAIN_BLOBS) == 130
    assert "interrupted; the same command goes on from the last checkpoint" in capsys.readouterr().err


@UNPAINTED
def test_a_traceback_is_there_for_the_asking(monkeypatch):
    monkeypatch.setenv("JMETA_TRACEBACK", "1")
    with pytest.raises(ValueError, match="is not a run folder"):
        jmeta("evaluate", "nowhere")


@UNPAINTED
def test_the_folder_of_several_runs_names_them(capsys, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert jmeta("evaluate", tmp_path) == 1
    assert f"but {tmp_path / 'a'}, {tmp_path / 'b'} are" in capsys.readouterr().err


def test_evaluation_tasks_share_no_key_with_a_run():
    """The keys of meta_valid's and meta_test's tasks are not those that runs with small seeds split and fold in."""
    own = [loop.split_key(split) for split in ("meta_valid", "meta_test")]
    of_runs = [key for seed in range(5) for key in jax.random.split(jax.random.key(seed))]
    words = lambda keys: {tuple(jax.random.key_data(key).tolist()) for key in keys}
    assert not words(own) & words(of_runs)


def test_a_run_that_never_scored_is_not_judged(tiny_blobs, monkeypatch):
    monkeypatch.setattr("jmeta.runs.loop.with_score", lambda state, score: state)
    with contextlib.suppress(Exception):
        train.train_one(*tiny_blobs, pathlib.Path("run"))
    with pytest.raises(ValueError, match="never had a finite score"):
        evaluate.load_run(pathlib.Path("run"))
