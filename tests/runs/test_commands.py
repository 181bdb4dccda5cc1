"""The command lines: what they refuse, and a tiny run from training to a table and pictures."""

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import shlex

import jax
import numpy as np
import pytest
from configs.parts import Maml, Reptile
from experiments.build import build

import jmeta
from experiments import baselines, evaluate, loop, metrics_log, quickstart, recipes, train
from jmeta import checkpoints

TINY = shlex.split(
    "--model.hidden 8 --training.num-steps 20 --training.tasks-per-step 2 --training.steps-per-dispatch 10 "
    "--training.evaluate-every 10 --training.num-valid-tasks 6 --testing.num-tasks 6 --testing.tasks-at-once 3"
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Commands write to `runs/`; and the compilation cache stays that of the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.console.use_compilation_cache", lambda: None)


def test_a_misspelt_recipe_is_refused_with_a_suggestion(capsys):
    assert train.main(["sinusoid_mamal"]) == 1
    assert "there is no recipe 'sinusoid_mamal'; did you mean sinusoid_maml" in capsys.readouterr().err


def test_a_misspelt_option_is_refused_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["blobs_protonet", "--training.num-step", "3"])
    assert caught.value.code == 2
    assert "--training.num-steps" in capsys.readouterr().err


def test_a_value_that_is_no_choice_is_refused(capsys):
    with pytest.raises(SystemExit):
        train.main(["blobs_protonet", "--method.distance", "manhattan"])
    assert "euclidean" in capsys.readouterr().err


