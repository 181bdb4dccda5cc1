"""Every row of the results, judged again from the weights that it keeps."""

import json
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.reproduce import both_modes, judge_again, record, robots, rows, scores, table
from jmeta import models
from jmeta.domains.rl import environments, learners, policies
from jmeta.domains.rl.environments.robots.splits import NUM_STEPS
from jmeta.domains.rl.rollouts import run_episode
from jmeta.evaluation import estimate
from jmeta.runs import evaluate, options, recipes, train, uncertainty
from jmeta.runs.main import run as jmeta_command
from jmeta.runs.options import replaced

NUM_TASKS = 100


def judged_rows():
    """All kept rows but those trained from scratch, which have no weights and take a hundred steps for every task."""
    for name in rows.names():
        facts = rows.read(name).facts
        if facts["test"].get("baseline") != "from scratch":
            has_files = facts["split_hash"] and not facts["evaluations"][0]["protocol"].startswith("glyphs")
            yield pytest.param(name, marks=pytest.mark.data if has_files else ())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(judged_rows()))
def test_the_kept_weights_still_score_what_the_row_says(name):
    """On other tasks than the row's, so that the comparison is one of two samples; by the inner steps of its recipe."""
    row = rows.read(name)
    # twenty rollouts of a robot for each inner step make a task a hundred times as long
    num_tasks = 30 if name.startswith("robot_maml") else NUM_TASKS
    judged = rows.lines_of(row.facts, num_tasks=num_tasks)
    for each, evaluation in zip(judged, row.facts["evaluations"], strict=True):
        recorded = evaluation["protocol"].split(f", {evaluation['num_tasks']} tasks")[0]
        assert each.experiment.test_protocol.split(f", {num_tasks} tasks")[0] == recorded
    by_its_recipe = (i for i, each in enumerate(judged) if each.num_steps == each.experiment.num_test_steps)
    i = next(by_its_recipe, len(judged) - 1)
    experiment, learner, _ = judged[i]
    assert experiment.source.split_hash == row.facts["split_hash"]
    experiment = uncertainty.with_scores(experiment) if row.reliability else experiment
    meta_params = rows.restored(experiment, row.meta_params)
    result = evaluate.evaluation_of(experiment, learner, meta_params, jax.random.key(2026), steps="")
    for kind in ("inductive", "transductive"):
        estimates = getattr(result, kind)
        assert (estimates is None) == (f"{i} {kind}" not in row.per_task)
        if estimates is not None:
            assert_same_mean(estimates[row.facts["metric"]].values, row.per_task[f"{i} {kind}"])
            for score in scores.NAMES if row.reliability else ():
                assert_same_mean(estimates[score].values, row.per_task[f"{i} {kind} {score}"])


def assert_same_mean(measured: np.ndarray, recorded: np.ndarray) -> None:
    error = np.sqrt(measured.var(ddof=1) / len(measured) + recorded.var(ddof=1) / len(recorded))
    assert abs(measured.mean() - recorded.mean()) <= 3 * max(error, 1e-3), (measured.mean(), recorded.mean(), error)


def test_a_row_is_not_its_neighbour():
    """The comparison above can fail: a score that is four points lower is told apart."""
    recorded = np.random.default_rng(0).normal(0.95, 0.05, 1000)
    assert_same_mean(recorded[:200], recorded)
    with pytest.raises(AssertionError):
        assert_same_mean(recorded[:200] - 0.04, recorded)


@pytest.mark.parametrize("name", rows.names())
def test_a_row_agrees_with_its_own_tasks(name):
    row = rows.read(name)
    for i, evaluation in enumerate(row.facts["evaluations"]):
        for kind in ("inductive", "transductive"):
            if evaluation[kind] is None:
                continue
            again = estimate(row.per_task[f"{i} {kind}"])
            np.testing.assert_allclose(again.mean, evaluation[kind]["mean"], rtol=1e-5)
            np.testing.assert_allclose(again.half_width, evaluation[kind]["half_width"], rtol=1e-4)
            assert len(again.values) == evaluation["num_tasks"]
            if row.reliability:
                assert_scores_agree(row, i, kind)
    assert (rows.FOLDER / f"{name}.npz").stat().st_size <= rows.MAX_BYTES


