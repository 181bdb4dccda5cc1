"""The one value that a recipe's `build` returns: what it takes, what follows from it, and which numbers are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

import jmeta as library
from jmeta import learners, losses, models, runs, tasks
from jmeta.runs import loop
from jmeta.runs.experiment import check
from jmeta.tasks import HostTasks

TRAINING = runs.Training(num_steps=20, tasks_per_step=4, steps_per_dispatch=10, evaluate_every=10, num_valid_tasks=6)
SAMPLE = tasks.sinusoid(num_shots=3, num_queries=2)


def maml(num_steps):
    return learners.maml(models.mlp((4, 1)), losses.squared_error, optax.sgd(0.01), num_steps=num_steps)


def experiment(**changes):
    source = tasks.Source(lambda: SAMPLE, SAMPLE, SAMPLE, "waves", lambda num_tasks: f"waves, {num_tasks} tasks")
    parts = {"learner": maml(1), "loss_fn": losses.squared_error, "source": source, "optimizer": optax.adam(1e-3)}
    return runs.Experiment(**{**parts, "training": TRAINING, **changes})


def test_one_of_optimizer_and_trainer_is_given():
    with pytest.raises(ValueError, match="expected an optimizer or a meta_trainer, got neither"):
        experiment(optimizer=None)
    with pytest.raises(ValueError, match="expected an optimizer or a meta_trainer, got both"):
        experiment(meta_trainer=experiment().trainer)


def test_a_trainer_of_ones_own_is_shared_among_devices():
    def share(sharing):
        shared_with.append(sharing)
        return own

    shared_with = []
    own = library.meta_trainer(library.over_tasks(experiment().grad_fn), optax.sgd(0.1))._replace(share=share)
    assert experiment(optimizer=None, meta_trainer=own).trainer is own
    shared = experiment(optimizer=None, meta_trainer=own, training=dataclasses.replace(TRAINING, mesh="tasks=1"))
    assert shared.trainer.update
    assert shared_with == [shared.sharing]
    assert shared.sharing is not None
    assert shared.sharing.mesh.shape == {"tasks": 1}


def test_what_is_tested_is_the_learner_if_nothing_else_is_said():
    plain = experiment()
    assert plain.tested is plain.learner
    other = learners.from_scratch(models.mlp((4, 1)), losses.squared_error, optax.sgd(0.1), num_steps=1)
    assert experiment(evaluated=other).tested is other
    made = []
    by_steps = experiment(evaluated=other, with_num_steps=lambda n: made.append(n) or maml(n), num_test_steps=0)
    assert by_steps.tested is by_steps.tested  # made once
    assert made == [0]
    assert experiment(evaluated=other, with_num_steps=maml).tested is other


def test_protocols_say_how_many_tasks_and_inner_steps():
    plain = experiment()
    assert (plain.num_test_tasks, plain.test_protocol) == (1000, "waves, 1000 tasks")
    fewer = experiment(testing=runs.Testing(num_tasks=7), source=plain.source._replace(num_test_tasks=600))
    assert (fewer.num_test_tasks, fewer.test_protocol) == (7, "waves, 7 tasks")
    together = "all queries of a task together"
    assert loop.valid_protocol(plain) == f"waves, 6 tasks, of meta_valid, {together}"
    for number, words in ((0, "0 inner steps"), (1, "1 inner step"), (3, "3 inner steps")):
        judged = experiment(with_num_steps=maml, num_test_steps=number)
        assert loop.valid_protocol(judged) == f"waves, 6 tasks, of meta_valid, {words}, {together}"
    reported = experiment(evaluated=library.episode(plain.learner, plain.loss_fn))
    assert loop.valid_protocol(reported) == "waves, 6 tasks, of meta_valid"
    otherwise = plain.source._replace(describe_valid=lambda num_tasks: f"other waves, {num_tasks} tasks")
    assert loop.valid_protocol(experiment(source=otherwise)).startswith("other waves, 6 tasks, of meta_valid")


def test_training_tasks_are_made_once_and_when_they_are_used():
    made = []
    source = experiment().source._replace(meta_train=lambda: made.append(1) or SAMPLE)
    built = experiment(source=source)
    assert (built.tested, built.init_fn, built.trainer, made)[-1] == []
    assert built.meta_train is built.meta_train
    assert made == [1]


def test_parameters_are_the_learners_own_or_those_of_a_function(key):
    built = experiment()
    expected = built.learner.init(key, SAMPLE(key))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), built.init_fn(key), expected))
    assert experiment(init=lambda key: {"a": jnp.ones(3)}).init_fn(key)["a"].shape == (3,)


def test_a_meta_step_descends_the_episode_that_is_given(key):
    built = experiment(
        episode_fn=lambda meta_params, task, key: (3.0 * meta_params, {}), init=lambda key: jnp.array(2.0)
    )
    (loss, _), grads = built.grad_fn(built.init_fn(key), SAMPLE(key), key)
    assert (float(loss), float(grads)) == (6.0, 3.0)


def test_progress_is_that_of_the_whole_run_where_tasks_carry_it():
    assert (experiment().num_total_steps, experiment(has_progress=True).num_total_steps) == (None, 20)


def test_tasks_of_the_host_are_opened_by_the_run():
    stream = HostTasks(lambda own: iter(()))
    assert experiment(source=experiment().source._replace(meta_train=lambda: stream)).meta_train is stream


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        *[(f"training.{name}", 0, "at least 1") for name in ("tasks_per_step", "patience", "max_skipped_in_a_row")],
        ("training.keep_last", 0, "at least 1"),
        ("training.num_valid_tasks", 1, "at least 2"),
        ("testing.num_tasks", 1, "at least 2"),
        ("testing.tasks_at_once", 0, "at least 1"),
        ("training.steps_per_dispatch", 0, "a positive multiple of training.steps_per_dispatch=0"),
        *[
            (f"training.{name}", number, "a positive multiple of training.steps_per_dispatch=10")
            for name in ("num_steps", "evaluate_every", "checkpoint_every")
            for number in (0, -10, 25)
        ],
    ],
)
def test_a_number_out_of_its_range_is_refused_under_its_name(name, number, expected):
    part, _, option = name.partition(".")
    parts = {"training": TRAINING, "testing": runs.Testing()}
    check(**parts)
    parts[part] = dataclasses.replace(parts[part], **{option: number})
    with pytest.raises(ValueError, match=rf"^{name}={number}; expected {expected}"):
        check(**parts)


def test_a_recipes_own_numbers_are_positive_and_finite():
    runs.check_positive(meta_lr=0.1, halve_every=3, clip_norm=None)
    for number in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"meta_lr={number}; expected a positive number"):
            runs.check_positive(inner_lr=1.0, meta_lr=number)