def test_help_shows_the_recipes_and_a_recipes_paper(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert "sinusoid_maml" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train.main(["sinusoid_maml", "--help"])
    assert "1703.03400" in capsys.readouterr().out


def test_from_training_to_a_table(capsys, tmp_path):
    assert train.main(["blobs_protonet", *TINY, "--run-dir", "out", "--seeds", "2"]) == 0
    assert "2 seeds: best accuracy on meta_valid" in capsys.readouterr().out
    assert evaluate.main(["out"]) == 0
    output = capsys.readouterr().out
    assert "blobs 5-way 1-shot, 5 queries, 6 tasks" in output
    assert "2 seeds: accuracy, inductive" in output
    kept = json.loads((tmp_path / "out" / "over_seeds.json").read_text())
    valid = "blobs 5-way 1-shot, 5 queries, 6 tasks, of meta_valid, all queries of a task together"
    assert set(kept) == {f"meta_valid | {valid}", "meta_test | blobs 5-way 1-shot, 5 queries, 6 tasks"}
    for seed in (0, 1):
        folder = tmp_path / "out" / f"seed_{seed}"
        (stored,) = json.loads((folder / "evaluation.json").read_text()).values()
        assert stored["num_tasks"] == 6
        assert 0 <= stored["inductive"]["accuracy"]["mean"] <= 1
        assert stored["transductive"] is None
        assert (folder / "learning_curve.png").stat().st_size > 5000
    assert train.main(["blobs_protonet", *TINY, "--run-dir", "out", "--training.lr", "0.5"]) == 1
    assert "training.lr was 0.001, is 0.5" in capsys.readouterr().err


def test_the_curve_over_inner_steps(capsys, tmp_path):
    assert train.main(["sinusoid_maml", *TINY, "--method.num-test-steps", "1", "--run-dir", "out"]) == 0
    assert evaluate.main(["out/seed_0", "--inner-steps", "1", "0", "5", "--num-tasks", "5"]) == 0
    stored = json.loads((tmp_path / "out" / "seed_0" / "evaluation.json").read_text())
    losses = {name.split(" | ")[0]: entry["inductive"]["loss"]["mean"] for name, entry in stored.items()}
    assert losses["sinusoid_maml"] == losses["sinusoid_maml, 1 inner steps"] != losses["sinusoid_maml, 0 inner steps"]
    assert (tmp_path / "out" / "seed_0" / "adaptation_curve.png").stat().st_size > 5000


def test_baselines_are_judged_on_the_same_tasks(capsys, tmp_path):
    assert train.main(["blobs_protonet", *TINY, "--run-dir", "out"]) == 0
    assert evaluate.main(["out", "--baselines"]) == 0
    stored = json.loads((tmp_path / "out" / "seed_0" / "evaluation.json").read_text())
    accuracies = {name.split(" | ")[0]: entry["inductive"]["accuracy"]["mean"] for name, entry in stored.items()}
    assert set(accuracies) == {"blobs_protonet", baselines.NEAREST_MEAN, baselines.FROM_SCRATCH}
    output = capsys.readouterr().out
    for name in (baselines.NEAREST_MEAN, baselines.FROM_SCRATCH):
        gain = 100 * (accuracies["blobs_protonet"] - accuracies[name])
        assert f"blobs_protonet: {gain:+.1f} ± " in output
        assert f" points over {name}, task by task" in output


def test_regression_has_no_nearest_mean(capsys, tmp_path):
    assert train.main(["sinusoid_maml", *TINY, "--run-dir", "out"]) == 0
    assert evaluate.main(["out", "--baselines"]) == 0
    stored = json.loads((tmp_path / "out" / "seed_0" / "evaluation.json").read_text())
    assert {name.split(" | ")[0] for name in stored} == {"sinusoid_maml", baselines.FROM_SCRATCH}
    assert f"in loss over {baselines.FROM_SCRATCH}, task by task" in capsys.readouterr().out


def test_a_run_that_is_not_finished_is_said_to_be(capsys, tiny_blobs, monkeypatch):
    def save_once(*args, keep=checkpoints.AsyncSaver.save, **kwargs):
        keep(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.AsyncSaver, "save", save_once)
    monkeypatch.setattr(recipes, "load", lambda name: tiny_blobs)
    with pytest.raises(KeyboardInterrupt):
        train.train_one("blobs_protonet", tiny_blobs, pathlib.Path("run"))
    monkeypatch.setattr(checkpoints.AsyncSaver, "save", save_once.__kwdefaults__["keep"])
    evaluate.load_run(pathlib.Path("run"))
    assert "note: run is at step 20 of 60" in capsys.readouterr().out
    train.train_one("blobs_protonet", tiny_blobs, pathlib.Path("run"))
    evaluate.load_run(pathlib.Path("run"))
    assert "note:" not in capsys.readouterr().out


def test_two_evaluations_at_once_lose_nothing(tmp_path):
    one = jmeta.evaluation.estimate(np.array([0.0, 1.0]))
    timed = evaluate.Timed(jmeta.evaluation.Evaluation("blobs", 2, {"accuracy": one}, None), 0.0, 0.0)
    names = [f"method {i}" for i in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: evaluate.store(tmp_path, None, {name: timed}), names))
    assert set(json.loads((tmp_path / "evaluation.json").read_text())) == {f"{name} | blobs" for name in names}