def assert_scores_agree(row, i, kind):
    """The pooled diagram has all predictions of the tasks, and its error is at most the mean of theirs."""
    facts, diagram = row.facts["evaluations"][i]["scores"][kind], scores.diagram_of(row, f"{i} {kind}")
    for name in scores.NAMES:
        again = estimate(row.per_task[f"{i} {kind} {name}"])
        np.testing.assert_allclose([again.mean, again.half_width], list(facts[name].values()), rtol=1e-4)
    accuracy = row.facts["evaluations"][i][kind]["mean"]
    np.testing.assert_allclose(diagram.correct.sum() / diagram.counts.sum(), accuracy, rtol=1e-5)
    np.testing.assert_allclose(diagram.calibration_error(), facts["pooled_calibration_error"], rtol=1e-6)
    assert facts["pooled_calibration_error"] <= facts["calibration_error"]["mean"] + 1e-6
    assert scores.worst_tenth(row.per_task[f"{i} {kind}"]) <= accuracy


def test_the_results_page_is_what_the_rows_say():
    assert table.RESULTS.read_text() == table.render(), "run `python -m experiments.reproduce.table`"


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("nearest mean of pixels", "glyphs_nearest_mean"),
        ("glyphs_protonet", "glyphs_protonet"),
        ("glyphs_maml", "glyphs_maml"),
    ],
)
def test_the_table_of_the_readme_is_that_of_the_rows(line, row):
    (printed,) = re.findall(rf"^  {line} +(.*)$", (table.RESULTS.parent / "README.md").read_text(), re.MULTILINE)
    recorded = rows.read(row).per_task
    expected = [
        evaluate.shown("accuracy", estimate(recorded[kind])) if kind in recorded else "same"
        for kind in ("0 inductive", "0 transductive")
    ]
    assert re.split(r"\s{2,}", printed) == [*expected, "1000"]


def test_a_trained_run_becomes_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "FOLDER", tmp_path / "rows")
    train_tiny("sinusoid_maml")
    arguments = ["run/seed_0", "tiny", "--title", "Tiny", "--inner-steps", "0", "2", "--num-queries", "50"]
    assert record.main([*arguments, "--variants", "num_shots=5", "num_shots=8"]) == 0
    row = rows.read("tiny")
    assert [each["protocol"] for each in row.facts["evaluations"]] == [
        f"sinusoid {shots}-shot, 50 queries, 16 tasks, {steps} inner steps" for shots in (5, 8) for steps in (0, 2)
    ]
    variants = [{"num_shots": 5}, {"num_shots": 8}]
    assert row.facts["test"] == {"options": {"num_queries": 50}, "inner_steps": [0, 2], "variants": variants}
    recorded = json.loads(pathlib.Path("run/seed_0/config.json").read_text())
    assert {name: row.facts[name] for name in ("recipe", "hash", "options")} == {
        name: recorded[name] for name in ("recipe", "hash", "options")
    }
    assert row.facts["command"].startswith("jmeta train sinusoid_maml ")
    assert "--training.num-steps 20" in row.facts["command"]
    experiment, learner, _ = rows.lines_of(row.facts)[3]
    meta_params = rows.restored(experiment, row.meta_params)
    trained = evaluate.load_run(pathlib.Path("run/seed_0")).meta_params
    jax.tree.map(np.testing.assert_array_equal, meta_params, trained)
    again = evaluate.timed_evaluation(experiment, learner, meta_params)
    np.testing.assert_allclose(again.evaluation.inductive["loss"].values, row.per_task["3 inductive"], rtol=1e-5)
    assert "Tiny" in table.render()


def train_tiny(recipe):
    words = "--run-dir run --training.num-steps 20 --training.steps-per-dispatch 10 --training.evaluate-every 20"
    command = ["train", recipe, *words.split(), "--training.num-valid-tasks", "8", "--testing.num-tasks", "16"]
    assert jmeta_command(command) == 0


