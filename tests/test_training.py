"""Meta-steps: pure, resumable at any step, deaf to NaN, compiled once."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import jmeta
from jmeta import Task, estimators, learners, losses, tasks, training

from .networks import smooth_mlp

LEARNER = learners.maml(smooth_mlp(), losses.squared_error, optax.sgd(0.01), num_steps=1)
SAMPLE = tasks.stacked(tasks.sinusoid(num_shots=5, num_queries=5), 4)


@pytest.fixture
def trainer():
    episode_fn = jmeta.episode(LEARNER, losses.squared_error)
    return jmeta.meta_trainer(jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True)), optax.adam(1e-3))


@pytest.fixture
def meta_params(key):
    return LEARNER.init(key, jax.tree.map(lambda leaf: leaf[0], SAMPLE(key)))


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_one_dispatch_of_many_steps_equals_many_of_few_bit_for_bit(trainer, meta_params, key):
    whole, whole_aux = training.sampled_steps(trainer, num_steps=6)(trainer.init(meta_params), SAMPLE, key)
    run, state, parts = training.sampled_steps(trainer, num_steps=2), trainer.init(meta_params), []
    for _ in range(3):
        state, aux = run(state, SAMPLE, key)
        parts.append(aux)
    assert_same_bits(state, whole)
    assert_same_bits(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts), whole_aux)
    assert int(whole.step) == 6


def test_a_step_can_be_replayed_from_its_number(trainer, meta_params, key):
    run = training.sampled_steps(trainer, num_steps=1)
    state, _ = run(trainer.init(meta_params), SAMPLE, key)
    kept = jax.tree.map(jnp.array, state)
    after, _ = run(state, SAMPLE, key)
    key_tasks, key_update = training.step_keys(key, 1)
    replayed, _ = jax.jit(trainer.update)(kept, SAMPLE(key_tasks), key_update)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), replayed, after)


def test_fed_tasks_train_as_sampled_ones(trainer, meta_params, key):
    sampled, _ = training.sampled_steps(trainer, num_steps=3)(trainer.init(meta_params), SAMPLE, key)
    fed = [SAMPLE(training.step_keys(key, step)[0]) for step in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fed)
    state, aux = training.fed_steps(trainer)(trainer.init(meta_params), stacked, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state, sampled)
    assert aux["loss"].shape == (3,)


def test_the_first_state_is_a_copy_so_that_donation_spares_the_callers_parameters(trainer, meta_params, key):
    training.sampled_steps(trainer, num_steps=1)(trainer.init(meta_params), SAMPLE, key)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(meta_params))


def test_a_run_is_compiled_once(meta_params, key):
    traces = []

    def grad_fn(params, tasks, key):
        traces.append(None)
        return (jnp.sum(params), {}), jnp.ones_like(params)

    trainer = jmeta.meta_trainer(grad_fn, optax.sgd(0.1))
    run, state = training.sampled_steps(trainer, num_steps=2), trainer.init(jnp.zeros(2))
    state, _ = run(state, SAMPLE, key)
    count = len(traces)
    run(state, SAMPLE, jax.random.key(1))
    assert len(traces) == count


def failing_trainer(bad_steps):
    """A trainer whose gradient is NaN when the tasks say so, and tasks that say so at given steps."""

    def grad_fn(params, tasks, key):
        grads = jnp.where(tasks.any(), jnp.nan, 1.0) * jnp.ones_like(params)
        return (jnp.sum(params), {}), grads

    keys = [jax.random.key_data(training.step_keys(jax.random.key(0), step)[0]) for step in bad_steps]
    sample = Partial(lambda keys, key: (keys == jax.random.key_data(key)[None]).all(-1), jnp.stack(keys))
    return jmeta.meta_trainer(grad_fn, optax.adam(0.1)), sample


def test_a_step_that_is_not_finite_is_skipped_and_counted(key):
    trainer, sample = failing_trainer([1, 3, 4])
    run = training.sampled_steps(trainer, num_steps=1)
    state, seen = trainer.init(jnp.zeros(2)), []
    for _ in range(6):
        before = jax.tree.map(np.asarray, (state.meta_params, state.optimizer_state))
        state, aux = run(state, sample, key)
        if aux["is_skipped"][0]:
            assert_same_bits((state.meta_params, state.optimizer_state), before)
        seen.append((int(state.num_skipped), int(state.num_skipped_in_a_row), int(state.last_skipped_step)))
    assert seen == [(0, 0, -1), (1, 1, 1), (1, 0, 1), (2, 1, 3), (3, 2, 4), (3, 0, 4)]
    assert int(state.step) == 6
    assert np.isfinite(state.meta_params).all()


def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is(key):
    trainer = jmeta.meta_trainer(lambda p, t, k: ((jnp.inf, {}), jnp.ones_like(p)), optax.sgd(1.0))
    state, _ = trainer.update(trainer.init(jnp.zeros(2)), None, key)
    np.testing.assert_array_equal(state.meta_params, 0.0)


@pytest.mark.parametrize(
    ("optimizer", "gradient"),
    [(optax.sgd(1e3), 1e38), (optax.adam(0.1), 1e25)],
    ids=["a parameter overflows", "a mean of squares overflows"],
)
def test_a_step_to_what_is_not_finite_is_skipped_though_loss_and_gradient_are(key, optimizer, gradient):
    """Else the run goes on from there, and the steps after it are blamed."""
    trainer = jmeta.meta_trainer(lambda p, t, k: ((p.sum(), {}), jnp.full_like(p, gradient)), optimizer)
    start = trainer.init(jnp.zeros(2))
    state, aux = jax.jit(trainer.update)(start, None, key)
    assert int(aux["is_skipped"]) == int(state.num_skipped) == 1
    assert_same_bits((state.meta_params, state.optimizer_state), (start.meta_params, start.optimizer_state))


def test_an_optimizer_may_begin_with_an_infinity(key):
    """As `reduce_on_plateau` does, whose best value so far is none."""
    keeps_smallest = optax.GradientTransformation(
        lambda params: jnp.inf, lambda grads, state, params: (grads, jnp.minimum(state, optax.tree.norm(grads)))
    )
    optimizer = optax.chain(keeps_smallest, optax.sgd(0.1))
    trainer = jmeta.meta_trainer(lambda p, t, k: ((p.sum(), {}), jnp.ones_like(p)), optimizer)
    state, _ = trainer.update(trainer.init(jnp.zeros(2)), None, key)
    assert int(state.num_skipped) == 0
    np.testing.assert_allclose(state.meta_params, -0.1)


def test_progress_goes_from_zero_towards_one(key):
    seen = []

    def grad_fn(params, tasks, key):
        return (jnp.sum(params), {"progress": tasks.progress.mean()}), jnp.zeros_like(params)

    trainer = jmeta.meta_trainer(grad_fn, optax.sgd(0.1))
    run, state = training.sampled_steps(trainer, num_steps=2, num_total_steps=8), trainer.init(jnp.zeros(2))
    for _ in range(4):
        state, aux = run(state, SAMPLE, key)
        seen.extend(aux["progress"].tolist())
    np.testing.assert_allclose(seen, np.arange(8) / 8)


def test_progress_is_refused_where_tasks_have_no_such_leaf(trainer, meta_params, key):
    run = training.sampled_steps(trainer, num_steps=1, num_total_steps=2)
    with pytest.raises(ValueError, match=r"progress of a jmeta.Task, but the tasks are"):
        run(trainer.init(meta_params), lambda key: tuple(SAMPLE(key)), key)


def test_a_gradient_of_another_structure_is_refused(key):
    trainer = jmeta.meta_trainer(lambda p, t, k: ((jnp.zeros(()), {}), [p["w"]]), optax.sgd(0.1))
    with pytest.raises(ValueError, match="returned a gradient of structure"):
        trainer.update(trainer.init({"w": jnp.zeros(2)}), None, key)


@pytest.mark.parametrize(
    "result", [0.0, (0.0, jnp.zeros(2)), (jnp.zeros(2), {})], ids=["a loss", "no aux", "of jax.grad"]
)
def test_what_is_no_value_and_gradient_is_refused(key, result):
    trainer = jmeta.meta_trainer(lambda p, t, k: result, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"grad_fn must return \(\(loss, aux\), grads\), as jax.value_and_grad"):
        trainer.update(trainer.init(jnp.zeros(2)), None, key)


@pytest.mark.parametrize(("value", "what"), [((0.0, {}, 1), "a tuple of 3"), (({}, 0.0), "a loss that is a dict")])
def test_a_value_that_is_no_loss_and_aux_is_refused(key, value, what):
    trainer = jmeta.meta_trainer(lambda p, t, k: (value, p), optax.sgd(0.1))
    with pytest.raises(ValueError, match=rf"the first result of grad_fn must be \(loss, aux\), .* it is {what}"):
        trainer.update(trainer.init(jnp.zeros(2)), None, key)


def test_nothing_to_learn_is_no_error(key):
    trainer = jmeta.meta_trainer(lambda p, t, k: ((jnp.zeros(()), {}), p), optax.sgd(0.1))
    state, _ = trainer.update(trainer.init({}), None, key)
    assert int(state.step) == 1


def test_no_steps_are_refused(trainer):
    with pytest.raises(ValueError, match="at least one meta-step"):
        training.sampled_steps(trainer, num_steps=0)


def test_tasks_are_what_the_sampler_gives(key):
    assert isinstance(SAMPLE(key), Task)
    assert SAMPLE(key).support.x.shape == (4, 5, 1)


SQUARE = jax.value_and_grad(lambda theta, tasks, key: ((theta - 1.0) ** 2, {}), has_aux=True)


@pytest.mark.parametrize(
    "optimizer",
    [optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()), optax.polyak_sgd(0.1)],
    ids=["plateau", "polyak"],
)
def test_a_meta_optimizer_may_look_at_the_loss(optimizer, key):
    trainer = jmeta.meta_trainer(SQUARE, optimizer)
    state, _ = trainer.update(trainer.init(jnp.array(0.0)), jnp.ones(4), key)
    np.testing.assert_allclose(state.meta_params, 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda: optax.sgd, r"meta_optimizer must be an optax transformation, but it is a function; call it"),
        (lambda: 0.1, r"meta_optimizer must be an optax transformation, but it is float"),
        (lambda: optax.lookahead(optax.sgd(0.1), 5, 0.5), r"pairs of parameters \(optax\.lookahead\) are not"),
        (optax.lbfgs, r"line searches \(optax\.lbfgs\)"),
    ],
    ids=["uncalled", "number", "lookahead", "lbfgs"],
)
def test_what_cannot_be_a_meta_optimizer_is_refused_in_a_sentence(optimizer, message, key):
    def step():
        trainer = inspect.unwrap(jmeta.meta_trainer)(SQUARE, optimizer())  # as outside tests, where no type is checked
        return trainer.update(trainer.init(jnp.array(0.0)), jnp.ones(4), key)

    with pytest.raises(ValueError, match=message):
        step()


def test_an_integer_among_the_parameters_is_refused_by_its_name():
    trainer = jmeta.meta_trainer(SQUARE, optax.sgd(0.1))
    with pytest.raises(ValueError, match="cannot move the parameter 'params/count' of dtype int32"):
        trainer.init({"params": {"w": jnp.ones(2), "count": jnp.array(3)}})


def persistent_training(num_unrolls=4, num_tasks=3):
    """Descent on task · x², of which the rate is learned; a negative task makes the loss NaN."""

    def unroll(rate, x, task, key):
        x = x - rate * task * x
        return x, jnp.where(task > 0, task * x**2, jnp.nan), {"x": x}

    estimator = estimators.persistent_evolution_strategies(
        unroll, lambda rate, task, key: 1.0 + task, num_unrolls=num_unrolls, num_pairs=4, sigma=0.01
    )
    sample_tasks = lambda key: jax.random.uniform(key, (num_tasks,), minval=0.5, maxval=1.5)
    return estimator, training.persistent_trainer(estimator, optax.sgd(0.1), sample_tasks), sample_tasks


def test_a_persistent_trainer_makes_the_unrolls_of_every_task_in_turn(key):
    """By hand: three loops of four unrolls, each on the task that is drawn when it begins; the first are shorter."""
    estimator, trainer, sample_tasks = persistent_training()
    state, rate = trainer.init(jnp.float32(0.3)), jnp.float32(0.3)
    particles: list[Any] = [None] * 3
    own, counts = [0.0] * 3, [0] * 3
    for step in range(6):
        key_tasks, key_step = training.step_keys(key, step)
        drawn = sample_tasks(key_tasks)
        key_begin, key_update = jax.random.split(key_step)
        keys_begin, keys_update = (jax.random.split(key, 3) for key in (key_begin, key_update))
        estimates = []
        for i in range(3):
            if counts[i] == 0:
                own[i], particles[i] = float(drawn[i]), estimator.init(rate, drawn[i], keys_begin[i])
                counts[i] = i if step == 0 else 0  # i · 4 // 3
            begun = particles[i]._replace(num_unrolls=jnp.int32(counts[i]))
            particles[i], estimate = estimator.update(begun, rate, own[i], keys_update[i])
            counts[i] = (counts[i] + 1) % 4
            estimates.append(estimate)
        state, aux = trainer.update(state, drawn, key_step)
        (losses, infos), grads = jax.tree.map(lambda *leaves: np.mean(leaves), *estimates)
        rate = rate - 0.1 * grads
        np.testing.assert_allclose([aux["loss"], aux["x"]], [losses, infos["x"]], rtol=1e-5)
        np.testing.assert_allclose(state.meta_params, rate, rtol=1e-5)
        assert state.optimizer_state.particles.num_unrolls.tolist() == counts
        assert state.optimizer_state.tasks.tolist() == own
        assert int(aux["num_restarted"]) == 0


def test_a_task_that_is_not_finite_has_no_part_and_begins_anew(key):
    _, trainer, _ = persistent_training()
    start = trainer.init(jnp.float32(0.3))
    tasks = jnp.array([0.5, -1.0, 1.5])
    state, aux = trainer.update(start, tasks, key)
    assert (int(aux["num_restarted"]), int(aux["is_skipped"])) == (1, 0)
    assert np.isfinite([aux["loss"], aux["grad_norm"], state.meta_params]).all()
    state, aux = trainer.update(state, jnp.ones(3), key)
    assert state.optimizer_state.tasks.tolist() == [0.5, 1.0, 1.5]  # and the new task took its place
    assert int(aux["num_restarted"]) == 0
    state, aux = trainer.update(start, -tasks - 2, key)
    assert (int(aux["num_restarted"]), int(aux["is_skipped"])) == (3, 1)
    assert float(state.meta_params) == float(start.meta_params)
    state, aux = trainer.update(state, tasks[::2].repeat(2)[:3], key)
    assert (int(aux["num_restarted"]), int(aux["is_skipped"])) == (0, 0)


def test_persistent_training_in_two_dispatches_is_that_in_one(key):
    _, trainer, sample_tasks = persistent_training()
    whole, _ = training.sampled_steps(trainer, num_steps=6)(trainer.init(jnp.float32(0.3)), sample_tasks, key)
    half = training.sampled_steps(trainer, num_steps=3)
    state, _ = half(trainer.init(jnp.float32(0.3)), sample_tasks, key)
    state, _ = half(state, sample_tasks, key)
    assert_same_bits(state, whole)
