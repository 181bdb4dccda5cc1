"""The host loop: choosing by meta_valid, early stopping, skipped steps, and what is written when."""

import dataclasses
import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import checks, loop, metrics_log, recipes, replay, run_folder, run_state, train
from experiments.build import build
from experiments.diagnosis import TaskReport
from jmeta import checkpoints
from jmeta.tasks import stacked
from jmeta.training import step_keys


def prepared(folder, recipe, name="sinusoid_maml"):
    folder.mkdir(exist_ok=True)
    run_folder.write_config(folder, name, recipe, None)
    return folder


def run(folder, experiment, training):
    """Without a progress bar's lines in the way of a failure's."""
    return loop.run(experiment, training, folder, tasks_at_once=5)


def bits(state):
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def run_until_third_save(folder, experiment, training, monkeypatch):
    """Interrupt a run when it is about to save for the third time."""
    save, num_saves = checkpoints.AsyncSaver.save, [0]

    def save_twice(*args, **kwargs):
        num_saves[0] += 1
        if num_saves[0] == 3:
            raise KeyboardInterrupt
        return save(*args, **kwargs)

    monkeypatch.setattr(checkpoints.AsyncSaver, "save", save_twice)
    with pytest.raises(KeyboardInterrupt):
        run(folder, experiment, training)
    monkeypatch.undo()


def with_nan_where(experiment, is_poisoned):
    """The experiment with NaN in the targets of the tasks whose key data are poisoned."""

    def sample(inner, key):
        task = inner(key)
        y = jnp.where(is_poisoned(jax.random.key_data(key)), jnp.nan, task.query.y)
        return task._replace(query=task.query._replace(y=y))

    source = experiment.source
    poisoned = jax.tree_util.Partial(sample, source.meta_train)
    return experiment._replace(source=source._replace(meta_train=poisoned))


def task_keys(experiment, key, step):
    key_tasks, _ = step_keys(key, step)
    return np.asarray(jax.random.key_data(jax.random.split(key_tasks, experiment.tasks_per_step)))


def test_a_run_logs_evaluates_and_saves(tmp_path, tiny_blobs):
    state = run(tmp_path, build(tiny_blobs), tiny_blobs.training)
    train, valid = (metrics_log.read_metrics(tmp_path, split) for split in ("meta_train", "meta_valid"))
    assert [line["step"] for line in train] == [10, 20, 30, 40, 50, 60]
    assert [line["step"] for line in valid] == [20, 40, 60]
    assert set(valid[0]) >= {"accuracy", "accuracy_half_width", "loss"}
    assert int(state.meta.step) == 60
    assert float(state.best_score) == max(line["accuracy"] for line in valid)
    assert checkpoints.steps(tmp_path / "checkpoints") == [20, 40, 60]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_finished_run_is_left_as_it_is(tmp_path, tiny_blobs):
    first = run(tmp_path, build(tiny_blobs), tiny_blobs.training)
    log = (tmp_path / "metrics.jsonl").read_text()
    again = run(tmp_path, build(tiny_blobs), tiny_blobs.training)
    assert bits(first) == bits(again)
    assert (tmp_path / "metrics.jsonl").read_text() == log


@pytest.mark.parametrize("damaged", [False, True])
def test_a_stopped_run_goes_on_in_the_same_bits(tmp_path, tiny_sinusoid, monkeypatch, damaged):
    experiment, training = build(tiny_sinusoid), tiny_sinusoid.training
    whole = run(prepared(tmp_path / "whole", tiny_sinusoid), experiment, training)
    folder = prepared(tmp_path / "stopped", tiny_sinusoid)
    run_until_third_save(folder, experiment, training, monkeypatch)
    assert [line["step"] for line in metrics_log.read_metrics(folder)][-1] == 60  # more than the checkpoint at 40
    if damaged:
        (folder / "checkpoints" / "step_00000040" / "state" / "_METADATA").unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        resumed = run(folder, experiment, training)
    assert any("damaged" in str(warning.message) for warning in caught) == damaged
    assert bits(resumed) == bits(whole)
    logs = [metrics_log.read_metrics(path) for path in (folder, tmp_path / "whole")]
    assert [{**line, "seconds": 0} for line in logs[0]] == [{**line, "seconds": 0} for line in logs[1]]