def test_a_baseline_becomes_a_row_without_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "FOLDER", tmp_path / "rows")
    train_tiny("blobs_protonet")
    assert record.main(["run/seed_0", "tiny", "--title", "Tiny", "--baseline", "nearest neighbour"]) == 1
    assert "its baselines: nearest mean of the inputs" in capsys.readouterr().err
    assert record.main(["run/seed_0", "tiny", "--title", "Tiny", "--baseline", "nearest mean of the inputs"]) == 0
    row = rows.read("tiny")
    assert not row.meta_params
    assert row.facts["train"] is None
    experiment = rows.experiment_of(row.facts)
    ((learner, _),) = rows.learners_of(row.facts, experiment)
    again = evaluate.timed_evaluation(experiment, learner, rows.restored(experiment, {}))
    np.testing.assert_allclose(again.evaluation.inductive["accuracy"].values, row.per_task["0 inductive"], rtol=1e-5)
    assert "| none | none |" in table.render()
    assert_scores_agree(row, 0, "inductive")
    (line,) = scores.table([row]).splitlines()[2:]
    assert line.startswith("| Tiny | 5-way 1-shot | inductive | ")
    assert scores.UNKNOWN not in line


def test_a_row_without_scores_is_judged_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "FOLDER", tmp_path)
    kept = row_of_blobs()
    rows.write(kept)
    without = {kind: values for kind, values in kept.per_task.items() if kind == "0 inductive"}
    evaluations = [{k: v for k, v in each.items() if k != "scores"} for each in kept.facts["evaluations"]]
    older = kept._replace(facts=kept.facts | {"evaluations": evaluations}, per_task=without, reliability={})
    rows.write(older._replace(name="older"))
    rows.write(older._replace(name="other", per_task={"0 inductive": without["0 inductive"] - 0.5}))
    (line,) = scores.table([older]).splitlines()[2:]
    assert line.endswith(f"| {scores.UNKNOWN} | {scores.UNKNOWN} | {scores.UNKNOWN} |")
    assert judge_again.main(["older"]) == 0
    again = rows.read("older")
    assert again.facts == kept.facts
    jax.tree.map(np.testing.assert_array_equal, again[2:], rows.read(kept.name)[2:])
    assert judge_again.main(["other"]) == 1
    assert "its weights have" in capsys.readouterr().err


def row_of_blobs():
    """A row of prototypical networks as they are drawn, on a few tasks."""
    recipe = recipes.load("blobs_protonet")
    chosen = replaced(recipe.options(), {"testing.num_tasks": 12})
    recorded = options.recorded(chosen)
    facts = {
        "title": "Blobs",
        "recipe": recipe.name,
        "command": rows.command_of(recipe, chosen),
        "hash": options.hash_of(recorded),
        "options": recorded,
        "test": {"options": {}, "inner_steps": []},
        "seed": 0,
        "train": None,
    }
    leaves = rows.flattened(recipe.build(chosen).init_fn(jax.random.key(0)))
    row, _ = record.judged(rows.Row("blobs", facts, leaves, {}, {}))
    return row


@pytest.mark.slow
def test_robots_are_judged_and_drawn_from_the_kept_rows(tmp_path, monkeypatch):
    def few(name):
        row = kept(name)
        test = row.facts["test"]
        fewer = {**test["options"], "testing.num_tasks": 12}
        facts = {**row.facts, "test": {**test, "options": fewer}}
        return row._replace(facts=facts, per_task={key: values[:12] for key, values in row.per_task.items()})

    kept = rows.read
    monkeypatch.setattr(rows, "read", few)
    monkeypatch.setattr(robots, "RESULTS", tmp_path / "robots.json")
    monkeypatch.setattr(robots, "DOCS", tmp_path)
    assert robots.main(["--num-scratch-tasks", "2", "--num-scratch-rollouts", "200"]) == 0
    facts = json.loads((tmp_path / "robots.json").read_text())
    curves, gains = facts["curves"], facts["minus_no_adaptation"]
    assert curves["MAML"]["rollouts"] == [0, 20, 40, 60]
    expected = kept("robot_maml").per_task["2 inductive"][:12].mean()
    assert curves["MAML"]["mean"][2] == pytest.approx(expected, abs=1e-3)
    assert curves[robots.SCRATCH]["rollouts"] == list(range(0, 201, 20))
    difference = curves["RL²"]["mean"][0] - curves["no adaptation"]["mean"][-1]
    assert gains["RL²"]["mean"][0] == pytest.approx(difference, abs=2e-3)
    with Image.open(tmp_path / "robots.gif") as film, Image.open(tmp_path / "robots.png") as picture:
        assert getattr(film, "n_frames", 1) == NUM_STEPS
        assert picture.width > 800


