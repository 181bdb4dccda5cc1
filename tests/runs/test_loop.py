"""The host loop: choosing by meta_valid, early stopping, skipped steps, and what is written when."""

import dataclasses
import json
import re
import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import checkpoints
from jmeta.runs import diagnosis, log, loop, recipes, replay, state, terminal
from jmeta.runs import folder as run_folder
from jmeta.runs.diagnosis import TaskReport, sample_step
from jmeta.tasks import stacked
from jmeta.training import step_keys

from .commands import bits, jmeta


def prepared(folder, tiny):
    folder.mkdir(exist_ok=True)
    run_folder.write_config(folder, tiny.recipe.name, tiny.options, None, is_ours=tiny.recipe.path is None)
    return folder


def run_until_third_save(folder, experiment, monkeypatch):
    """Interrupt a run when it is about to save for the third time."""
    save, num_saves = checkpoints.AsyncSaver.save, [0]

    def save_twice(*args, **kwargs):
        num_saves[0] += 1
        if num_saves[0] == 3:
            raise KeyboardInterrupt
        return save(*args, **kwargs)

    monkeypatch.setattr(checkpoints.AsyncSaver, "save", save_twice)
    with pytest.raises(KeyboardInterrupt):
        loop.run(experiment, folder)
    monkeypatch.undo()


def with_nan_where(experiment, is_poisoned):
    """The experiment with NaN in the targets of the tasks whose key data are poisoned."""

    def sample(inner, key):
        task = inner(key)
        y = jnp.where(is_poisoned(jax.random.key_data(key)), jnp.nan, task.query.y)
        return task._replace(query=task.query._replace(y=y))

    poisoned = jax.tree_util.Partial(sample, experiment.meta_train)
    source = experiment.source._replace(meta_train=lambda: poisoned)
    return dataclasses.replace(experiment, source=source)


def task_keys(experiment, key, step):
    key_tasks, _ = step_keys(key, step)
    return np.asarray(jax.random.key_data(jax.random.split(key_tasks, experiment.training.tasks_per_step)))


