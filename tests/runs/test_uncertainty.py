"""What `jmeta evaluate` says about uncertainty: tables, stored diagrams and pictures."""

import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jmeta import evaluation, learners, losses, models, runs, tasks
from jmeta.calibration import Reliability
from jmeta.runs import evaluate, pictures, uncertainty

from .commands import jmeta

TINY = shlex.split(
    "--training.num-steps 20 --training.tasks-per-step 2 --training.steps-per-dispatch 10 --training.evaluate-every 10 "
    "--training.num-valid-tasks 6 --testing.num-tasks 6 --testing.tasks-at-once 3"
)
KERNEL = tasks.kernels.rbf(length_scale=(0.2, 0.8))
PROCESS = tasks.gaussian_process(KERNEL, num_shots=(2, 5), num_queries=(3, 6), noise=0.3)


def experiment_of(learner, loss_fn, sample):
    source = tasks.Source(lambda: sample, sample, sample, "tiny", lambda count: f"tiny, {count} tasks")
    training = runs.Training(num_steps=1, tasks_per_step=1, steps_per_dispatch=1, evaluate_every=1)
    testing = runs.Testing(num_tasks=6)
    return runs.Experiment(learner, loss_fn, source, optax.sgd(0.1), training=training, testing=testing)


def test_a_run_of_classes_says_how_calibrated_it_is(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert jmeta("train", "blobs_protonet", *TINY, "--widths", "8", "--run-dir", "out") == 0
    assert jmeta("evaluate", "out", "--baselines") == 0
    output = capsys.readouterr().out
    assert all(column in output for column in ("NLL", "Brier score", "ECE", "classes in 90 %"))
    entries = json.loads((tmp_path / "out" / "seed_0" / "evaluation.json").read_text())
    assert len(entries) == 2  # with the baseline
    for entry in entries.values():
        diagram = entry["reliability"]["inductive"]
        assert sum(diagram["counts"]) == 6 * 25
        np.testing.assert_allclose(sum(diagram["correct"]) / (6 * 25), entry["inductive"]["accuracy"]["mean"])
        stored = Reliability(*(np.array(diagram[name]) for name in Reliability._fields))
        np.testing.assert_allclose(stored.calibration_error(), diagram["calibration_error"])
        assert f"{diagram['calibration_error']:.4f}" in output
    assert (tmp_path / "out" / "seed_0" / "reliability.png").stat().st_size > 5000


def test_the_scores_change_no_result(tmp_path):
    learner = learners.protonet(models.mlp([8]), num_ways=3)
    sample = tasks.gaussian_blobs(num_ways=3, num_shots=1, num_queries=4)
    plain = experiment_of(learner, losses.cross_entropy, sample)
    meta_params = plain.init_fn(jax.random.key(0))
    expected, found = (
        evaluate.evaluated(each, meta_params).evaluation for each in (plain, uncertainty.with_scores(plain))
    )
    assert set(expected.inductive) == {"loss", "accuracy"}
    for name, value in expected.inductive.items():
        np.testing.assert_array_equal(found.inductive[name].values, value.values)
    assert "reliability" in evaluate.as_json(found)
    assert "reliability" not in evaluate.as_json(expected)  # what is kept of evaluations without scores is as it was
    assert uncertainty.rows({"plain": expected}) == []
    acting = experiment_of(learner, losses.cross_entropy, sample)
    object.__setattr__(acting, "evaluated", lambda meta_params, task, key: (0.0, {}))
    assert uncertainty.with_scores(acting) is acting


def test_a_run_of_distributions_is_scored_and_drawn(tmp_path):
    """Its inputs and targets are numbers, padded."""
    learner = learners.exact_gaussian_process(KERNEL, noise=0.3, num_nodes=3)
    experiment = uncertainty.with_scores(experiment_of(learner, losses.negative_log_likelihood, PROCESS))
    evaluated = evaluate.evaluated(experiment, {}).evaluation
    points = learners.maml(models.mlp([4, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
    sure = uncertainty.with_scores(experiment_of(points, losses.squared_error, PROCESS))
    meta_params = sure.init_fn(jax.random.key(0))
    row, baseline = uncertainty.rows({"exact": evaluated, "sure": evaluate.evaluated(sure, meta_params).evaluation})
    coverages = ["coverage of 50 %", "90 %", "95 %"]
    assert list(row) == list(baseline) == ["", "NLL", "CRPS", *coverages, "width of 90 %"]
    assert (row[""], row["90 %"]) == ("exact", f"{100 * evaluated.inductive['coverage_90'].mean:.1f} %")
    assert baseline["CRPS"] != baseline["NLL"] == ""
    assert uncertainty.draw_reliability(tmp_path, {"exact": evaluated}, title="none") is None
    picture = evaluate.draw_episode(tmp_path, "exact", experiment, {})
    assert picture == tmp_path / "test_episode.png"
    assert picture.stat().st_size > 10_000
    assert evaluate.draw_episode(tmp_path / "none", "points", sure, meta_params) is None


def test_images_that_are_completed_are_drawn(tmp_path):
    """In colour, with padding; but not pixels of which some are left out."""
    model = models.normal_outputs(models.mlp([6]))
    learner = learners.maml(model, losses.negative_log_likelihood, optax.sgd(0.1), num_steps=1)
    colours = np.random.default_rng(0).random((3, 5, 4, 3))
    whole = tasks.completion(colours, num_shots=(3, 9))
    experiment = experiment_of(learner, losses.negative_log_likelihood, whole)
    meta_params = experiment.init_fn(jax.random.key(0))
    picture = evaluate.draw_episode(tmp_path, "colours", experiment, meta_params)
    assert picture == tmp_path / "test_episode.png"
    assert picture.stat().st_size > 5000
    on_grid = uncertainty._grid_of(task := whole(jax.random.key(1)))
    assert on_grid is not None
    image = on_grid(np.concatenate([task.support.y, task.query.y]))
    assert min(np.abs(image - each).max() for each in colours) < 1e-6
    some = tasks.completion(colours, num_shots=3, num_queries=9)
    experiment = experiment_of(learner, losses.negative_log_likelihood, some)
    assert evaluate.draw_episode(tmp_path, "some", experiment, meta_params) is None


def test_tasks_of_vectors_are_not_drawn(tmp_path):
    learner = learners.protonet(models.mlp([8]), num_ways=3)
    experiment = experiment_of(
        learner, losses.cross_entropy, tasks.gaussian_blobs(num_ways=3, num_shots=1, num_queries=4)
    )
    assert evaluate.draw_episode(tmp_path, "vectors", experiment, experiment.init_fn(jax.random.key(0))) is None


def test_a_prediction_is_drawn_with_the_exact_posterior(tmp_path):
    task = PROCESS(jax.random.key(0))
    learner = learners.exact_gaussian_process(KERNEL, noise=0.3, num_nodes=3)
    x = jnp.linspace(-2, 2, 50)[:, None]
    exact = learner.predict({}, learner.adapt({}, task.support, jax.random.key(1)), x, None)
    model = models.normal_outputs(models.mlp([8, 2]))
    prediction = model.apply(model.init(jax.random.key(0), x), x, None)
    with_exact, without, of_samples = (
        pictures.regression(tmp_path / f"{i}.png", task, x, shown, title="tiny $", exact=reference).stat().st_size
        for i, (shown, reference) in enumerate([(prediction, exact), (prediction, None), (exact, None)])
    )
    assert min(with_exact, without, of_samples) > 10_000
    assert with_exact > without
    empty, full = Reliability(*np.zeros((3, 15))), Reliability(*np.ones((3, 15)))
    assert pictures.reliability(tmp_path / "r.png", {"a": empty, "b": full}, title="tiny").stat().st_size > 5000


def test_a_table_without_scores_is_none():
    one = evaluation.estimate(np.arange(3.0))
    assert uncertainty.rows({"acting": evaluation.Evaluation("bandit", 3, {"return": one}, None)}) == []