@pytest.mark.slow
def test_the_most_ambiguous_tasks_are_drawn(tmp_path):
    """Densities integrate to one over y, but for what lies beyond the picture; samples differ where the curves do."""
    found = both_modes.panels()
    for panel in found:
        assert abs(panel.sinusoid - 0.5) < 0.1
        mass = np.exp(panel.density).sum(0) * np.diff(both_modes.Y)[0]
        assert 0.9 < mass[len(mass) // 2] < 1.01
        assert panel.curves.shape == (20, both_modes.X.size)
        assert panel.curves[:, -1].std() > 1
    both_modes.draw(tmp_path / "both.png", found)
    with Image.open(tmp_path / "both.png") as picture:
        assert picture.width > 800


def test_squared_errors_are_kept_beside_likelihoods():
    score = {"mean": 1.0}
    both = {"loss": score, "negative_log_likelihood": score, "squared_error": {"mean": 2.0}}
    kept = record._of_metric({"inductive": both, "transductive": None}, "loss")
    assert (kept["inductive"], kept["squared_error"]) == (score, {"mean": 2.0})
    alone = {name: both[name] for name in ("loss", "squared_error")}
    assert "squared_error" not in record._of_metric({"inductive": alone, "transductive": None}, "loss")


def test_weights_of_another_network_are_refused():
    recipe = recipes.load("sinusoid_maml")
    experiment = recipe.build(recipe.options())
    with pytest.raises(ValueError, match="not those of its recipe"):
        rows.restored(experiment, {"params/head/kernel": np.zeros((2, 2))})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("glyphs_maml", {"first_order": True, "inner_lr": 1e-5, "training.num_steps": 1000, "training.patience": 3}),
        ("sinusoid_maml", {"hidden": [8, 8, 8], "testing.num_tasks": None}),
        ("bandit_rl2", {"is_greedy": False, "cell": "lstm", "max_span": 30}),
    ],
)
def test_a_rows_command_is_one_that_the_program_takes(name, changes):
    recipe = recipes.load(name)
    changed = replaced(recipe.options(), changes)
    words = shlex.split(rows.command_of(recipe, changed))
    assert words[:3] == ["jmeta", "train", name]
    assert train.parse(recipe, words[3:], program="jmeta")[0] == changed


@pytest.mark.parametrize("name", rows.names())
def test_a_rows_options_are_those_of_its_recipe(name):
    facts = rows.read(name).facts
    recipe, trained = rows.recipe_of(facts)
    assert facts["options"] == options.recorded(trained)
    assert facts["hash"] == options.hash_of(facts["options"])
    assert facts["command"] == rows.command_of(recipe, trained)
    assert facts["seed"] == trained.training.seed
    replaced(trained, facts["test"]["options"])