def test_tasks_from_the_host_go_on_where_they_were(tmp_path, tiny_folder, monkeypatch):
    whole = run(prepared(tmp_path / "whole", tiny_folder), build(tiny_folder), tiny_folder.training)
    assert whole.sampler == {"next_index": 60}
    folder = prepared(tmp_path / "stopped", tiny_folder)
    run_until_third_save(folder, build(tiny_folder), tiny_folder.training, monkeypatch)
    resumed = run(folder, build(tiny_folder), tiny_folder.training)
    assert bits(resumed) == bits(whole)
    batches = iter(build(tiny_folder).source.meta_train.tasks)
    expected = [next(batches) for _ in range(4)][3]
    again = replay.sample_step(build(tiny_folder), whole.key, 3)
    assert np.array_equal(expected.query.x, again.query.x)


def test_early_stopping_counts_evaluations_without_progress(tiny_blobs):
    training = dataclasses.replace(tiny_blobs.training, patience=2)
    state = run_state.init_state(build(tiny_blobs), 0)
    best_steps, finished = [], []
    for step, score in [(10, 0.5), (20, 0.6), (30, 0.6), (40, float("nan"))]:
        state = state._replace(meta=state.meta._replace(step=jnp.array(step)))
        state = run_state.with_score(state, score)
        best_steps.append(int(state.best_step))
        finished.append(run_state.is_finished(state, training))
    assert best_steps == [10, 20, 20, 20]
    assert finished == [False, False, False, True]


def test_the_best_parameters_are_those_of_the_best_step(tmp_path, tiny_blobs, monkeypatch):
    scores = iter([0.3, 0.9, 0.5])
    monkeypatch.setattr(loop, "with_score", lambda state, _, keep=run_state.with_score: keep(state, next(scores)))
    state = run(tmp_path, build(tiny_blobs), tiny_blobs.training)
    assert int(state.best_step) == 40
    _, at_40 = checkpoints.restore(tmp_path / "checkpoints", state, up_to=40)
    for best, then in zip(*map(jax.tree.leaves, (state.best_meta_params, at_40.meta.meta_params)), strict=True):
        assert np.array_equal(best, then)
    assert checkpoints.restore(tmp_path / "checkpoints", state, best=True)[0] == 40


def test_numbers_of_steps_must_be_multiples_of_a_dispatch(tiny_blobs):
    training = dataclasses.replace(tiny_blobs.training, evaluate_every=25)
    with pytest.raises(ValueError, match=r"evaluate_every=25; expected a positive multiple of .*=10"):
        checks.check(dataclasses.replace(tiny_blobs, training=training))


@pytest.mark.parametrize(
    ("part", "option", "number"),
    [
        *[("training", name, 0) for name in ("tasks_per_step", "halve_lr_every", "patience", "max_skipped_in_a_row")],
        *[("training", name, 0) for name in ("steps_per_dispatch", "keep_last")],
        *[("training", name, number) for name in ("lr", "clip_norm") for number in (0.0, -1.0)],
        ("training", "num_valid_tasks", 1),
        ("data", "num_queries", 0),
        *[("testing", name, 0) for name in ("num_ways", "num_shots", "num_tasks", "tasks_at_once")],
    ],
)
def test_a_number_out_of_its_range_is_refused_before_anything_is_written(
    tiny_blobs, tmp_path, monkeypatch, capsys, part, option, number
):
    """Under the name of its option."""
    monkeypatch.setattr(recipes, "load", lambda name: tiny_blobs)
    wrong = ["tiny", "--run-dir", str(tmp_path / "run"), f"--{part}.{option.replace('_', '-')}", str(number)]
    assert train.main(wrong) == 1
    assert re.search(rf"error: {part}\.{option}={number}; expected ", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_metrics_are_means_over_steps_that_were_not_skipped():
    aux = {"loss": np.array([1.0, np.nan, 3.0]), "is_skipped": np.array([0, 1, 0]), "inner_losses": np.ones((3, 2))}
    assert loop.mean_metrics(aux, {}) == {"loss": 2.0, "num_skipped": 1.0}
    assert loop.mean_metrics(aux, {"loss": "objective"}) == {"objective": 2.0, "num_skipped": 1.0}


def test_a_poisoned_step_is_skipped_and_counted(tmp_path, tiny_sinusoid):
    experiment = build(tiny_sinusoid)
    key = run_state.init_state(experiment, tiny_sinusoid.training.seed).key
    poison = task_keys(experiment, key, 13)[2]
    experiment = with_nan_where(experiment, lambda data: (data == poison).all())
    state = run(tmp_path, experiment, tiny_sinusoid.training)
    assert (int(state.meta.step), int(state.meta.num_skipped), int(state.meta.last_skipped_step)) == (60, 1, 13)
    assert [line["num_skipped"] for line in metrics_log.read_metrics(tmp_path, "meta_train")] == [0, 1, 0, 0, 0, 0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.meta.meta_params))


