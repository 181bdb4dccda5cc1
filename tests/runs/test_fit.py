"""`runs.fit`: a trainer and a sampler of a user's own, with all that a run has."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import learners, losses, models, runs, tasks
from jmeta.runs import loop, terminal
from jmeta.training import count_step, start_counting

from .commands import bits
from .commands import jmeta as jmeta_command

SAMPLE = tasks.sinusoid(num_shots=5, num_queries=5)
LEARNER = learners.maml(models.mlp([8, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
TRAINING = runs.Training(
    num_steps=40, tasks_per_step=2, steps_per_dispatch=10, evaluate_every=10, num_valid_tasks=8, seed=3
)


def walk(step_size=1.0):
    """A trainer that moves one number on, whatever the tasks, so it passes the best place and gets worse."""

    def update(state, tasks, key):
        skipped = 1 - jnp.isfinite(step_size).astype(jnp.int32)
        moved = jnp.where(skipped == 1, state.meta_params, state.meta_params + step_size)
        return count_step(state, skipped)._replace(meta_params=moved), {"is_skipped": skipped, "loss": moved}

    return jmeta.types.MetaTrainer(lambda meta_params: start_counting(meta_params, ()), update)


def walked(folder, *, trainer=None, **changes):
    arguments = {
        "init": lambda key: jnp.zeros(()),
        "valid": lambda place, task, key: (jnp.square(place - 20.0), {"accuracy": -jnp.abs(place - 30.0)}),
        "training": TRAINING,
    }
    return runs.fit(trainer or walk(), jax.random.normal, folder=folder, **{**arguments, **changes})


def of_learner(folder):
    grad_fn = jax.value_and_grad(jmeta.episode(LEARNER, losses.squared_error), has_aux=True)
    trainer = jmeta.meta_trainer(jmeta.over_tasks(grad_fn), optax.adam(0.01))
    return runs.fit(
        trainer,
        SAMPLE,
        init=lambda key: LEARNER.init(key, SAMPLE(key)),
        valid=jmeta.plain_episode(LEARNER, losses.squared_error),
        folder=folder,
        training=TRAINING,
    )


def test_the_best_is_kept_where_training_gets_worse(tmp_path):
    best = walked(tmp_path / "best")
    assert (float(best.meta_params), best.best_score, best.best_step) == (20.0, 0.0, 20)
    last = walked(tmp_path / "last", keep_best=False)
    assert (float(last.meta_params), last.best_score, last.best_step) == (40.0, 0.0, 20)
    named = walked(tmp_path / "named", metric="accuracy")
    assert (float(named.meta_params), named.best_score, named.best_step) == (30.0, 0.0, 30)


def test_it_stops_early_and_draws_its_curve(tmp_path):
    patient = runs.Training(num_steps=40, tasks_per_step=2, steps_per_dispatch=10, evaluate_every=10, patience=1)
    assert int(walked(tmp_path, training=patient).state.meta.step) == 30
    assert (tmp_path / "learning_curve.png").stat().st_size > 1000
    assert json.loads((tmp_path / "config.json").read_text())["recipe"] == "fit"


def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    whole = of_learner(tmp_path / "whole")
    num_calls = iter(range(3))

    def interrupt_third():
        if next(num_calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(terminal, "raise_if_interrupted", interrupt_third)
        with pytest.raises(KeyboardInterrupt):
            of_learner(tmp_path / "stopped")
    resumed = of_learner(tmp_path / "stopped")
    assert bits(resumed.state) == bits(whole.state)
    assert np.isfinite(whole.best_score)
    lines = (tmp_path / "stopped" / "sessions.jsonl").read_text().splitlines()
    assert [json.loads(line)["resumed_from"] for line in lines] == [0, 30]


def test_a_folder_of_another_fit_is_refused(tmp_path):
    walked(tmp_path, options={"step_size": 1.0})
    with pytest.raises(ValueError, match=r"options\.step_size was 1\.0, is 2\.0"):
        walked(tmp_path, options={"step_size": 2.0})


def test_a_folder_of_another_metric_is_refused_and_evaluate_says_where_its_tasks_are(tmp_path, capsys):
    walked(tmp_path / "run")
    with pytest.raises(ValueError, match="metric was loss, is accuracy"):
        walked(tmp_path / "run", metric="accuracy")
    assert jmeta_command("evaluate", tmp_path / "run") == 1
    assert "is a run of jmeta.runs.fit, whose trainer and tasks are in a program" in capsys.readouterr().err


def test_without_a_finite_score_there_is_no_best(tmp_path):
    valid = lambda place, task, key: (place * jnp.nan, {})
    with pytest.raises(ValueError, match="had a finite loss, so there are no best meta-parameters"):
        walked(tmp_path, valid=valid)
    assert float(walked(tmp_path, valid=valid, keep_best=False).meta_params) == 40.0


def test_a_metric_that_no_evaluation_has_is_named(tmp_path):
    with pytest.raises(ValueError, match="metric 'return', but an evaluation has accuracy, loss"):
        walked(tmp_path, metric="return")


def test_meta_steps_that_are_not_finite_end_it(tmp_path):
    with pytest.raises(loop.DivergedError, match="meta-steps 0 to 19 were skipped.*The state before them is in"):
        walked(tmp_path, trainer=walk(jnp.inf))


def test_without_a_sampler_to_judge_on_tasks_of_the_host_are_refused(tmp_path):
    stream = tasks.HostTasks(lambda own: iter(()))
    with pytest.raises(ValueError, match="pass `valid_sample`"):
        runs.fit(walk(), stream, init=SAMPLE, valid=jnp.add, folder=tmp_path, training=TRAINING)