def rewards_of(name):
    """`[tasks, rollouts, steps]`, of the most probable actions."""
    num_tasks, row = 2000, rows.read(name)
    _, chosen = rows.recipe_of(row.facts)
    experiment = rows.experiment_of(row.facts)
    navigation, _ = environments.point_navigation(num_steps=chosen.horizon, goal_radius=0.0)
    navigation = environments.scaled_actions(navigation)
    memory = models.gru(chosen.width, max_span=chosen.max_span)
    if name == "navigation_rl2":
        policy = policies.actor_critic(memory, navigation)
    else:
        decoder = models.mlp((*chosen.decoder, 1))
        inference = learners.task_inference(memory, decoder, navigation, num_latents=chosen.num_latents)
        policy = learners.varibad_policy(inference, models.mlp(chosen.trunk), navigation)
    episode = run_episode(navigation, policy, num_steps=chosen.num_rollouts * chosen.horizon, is_greedy=True)
    key_params, key_run = jax.random.split(jax.random.key(3))
    params = jax.vmap(experiment.source.meta_test)(jax.random.split(key_params, num_tasks))
    run = jax.jit(jax.vmap(episode, (None, 0, 0)))
    experience = run(rows.restored(experiment, row.meta_params), params, jax.random.split(key_run, num_tasks))
    return np.asarray(experience.reward).reshape(num_tasks, chosen.num_rollouts, -1)


def test_varibad_finds_goals_sooner_and_rests_farther_from_them_than_rl2():
    """Why it earns more in the first rollout and less in the others; a reward is minus the distance to the goal."""
    rl2, varibad = rewards_of("navigation_rl2"), rewards_of("navigation_varibad")
    assert varibad[:, 0, :10].sum(1).mean() > rl2[:, 0, :10].sum(1).mean() + 0.2  # 0.5, standard error 0.03
    at_rest = [-rewards[:, 1, 10:].mean(1) for rewards in (rl2, varibad)]
    shares_lost = [(rest > 0.1).mean() for rest in at_rest]
    assert shares_lost[0] < 0.005
    assert 0.015 < shares_lost[1] < 0.05  # 0.028, standard error 0.004
    is_found = (at_rest[0] <= 0.1) & (at_rest[1] <= 0.1)
    rests = [rest[is_found].mean() for rest in at_rest]
    np.testing.assert_allclose(rests, [0.0134, 0.0204], rtol=0.15)
    loss = (rl2 - varibad)[:, 1]
    assert (loss.sum(1) * ~is_found).mean() > 0.4 * loss.sum(1).mean() > 0
    np.testing.assert_allclose(varibad[is_found, 1, :3].mean(0), rl2[is_found, 1, :3].mean(0), rtol=0.1)  # on its way


def test_rollouts_are_kept_in_their_order():
    """Names come sorted as strings, 1, 10, 11, 12, 2, ..."""
    names = sorted(f"{record.OF_ROLLOUT}{number}" for number in range(1, 13))
    inductive = {"return": {"mean": 0.0}} | {name: {"mean": float(name.rpartition("_")[2])} for name in names}
    kept = record._of_metric({"inductive": inductive, "transductive": None}, "return")
    assert [each["mean"] for each in kept["by_rollout"]] == list(range(1, 13))


def test_returns_of_mdps_grow_with_rollouts():
    for name in ("tabular_mdp_rl2_transformer", "tabular_mdp_rl2_transformer_25"):
        means = [each["mean"] for each in rows.read(name).facts["evaluations"][0]["by_rollout"]]
        assert means[0] < 11.5
        assert np.diff(means).min() > -0.2


def test_completions_of_images_are_compared_with_the_nearest_pixels_task_by_task():
    nearest, other = (rows.read(f"glyphs_completion_{name}") for name in ("nearest", "convolutional"))
    header, _, *lines = table._table([nearest, other]).splitlines()
    cells = [dict(zip(header.split(" | "), line.split(" | "), strict=True)) for line in lines]
    assert [each["above the nearest pixels"] for each in cells[:4]] == ["0.000 ± 0.000"] * 4
    for i, each in enumerate(cells[4:]):
        gap = other.per_task[f"{i} inductive"] - nearest.per_task[f"{i} inductive"]
        half = 1.96 * gap.std(ddof=1) / np.sqrt(len(gap))
        assert each["above the nearest pixels"].startswith(f"{gap.mean():.3f} ± {half:.3f}"[:-1])
        squares = other.facts["evaluations"][i]["squared_error"]
        assert each["squared error"] == f"{squares['mean']:.4f} ± {squares['half_width']:.4f}"