def test_a_curve_without_inner_steps_is_refused(capsys):
    assert train.main(["blobs_protonet", *TINY, "--run-dir", "out"]) == 0
    assert evaluate.main(["out", "--inner-steps", "1"]) == 1
    assert "adapts without gradient steps" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(capsys, tmp_path):
    assert evaluate.main([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err


def test_the_default_folder_follows_from_the_options():
    for _ in range(2):
        assert train.main(["blobs_protonet", *TINY]) == 0
    (folder,) = pathlib.Path("runs").iterdir()
    assert folder.name.startswith("blobs_protonet-")


@pytest.mark.data
def test_another_protocol_is_refused_when_its_test_classes_were_trained_on():
    recipe = recipes.load("omniglot_finn2017_maml")
    with pytest.raises(ValueError, match=r"--protocol lake: \d+ of its 659 test classes are among those that finn2017"):
        evaluate.tested_otherwise(recipe, evaluate.Options(pathlib.Path("."), protocol="lake"))


@pytest.mark.data
def test_another_protocol_keeps_the_training_tasks():
    recipe = recipes.load("omniglot_vinyals_protonet")
    options = evaluate.Options(pathlib.Path("."), protocol="glyphs", num_ways=3, num_tasks=50)
    source = build(evaluate.tested_otherwise(recipe, options)).source
    assert (source.train_ways, source.test_ways) == (60, 3)
    assert source.protocol == "glyphs/glyphs 3-way 1-shot, 3 queries, 50 tasks"


def test_every_line_of_meta_valid_has_its_protocol(capsys, tmp_path):
    assert train.main(["blobs_protonet", *TINY, "--run-dir", "out"]) == 0
    words = "blobs 5-way 1-shot, 5 queries, 6 tasks, of meta_valid, all queries of a task together"
    lines = metrics_log.read_metrics(tmp_path / "out" / "seed_0", "meta_valid")
    assert {line["protocol"] for line in lines} == {words}
    output = capsys.readouterr().out
    assert f"models are chosen by {words}" in output
    of_meta_valid = [line for line in output.splitlines() if "meta_valid accuracy" in line]
    assert len(of_meta_valid) == len(lines)
    assert all(", blobs 5-way 1-shot" in line for line in of_meta_valid)


def test_what_is_descended_is_not_called_what_is_judged(tmp_path, tiny_folder):
    """Reptile descends a distance between parameters, of which meta_valid has no counterpart."""
    data = dataclasses.replace(tiny_folder.data, host_fed=False)
    training = dataclasses.replace(tiny_folder.training, optimizer="sgd", lr=1.0)
    recipe = dataclasses.replace(tiny_folder, data=data, training=training, method=Reptile(num_steps=1, batch_size=2))
    train.train_one("tiny", recipe, tmp_path / "run")
    trained, valid = (metrics_log.read_metrics(tmp_path / "run", split)[-1] for split in ("meta_train", "meta_valid"))
    assert "objective" in trained
    assert "loss" not in trained
    assert {"loss", "accuracy"} <= set(valid)
    assert (tmp_path / "run" / "learning_curve.png").stat().st_size > 5000


def test_more_shots_at_test_ask_nothing_of_the_training_classes(tiny_folder):
    options = evaluate.Options(pathlib.Path("."), num_shots=2)
    data = dataclasses.replace(tiny_folder.data, host_fed=False)
    tested = evaluate.tested_otherwise(dataclasses.replace(tiny_folder, data=data), options)
    assert (tested.testing.num_shots, tested.data.train_shots) == (2, 1)
    task = jax.eval_shape(build(tested).source.meta_test, jax.random.key(0))
    assert task.support.y.size == 2 * tiny_folder.testing.num_ways


def test_the_name_of_a_folder_may_have_a_comma(tiny_folder, tmp_path):
    images = pathlib.Path(tiny_folder.data.path).rename(tmp_path / "a,b")
    data = dataclasses.replace(tiny_folder.data, path=str(images))
    assert build(dataclasses.replace(tiny_folder, data=data)).source.name == "folder/a,b 2-way 1-shot"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "hash, options, recipe, split_hash missing"),
        (b"[", "is damaged"),
        (b"[]", "has no names in it"),
        (b"\xff\xfe", "can't decode"),
    ],
)
def test_a_damaged_configuration_is_named(capsys, tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    assert evaluate.main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'config.json'} is damaged")
    assert message in error