def test_too_many_skipped_steps_stop_the_run_and_can_be_replayed(tmp_path, tiny_sinusoid, monkeypatch, capsys):
    folder = prepared(tmp_path / "run", tiny_sinusoid)
    training = dataclasses.replace(tiny_sinusoid.training, max_skipped_in_a_row=5)
    experiment = build(tiny_sinusoid)
    key = run_state.init_state(experiment, training.seed).key
    poison = np.stack([task_keys(experiment, key, step)[1] for step in range(23, 60)])
    experiment = with_nan_where(experiment, lambda data: (data[None] == poison).all(-1).any())
    with pytest.raises(loop.DivergedError) as caught:
        run(folder, experiment, training)
    message = str(caught.value)
    assert "meta-steps 23 to 29 were skipped" in message
    assert f"In step 29 1 of its 4 tasks are at fault: task 1 (key data {poison[29 - 23].tolist()}" in message
    assert f"python -m experiments.replay {folder} --step 29" in message

    monkeypatch.setattr(replay, "build", lambda recipe: experiment)
    reports = replay.replay(folder, 29)
    assert [report.is_finite for report in reports] == [True, False, True, True]
    assert reports[1].key_data == tuple(poison[29 - 23].tolist())
    assert replay.main([str(folder), "--step", "22"]) == 0
    assert "4 of 4 tasks are finite" in capsys.readouterr().out
    assert replay.main([str(folder), "--step", "60"]) == 1


def test_a_replayed_step_has_the_loss_that_was_logged(tmp_path, tiny_sinusoid):
    training = dataclasses.replace(tiny_sinusoid.training, steps_per_dispatch=1, num_steps=25, evaluate_every=20)
    training = dataclasses.replace(training, evaluate_every=5)
    recipe = dataclasses.replace(tiny_sinusoid, training=training)
    folder = prepared(tmp_path / "run", recipe)
    run(folder, build(recipe), training)
    logged = {line["step"]: line["loss"] for line in metrics_log.read_metrics(folder, "meta_train")}
    for step in (12, 17):
        losses = [report.loss for report in replay.replay(folder, step)]
        assert np.mean(losses) == pytest.approx(logged[step + 1], rel=1e-4)  # the log counts steps done


def test_what_is_sampled_again_is_what_was_sampled(tiny_sinusoid):
    experiment = build(tiny_sinusoid)
    key = jax.random.key(3)
    key_tasks, _ = step_keys(key, 5)
    expected = stacked(experiment.source.meta_train, experiment.tasks_per_step)(key_tasks)
    again = replay.sample_step(experiment, key, 5)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (expected, again)), strict=True))


def test_a_session_is_recorded(tmp_path, tiny_blobs):
    run(tmp_path, build(tiny_blobs), tiny_blobs.training)
    (session,) = [json.loads(line) for line in (tmp_path / "sessions.jsonl").read_text().splitlines()]
    assert (session["seed"], session["resumed_from"], session["jax"]) == (0, 0, jax.__version__)


@pytest.mark.parametrize(
    ("is_finite", "words"),
    [
        (
            [True, True],
            "no task by itself is at fault, so the step itself may be too large (--training.lr). Look",
        ),
        ([False, True], "1 of its 2 tasks are at fault: task 0 "),
        ([False, False], "all 2 tasks are at fault, so perhaps the parameters or the inner loop: task 0 "),
    ],
)
def test_a_divergence_says_what_is_at_fault(tmp_path, tiny_blobs, monkeypatch, is_finite, words):
    experiment = build(tiny_blobs)
    reports = [TaskReport(i, (i,), 1.0, 1.0, each, True) for i, each in enumerate(is_finite)]
    monkeypatch.setattr(loop, "examine_step", lambda *_: reports)
    state = run_state.init_state(experiment, 0)
    assert words in loop._explain_divergence(experiment, state, tmp_path)