def test_a_run_logs_evaluates_and_saves(tmp_path, tiny_blobs):
    last = loop.run(tiny_blobs.experiment(), tmp_path)
    train, valid = (log.read_metrics(tmp_path, split) for split in ("meta_train", "meta_valid"))
    assert [line["step"] for line in train] == [10, 20, 30, 40, 50, 60]
    assert [line["step"] for line in valid] == [20, 40, 60]
    assert set(valid[0]) >= {"accuracy", "accuracy_half_width", "loss"}
    assert int(last.meta.step) == 60
    assert float(last.best_score) == max(line["accuracy"] for line in valid)
    assert checkpoints.steps(tmp_path / "checkpoints") == [20, 40, 60]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_finished_run_is_left_as_it_is(tmp_path, tiny_blobs):
    first = loop.run(tiny_blobs.experiment(), tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text()
    again = loop.run(tiny_blobs.experiment(), tmp_path)
    assert bits(first) == bits(again)
    assert (tmp_path / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize("damaged", [False, True])
def test_a_stopped_run_goes_on_in_the_same_bits(tmp_path, tiny_sinusoid, monkeypatch, damaged):
    experiment = tiny_sinusoid.experiment()
    whole = loop.run(experiment, prepared(tmp_path / "whole", tiny_sinusoid))
    folder = prepared(tmp_path / "stopped", tiny_sinusoid)
    run_until_third_save(folder, experiment, monkeypatch)
    assert [line["step"] for line in log.read_metrics(folder)][-1] == 60  # more than the checkpoint at 40
    if damaged:
        (folder / "checkpoints" / "step_00000040" / "state" / "_METADATA").unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        resumed = loop.run(experiment, folder)
    assert any("damaged" in str(warning.message) for warning in caught) == damaged
    assert bits(resumed) == bits(whole)
    logs = [log.read_metrics(path) for path in (folder, tmp_path / "whole")]
    assert [{**line, "seconds": 0} for line in logs[0]] == [{**line, "seconds": 0} for line in logs[1]]


def test_tasks_from_the_host_go_on_where_they_were(tmp_path, tiny_folder, monkeypatch):
    whole = loop.run(tiny_folder.experiment(), prepared(tmp_path / "whole", tiny_folder))
    assert whole.sampler == {"next_index": 60}
    folder = prepared(tmp_path / "stopped", tiny_folder)
    run_until_third_save(folder, tiny_folder.experiment(), monkeypatch)
    resumed = loop.run(tiny_folder.experiment(), folder)
    assert bits(resumed) == bits(whole)
    batches = iter(tiny_folder.experiment().meta_train.open(range(4)))
    expected = [next(batches) for _ in range(4)][3]
    again = sample_step(tiny_folder.experiment(), whole.key, 3)
    assert np.array_equal(expected.query.x, again.query.x)


def test_early_stopping_counts_evaluations_without_progress(tiny_blobs):
    experiment = tiny_blobs.trained(patience=2).experiment()
    now = state.init_state(experiment, 0)
    best_steps, finished = [], []
    for step, score in [(10, 0.5), (20, 0.6), (30, 0.6), (40, float("nan"))]:
        now = now._replace(meta=now.meta._replace(step=jnp.array(step)))
        now = state.with_score(now, score)
        best_steps.append(int(now.best_step))
        finished.append(state.is_finished(now, experiment.training))
    assert best_steps == [10, 20, 20, 20]
    assert finished == [False, False, False, True]


def test_the_best_parameters_are_those_of_the_best_step(tmp_path, tiny_blobs, monkeypatch):
    scores = iter([0.3, 0.9, 0.5])
    monkeypatch.setattr(loop, "with_score", lambda now, _, keep=state.with_score: keep(now, next(scores)))
    last = loop.run(tiny_blobs.experiment(), tmp_path)
    assert int(last.best_step) == 40
    _, at_40 = checkpoints.restore(tmp_path / "checkpoints", last, up_to=40)
    assert bits(last.best_meta_params) == bits(at_40.meta.meta_params)
    assert checkpoints.restore(tmp_path / "checkpoints", last, best=True)[0] == 40


@pytest.mark.parametrize(
    ("option", "number"),
    [
        *[
            (f"training.{name}", 0)
            for name in ("tasks_per_step", "patience", "max_skipped_in_a_row", "steps_per_dispatch", "keep_last")
        ],
        ("training.num_valid_tasks", 1),
        *[(f"testing.{name}", 0) for name in ("num_tasks", "tasks_at_once")],
        *[("meta_lr", number) for number in (0.0, -1.0, float("inf"))],
    ],
)
def test_a_number_out_of_its_range_is_refused_before_anything_is_written(tmp_path, capsys, option, number):
    """Under the name of its option."""
    words = ["train", "blobs_protonet", "--run-dir", tmp_path / "run", f"--{option.replace('_', '-')}", number]
    assert jmeta(*words) == 1
    assert re.search(rf"error: {option}={number}; expected ", capsys.readouterr().err)
    assert not list(tmp_path.rglob("config.json"))
    assert (tmp_path / "run").exists() == (option == "meta_lr")  # the recipe checks it, in a held folder


def test_metrics_are_means_over_steps_that_were_not_skipped():
    aux = {"loss": np.array([1.0, np.nan, 3.0]), "is_skipped": np.array([0, 1, 0]), "inner_losses": np.ones((3, 2))}
    assert loop.mean_metrics(aux, {}) == {"loss": 2.0, "num_skipped": 1.0}
    assert loop.mean_metrics(aux, {"loss": "objective"}) == {"objective": 2.0, "num_skipped": 1.0}


def test_a_poisoned_step_is_skipped_and_counted(tmp_path, tiny_sinusoid):
    experiment = tiny_sinusoid.experiment()
    key = state.init_state(experiment, experiment.training.seed).key
    poison = task_keys(experiment, key, 13)[2]
    experiment = with_nan_where(experiment, lambda data: (data == poison).all())
    last = loop.run(experiment, tmp_path)
    assert (int(last.meta.step), int(last.meta.num_skipped), int(last.meta.last_skipped_step)) == (60, 1, 13)
    assert [line["num_skipped"] for line in log.read_metrics(tmp_path, "meta_train")] == [0, 1, 0, 0, 0, 0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.meta.meta_params))


def test_too_many_skipped_steps_stop_the_run_and_can_be_replayed(tmp_path, tiny_sinusoid, monkeypatch, capsys):
    tiny = tiny_sinusoid.trained(max_skipped_in_a_row=5)
    folder, experiment = prepared(tmp_path / "run", tiny), tiny.experiment()
    key = state.init_state(experiment, experiment.training.seed).key
    poison = np.stack([task_keys(experiment, key, step)[1] for step in range(23, 60)])
    experiment = with_nan_where(experiment, lambda data: (data[None] == poison).all(-1).any())
    with pytest.raises(loop.DivergedError) as caught:
        loop.run(experiment, folder)
    message = str(caught.value)
    assert "meta-steps 23 to 29 were skipped" in message
    assert f"In step 29 1 of its 4 tasks are at fault: task 1 (key data {poison[29 - 23].tolist()}" in message
    assert f"jmeta replay {folder} --step 29" in message

    monkeypatch.setattr(recipes, "ours", lambda name: tiny.recipe._replace(build=lambda options: experiment))
    reports = replay.replay(folder, 29)
    assert [report.is_finite for report in reports] == [True, False, True, True]
    assert reports[1].key_data == tuple(poison[29 - 23].tolist())
    assert jmeta("replay", folder, "--step", 22) == 0
    assert "4 of 4 tasks are finite" in capsys.readouterr().out
    assert jmeta("replay", folder, "--step", 60) == 1


def test_a_replayed_step_has_the_loss_that_was_logged(tmp_path, tiny_sinusoid):
    tiny = tiny_sinusoid.trained(steps_per_dispatch=1, num_steps=25, evaluate_every=5)
    folder = prepared(tmp_path / "run", tiny)
    loop.run(tiny.experiment(), folder)
    logged = {line["step"]: line["loss"] for line in log.read_metrics(folder, "meta_train")}
    for step in (12, 17):
        losses = [report.loss for report in replay.replay(folder, step)]
        assert np.mean(losses) == pytest.approx(logged[step + 1], rel=1e-4)  # the log counts steps done


def test_an_interrupt_that_a_library_swallowed_ends_the_run_after_the_dispatch(tmp_path, tiny_sinusoid, monkeypatch):
    monkeypatch.setattr(terminal, "_interrupts", [])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        terminal._interrupt(signal.SIGINT, None)
    signal.signal(signal.SIGINT, before)
    with pytest.raises(KeyboardInterrupt):
        loop.run(tiny_sinusoid.experiment(), prepared(tmp_path / "run", tiny_sinusoid))
    assert {line["step"] for line in log.read_metrics(tmp_path / "run", "meta_train")} == {10}


def test_what_is_sampled_again_is_what_was_sampled(tiny_sinusoid):
    experiment = tiny_sinusoid.experiment()
    key = jax.random.key(3)
    key_tasks, _ = step_keys(key, 5)
    expected = stacked(experiment.meta_train, experiment.training.tasks_per_step)(key_tasks)
    assert bits(expected) == bits(sample_step(experiment, key, 5))


def test_a_session_is_recorded(tmp_path, tiny_blobs):
    loop.run(tiny_blobs.experiment(), tmp_path)
    (session,) = [json.loads(line) for line in (tmp_path / "sessions.jsonl").read_text().splitlines()]
    assert (session["seed"], session["resumed_from"], session["jax"]) == (0, 0, jax.__version__)


@pytest.mark.parametrize(
    ("is_finite", "words"),
    [
        (
            [True, True],
            "every single task is finite, so the step may be too large (lower the meta-optimizer's learning rate). ",
        ),
        ([False, True], "1 of its 2 tasks are at fault: task 0 "),
        ([False, False], "all 2 tasks are at fault, so perhaps the parameters or the inner loop: task 0 "),
    ],
)
def test_a_divergence_says_what_is_at_fault(tmp_path, tiny_blobs, monkeypatch, is_finite, words):
    experiment = tiny_blobs.experiment()
    reports = [TaskReport(i, (i,), 1.0, 1.0, each, True) for i, each in enumerate(is_finite)]
    monkeypatch.setattr(loop, "examine_step", lambda *_: reports)
    message = loop._explain_divergence(experiment, state.init_state(experiment, 0), tmp_path)
    assert words in message
    assert ("wrap the inner optimizer in safe_at_zero" in message) == (not all(is_finite))


def test_a_loss_that_is_not_finite_is_no_fault_of_the_inner_optimizer():
    assert not diagnosis.advice_on([TaskReport(0, (0,), float("nan"), 1.0, False, True)])
    assert not diagnosis.advice_on([TaskReport(0, (0,), 1.0, 1.0, True, True)])