def test_a_run_folder_that_cannot_be_one_is_an_error_in_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert train.main(["blobs_protonet", *TINY, "--run-dir", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("error: [Errno 20] Not a directory")


def test_an_interrupted_run_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupt)
    assert train.main(["blobs_protonet", *TINY]) == 130
    assert "interrupted; the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_a_traceback_is_there_for_the_asking(monkeypatch):
    monkeypatch.setenv("JMETA_TRACEBACK", "1")
    with pytest.raises(ValueError, match="is not a run folder"):
        evaluate.main(["nowhere"])


def test_options_before_the_recipe_are_an_error(capsys):
    assert train.main(["--seeds", "5", "blobs_protonet"]) == 1
    assert "the recipe's name comes first, but the first word is --seeds" in capsys.readouterr().err


def test_the_folder_of_several_runs_names_them(capsys, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert evaluate.main([str(tmp_path)]) == 1
    assert f"but {tmp_path / 'a'}, {tmp_path / 'b'} are" in capsys.readouterr().err


def test_the_quickstart_leaves_what_it_says(capsys, tmp_path, tiny_folder, monkeypatch):
    data = dataclasses.replace(tiny_folder.data, host_fed=False)
    protonet = dataclasses.replace(tiny_folder, data=data)
    tiny = {"glyphs_protonet": protonet, "glyphs_maml": dataclasses.replace(protonet, method=Maml())}
    monkeypatch.setattr(recipes, "load", tiny.get)
    assert quickstart.main(["--num-steps", "11", "--num-tasks", "10"]) == 0
    output = capsys.readouterr().out
    for words in ("nearest mean of pixels", "glyphs_protonet: ", "glyphs_maml: ", "1 inner step", "step 20/20"):
        assert words in output
    for name in quickstart.RECIPES:
        (folder,) = (tmp_path / "runs" / "quickstart").glob(f"{name}-*")
        assert {path.name + "/" * path.is_dir() for path in folder.iterdir()} >= set(quickstart.LEFT)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_says_what_it_reproduces_and_comes_back_from_its_options(name):
    recipe = recipes.load(name)
    for word in ("Paper:", f"Command:  python -m experiments.train {name}", "Time:", "Expected:"):
        assert word in (recipe.__doc__ or "")
    options = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert recipes.with_options(recipe, options) == recipe


def test_options_that_are_newer_than_a_run_mean_what_was_done_before():
    recipe = recipes.load("glyphs_maml")
    options = dataclasses.asdict(recipe)
    del options["model"]["dtype"]
    assert recipes.with_options(recipe, options) == recipe
    with pytest.raises(ValueError, match="differ in colour"):
        recipes.with_options(recipe, {**options, "colour": "red"})
    del options["training"]["num_steps"]  # which has no default
    with pytest.raises(ValueError, match="Training differ in num_steps"):
        recipes.with_options(recipe, options)


def test_an_output_for_each_way_fixes_the_ways():
    recipe = recipes.load("glyphs_maml")
    other = dataclasses.replace(recipe.data, train_ways=3)
    with pytest.raises(ValueError, match="training tasks have 3 ways and test tasks 5"):
        build(dataclasses.replace(recipe, data=other))


def test_zero_inner_steps_at_test_are_a_number_of_inner_steps():
    recipe = recipes.load("sinusoid_maml")
    none = dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, num_test_steps=0))
    assert build(none).num_test_steps == 0


def test_evaluation_tasks_share_no_key_with_a_run():
    """The keys of meta_valid's and meta_test's tasks are not those that runs with small seeds split and fold in."""
    own = [loop.split_key(split) for split in ("meta_valid", "meta_test")]
    of_runs = [key for seed in range(5) for key in jax.random.split(jax.random.key(seed))]
    words = lambda keys: {tuple(jax.random.key_data(key).tolist()) for key in keys}
    assert not words(own) & words(of_runs)


def test_a_run_that_never_scored_is_not_judged(tiny_blobs, monkeypatch):
    monkeypatch.setattr("experiments.loop.with_score", lambda state, score: state)
    with contextlib.suppress(Exception):
        train.train_one("blobs_protonet", tiny_blobs, pathlib.Path("run"))
    with pytest.raises(ValueError, match="never had a finite score"):
        evaluate.load_run(pathlib.Path("run"))


def test_robots_are_judged_on_bodies_from_trainings_ranges_or_outside_of_them():
    recipe = recipes.load("robot_rl2")
    options = evaluate.Options(pathlib.Path("."), tested_on="trained", num_tasks=3)
    outside, inside = (build(each).source for each in (recipe, evaluate.tested_otherwise(recipe, options)))
    assert inside.protocol == "crawler, 3 rollouts of 50 steps, 3 tasks"
    assert "bodies outside of training's ranges" in outside.protocol
    keys = jax.random.split(jax.random.key(0), 100)
    masses = [jax.vmap(source.meta_test)(keys).mass.max() for source in (inside, outside)]
    assert masses[0] < 1.61 < masses[1]


def test_bodies_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match="--tested-on trained is of robots' bodies; the run has none"):
        evaluate.tested_otherwise(
            recipes.load("sinusoid_maml"), evaluate.Options(pathlib.Path("."), tested_on="trained")
        )
