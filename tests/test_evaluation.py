"""Evaluation: intervals cover, tasks are the same for all, and transductive is told from inductive."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import betainc

import jmeta
from jmeta import Batch, Learner, Task, evaluation, learners, losses, models, tasks
from jmeta.evaluation.per_task import check_numbers
from jmeta.inductive import leaks, support_and_one_query
from jmeta.models import conv4, frozen
from jmeta.sharding import Sharing, make_mesh

from .networks import smooth_mlp

SAMPLE = tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=2)
ARGUMENTS = {"protocol": "blobs", "num_tasks": 12}


@contextlib.contextmanager
def compilations():
    """A list that grows with every program that XLA compiles."""
    compiled = []

    def record(event, duration_secs, **kwargs):
        del duration_secs, kwargs
        compiled.extend([event] * event.endswith("backend_compile_duration"))

    jax.monitoring.register_event_duration_secs_listener(record)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(record)


def normalising_learner() -> Learner:
    """Nearest mean on features centred by the mean of the call: the smallest transductive learner."""

    def adapt(meta_params, support, key):
        centred = support.x - support.x.mean(0, keepdims=True)
        return jnp.stack([(centred * (support.y == k)[:, None]).sum(0) for k in range(3)]) / 2

    def predict(meta_params, adapted, x, key):
        centred = x - x.mean(0, keepdims=True)
        return -jnp.square(centred[:, None] - adapted[None]).sum(-1)

    return Learner(lambda key, task: {}, adapt, predict)


def test_the_interval_is_students():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    got = evaluation.estimate(values)
    assert got.mean == 3.5
    np.testing.assert_allclose(got.half_width, 3.18244630528 * values.std(ddof=1) / 2, rtol=1e-9)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    draws = np.random.default_rng(0).standard_normal((2000, 6))
    covered = np.mean([abs(e.mean) <= e.half_width for e in map(evaluation.estimate, draws)])
    assert abs(covered - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 2000)


def test_every_metric_of_every_task_is_that_of_a_plain_loop(key):
    learner = learners.nearest_mean(num_ways=3)
    result = jmeta.evaluate(learner, losses.cross_entropy, {}, SAMPLE, key, **ARGUMENTS, tasks_at_once=4)
    assert (result.protocol, result.num_tasks, result.transductive) == ("blobs", 12, None)
    for i, task_key in enumerate(jax.random.split(key, 12)):
        key_task, key_adapt = jax.random.split(task_key)
        task = SAMPLE(key_task)
        outputs = learner.predict({}, learner.adapt({}, task.support, key_adapt), task.query.x, None)
        loss, aux = losses.cross_entropy(outputs, task.query)
        np.testing.assert_allclose(result.inductive["loss"].values[i], loss, rtol=1e-4)
        np.testing.assert_allclose(result.inductive["accuracy"].values[i], aux["accuracy"], rtol=1e-6)


def test_the_loss_is_the_loss_whatever_aux_says(key):
    learner = learners.nearest_mean(num_ways=3)
    boastful = lambda outputs, batch: (losses.cross_entropy(outputs, batch)[0], {"loss": jnp.zeros(())})
    honest, boasting = (
        jmeta.evaluate(learner, fn, {}, SAMPLE, key, **ARGUMENTS) for fn in (losses.cross_entropy, boastful)
    )
    assert boasting.inductive["loss"].mean == honest.inductive["loss"].mean > 0


def test_tasks_at_once_is_a_matter_of_speed_only(key):
    learner = learners.nearest_mean(num_ways=3)
    one, five = (
        jmeta.evaluate(learner, losses.cross_entropy, {}, SAMPLE, key, **ARGUMENTS, tasks_at_once=n) for n in (1, 5)
    )
    np.testing.assert_allclose(one.inductive["loss"].values, five.inductive["loss"].values, rtol=1e-4)


def test_a_transductive_learner_gets_both_rows(key):
    result = jmeta.evaluate(normalising_learner(), losses.cross_entropy, {}, SAMPLE, key, **ARGUMENTS)
    assert result.transductive is not None
    assert not np.allclose(result.transductive["loss"].values, result.inductive["loss"].values)


def test_support_and_one_query_is_what_its_name_says(key):
    learner, task = normalising_learner(), SAMPLE(key)
    inductive = support_and_one_query(learner)
    outputs = inductive.predict({}, inductive.adapt({}, task.support, key), task.query.x, None)
    adapted = learner.adapt({}, task.support, key)
    for i, query in enumerate(task.query.x):
        together = jnp.concatenate([task.support.x, query[None]])
        np.testing.assert_allclose(outputs[i], learner.predict({}, adapted, together, None)[-1], rtol=1e-4)
    assert leaks(learner, {}, task, key).is_leaking
    assert not leaks(inductive, {}, task, key).is_leaking


def test_a_learner_that_is_made_inductive_is_trained_as_before():
    learner = normalising_learner()._replace(episode=lambda loss_fn: lambda meta_params, task, key: (0.0, {}))
    assert support_and_one_query(learner).episode is learner.episode


def test_a_leak_report_measures_the_change(key):
    report = leaks(normalising_learner(), {}, SAMPLE(key), key)
    assert report.change_when_dropped > report.tolerance > report.change_when_permuted


def test_a_leak_is_looked_for_in_full_precision(key):
    """Accelerators multiply float32 with fewer bits, and otherwise for one query than for many: no leak."""
    learner, seen = learners.nearest_mean(num_ways=3), []

    def predict(meta_params, adapted, x, key):
        seen.append(jax.config.jax_default_matmul_precision)
        return learner.predict(meta_params, adapted, x, key)

    assert not leaks(learner._replace(predict=predict), {}, SAMPLE(key), key).is_leaking
    assert set(seen) == {"highest"}


def test_a_leak_needs_two_queries_to_show(key):
    task = SAMPLE(key)
    single = task._replace(query=jax.tree.map(lambda leaf: leaf[:1], task.query))
    with pytest.raises(ValueError, match="at least two"):
        leaks(normalising_learner(), {}, single, key)


def test_a_paired_difference_is_narrower_than_its_parts(key):
    models = [smooth_mlp(4), smooth_mlp(4)]
    results = []
    for i, model in enumerate(models):
        learner = learners.protonet(model, num_ways=3)
        meta_params = learner.init(jax.random.key(i), SAMPLE(key))
        results.append(jmeta.evaluate(learner, losses.cross_entropy, meta_params, SAMPLE, key, **ARGUMENTS))
    first, second = (result.inductive["accuracy"] for result in results)
    difference = evaluation.paired_difference(first, second)
    np.testing.assert_allclose(difference.mean, first.mean - second.mean, atol=1e-12)
    np.testing.assert_array_equal(difference.values, first.values - second.values)


def test_the_curve_starts_at_the_unadapted_model(key):
    sample = tasks.sinusoid(num_shots=5, num_queries=5)
    model = smooth_mlp()
    make = lambda num_steps: learners.maml(model, losses.squared_error, optax.sgd(0.01), num_steps=num_steps)
    meta_params = make(0).init(key, sample(key))
    curve = evaluation.adaptation_curve(
        make, losses.squared_error, meta_params, sample, key, protocol="sinusoid", num_tasks=4, nums_steps=(0, 1, 3)
    )
    assert list(curve) == [0, 1, 3]
    for i, task_key in enumerate(jax.random.split(key, 4)):
        task = sample(jax.random.split(task_key)[0])
        loss, _ = losses.squared_error(model.apply(meta_params, task.query.x, None), task.query)
        np.testing.assert_allclose(curve[0].inductive["loss"].values[i], loss, rtol=1e-4)


@pytest.mark.parametrize(("num_tasks", "at_once"), [(1, 1), (0, 1), (2, 0), (2, -1), (True, 1)])
def test_impossible_numbers_are_refused_before_anything_is_compiled(key, num_tasks, at_once):
    numbers = {"num_tasks": num_tasks, "tasks_at_once": at_once}
    learner = learners.nearest_mean(num_ways=3)
    episode_fn = evaluation.evaluation_episode(learner, losses.cross_entropy)
    with compilations() as compiled:
        with pytest.raises(ValueError, match="num_tasks=.*and tasks_at_once=.*expected whole numbers"):
            jmeta.evaluate(learner, losses.cross_entropy, {}, SAMPLE, key, protocol="blobs", **numbers)
        with pytest.raises(ValueError, match="since an interval needs two"):
            evaluation.evaluate_episodes(episode_fn, {}, SAMPLE, key, protocol="blobs", **numbers)
        if num_tasks != 1 or num_tasks is True:  # values without an interval may be of a single task
            with pytest.raises(ValueError, match="expected whole numbers, the first at least 1"):
                evaluation.per_task_values(episode_fn)({}, SAMPLE, key, **numbers)
    assert not compiled


def test_numbers_that_are_not_whole_are_refused():
    for numbers in ((2.5, 1), (3, 1.0), (3, "1")):
        with pytest.raises(ValueError, match="expected whole numbers"):
            check_numbers(*numbers)
    check_numbers(np.int64(2), np.int32(1), least=2)


def test_a_learner_is_evaluated_as_its_episode_is(key):
    learner = learners.nearest_mean(num_ways=3)
    episode_fn = evaluation.evaluation_episode(learner, losses.cross_entropy)
    both = [
        jmeta.evaluate(learner, losses.cross_entropy, {}, SAMPLE, key, **ARGUMENTS),
        evaluation.evaluate_episodes(episode_fn, {}, SAMPLE, key, **ARGUMENTS),
    ]
    assert both[0].transductive is both[1].transductive is None
    for name in ("loss", "accuracy"):
        np.testing.assert_array_equal(*(each.inductive[name].values for each in both))


def test_a_transductive_learner_is_measured_in_both_ways(key):
    """Together by its own episode, alone by that of the learner that predicts one query at a time."""
    learner = normalising_learner()
    result = jmeta.evaluate(learner, losses.cross_entropy, {}, SAMPLE, key, **ARGUMENTS)
    for kind, each in (("transductive", learner), ("inductive", support_and_one_query(learner))):
        measure = evaluation.per_task_values(evaluation.evaluation_episode(each, losses.cross_entropy))
        expected = measure({}, SAMPLE, key, num_tasks=12)["loss"]
        np.testing.assert_allclose(getattr(result, kind)["loss"].values, expected, rtol=1e-5)


def test_an_evaluation_prints_short():
    values = np.linspace(0, 1, 1000)
    one = evaluation.estimate(values)
    result = evaluation.Evaluation("blobs 5-way", 1000, {"accuracy": one, "loss": one}, {"accuracy": one})
    line = "accuracy 0.5000 ± 0.0179"
    expected = f"blobs 5-way, 1000 tasks\ninductive: {line}, loss 0.5000 ± 0.0179\ntransductive: {line}"
    assert str(result) == repr(result) == expected
    assert str(result._replace(transductive=None)) == expected[: expected.index("\ntransductive")]
    assert repr(one) == "Estimate(0.5000 ± 0.0179, 1000 values)"


RATES = [  # tasks, queries of a task, accuracy, how alike tasks are (as a number of answers), coverage of Student's t
    (600, 5, 0.999, None, 0.81),
    (100, 5, 0.997, None, 0.78),
    (600, 5, 0.9999, None, 0.28),
    (100, 15, 0.99, 10, 0.88),
    (100, 5, 0.9, None, 0.94),
]


@pytest.mark.parametrize(("num_tasks", "num_queries", "rate", "alike", "students"), RATES)
def test_the_interval_of_a_proportion_covers_near_one_where_students_does_not(
    num_tasks, num_queries, rate, alike, students
):
    draws, rng = 1500, np.random.default_rng(0)
    rates = rate if alike is None else rng.beta(rate * alike, (1 - rate) * alike, (draws, num_tasks))
    values = rng.binomial(num_queries, rates, (draws, num_tasks)) / num_queries
    intervals = np.array([evaluation.proportion_interval(each) for each in values])
    estimates = [evaluation.estimate(each) for each in values]
    assert np.mean((intervals[:, 0] <= rate) & (rate <= intervals[:, 1])) > 0.93
    assert abs(np.mean([abs(each.mean - rate) <= each.half_width for each in estimates]) - students) < 0.04
    if rate == 0.9:  # and where both cover, it is hardly wider
        assert np.diff(intervals).mean() < 1.1 * np.mean([2 * each.half_width for each in estimates])


def test_the_interval_of_a_proportion_is_the_binomial_one_for_single_answers():
    """By solving for the rates at which so many right answers, or more, or fewer, have a probability of 2.5 %."""
    right, count = 17, 20
    values = (np.arange(count) < right).astype(float)
    interval = evaluation.proportion_interval(values)
    shrunk = count - 1  # s² has count - 1 below, so n is that; then Student's quantile for the Gaussian's
    shrunk *= (1.959963984540054 / 2.093024054408263) ** 2
    at = shrunk * right / count
    rates = np.linspace(0, 1, 20_001)[1:-1]
    tail = lambda x, y: np.array([betainc(x, y, rate) for rate in rates])  # P(at least x right answers)
    np.testing.assert_allclose(interval.low, np.interp(0.025, tail(at, shrunk - at + 1), rates), atol=1e-4)
    np.testing.assert_allclose(interval.high, np.interp(0.975, tail(at + 1, shrunk - at), rates), atol=1e-4)
    mirrored = evaluation.proportion_interval(1.0 - values)
    np.testing.assert_allclose(mirrored, [1 - interval.high, 1 - interval.low], atol=1e-12)
    wider = evaluation.proportion_interval(values, level=0.99)
    assert wider.low < interval.low < interval.high < wider.high


def test_tasks_without_an_error_leave_room_for_one():
    low, high = evaluation.proportion_interval(np.ones(100))
    assert (round(low, 3), high) == (0.963, 1.0)
    np.testing.assert_allclose(evaluation.proportion_interval(np.zeros(100)), [0.0, 1 - low], atol=1e-12)


def test_an_interval_of_a_proportion_is_of_rates():
    for values, level, message in (
        ([0.5, 1.5], 0.95, r"expected rates in \[0, 1\]"),
        ([-0.1, 0.5], 0.95, r"expected rates in \[0, 1\]"),
        ([np.nan, 0.5], 0.95, r"expected rates in \[0, 1\]"),
        ([0.5], 0.95, "at least two values"),
        ([0.5, 0.6], 95.0, "expected a number between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluation.proportion_interval(np.array(values), level=level)


def test_an_interval_and_a_difference_need_enough_values():
    with pytest.raises(ValueError, match="at least two values"):
        evaluation.estimate(np.ones(1))
    with pytest.raises(ValueError, match="one key and one num_tasks"):
        evaluation.paired_difference(evaluation.estimate(np.arange(3.0)), evaluation.estimate(np.arange(4.0)))


def test_a_prediction_that_is_nan_alone_is_a_leak(key):
    """An unbiased variance over the queries is finite for many and NaN for one."""
    learner = learners.nearest_mean(num_ways=3)
    scaled = learner._replace(predict=lambda m, a, x, k: learner.predict(m, a, x / x.std(0, ddof=1, keepdims=True), k))
    report = leaks(scaled, {}, SAMPLE(key), key)
    assert report.is_leaking
    assert report.change_when_dropped == np.inf


def test_only_scalars_of_aux_are_reported(key):
    def with_vector(outputs, batch):
        loss, aux = losses.cross_entropy(outputs, batch)
        return loss, {**aux, "each": outputs}

    result = jmeta.evaluate(learners.nearest_mean(num_ways=3), with_vector, {}, SAMPLE, key, **ARGUMENTS)
    assert set(result.inductive) == {"loss", "accuracy"}


def test_a_single_query_is_inductive(key):
    sample = tasks.sinusoid(num_shots=3, num_queries=1)
    learner = learners.maml(smooth_mlp(), losses.squared_error, optax.sgd(0.01), num_steps=1)
    meta_params = learner.init(key, sample(key))
    result = jmeta.evaluate(learner, losses.squared_error, meta_params, sample, key, **ARGUMENTS)
    assert result.transductive is None


def test_statistics_frozen_from_many_training_examples_make_a_model_inductive(key):
    """What running averages are for: the same weights with statistics of the call are transductive."""
    images = jax.random.uniform(key, (8, 6, 8, 8, 1))
    sample = tasks.few_shot(images[4:], num_ways=3, num_shots=2, num_queries=2)
    stored, of_call = (
        conv4(None, num_filters=4, norm=norm, pooling="strided", conv="xla") for norm in ("support", "batch")
    )
    many = images[:4].reshape(-1, 8, 8, 1)
    _, params = jax.jit(stored.calibrate)(stored.init(key, many), many, None)

    def evaluated(model, params):
        learner = learners.protonet(model, num_ways=3)
        return jmeta.evaluate(learner, losses.cross_entropy, {"params": params}, sample, key, **ARGUMENTS)

    assert evaluated(frozen(stored), params).transductive is None
    assert evaluated(of_call, {"params": params["params"]}).transductive is not None
    fixed, of_support = (learners.protonet(model, num_ways=3).adapt for model in (frozen(stored), stored))
    support = sample(key).support
    adapted, moved = (jax.jit(adapt)({"params": params}, support, key).params["stats"] for adapt in (fixed, of_support))
    jax.tree.map(np.testing.assert_array_equal, adapted, params["stats"])
    assert not np.allclose(moved["norm_0"]["mean"], params["stats"]["norm_0"]["mean"])


def test_padding_of_the_support_is_blank_beside_one_query(key):
    task = SAMPLE(key)
    support = task.support._replace(x=task.support.x.at[-1].set(jnp.nan), mask=jnp.arange(6) < 5)
    centred = Learner(lambda key, task: {}, lambda m, s, k: 0.0, lambda m, a, x, k: x - x.mean(0, keepdims=True))
    inductive = support_and_one_query(centred)
    outputs = inductive.predict({}, inductive.adapt({}, support, key), task.query.x, None)
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize("on", ["one device", "a mesh"])
def test_no_key_is_used_twice_by_an_evaluation(key, on):
    """And the caller's may be used again, for another learner on the same tasks."""
    chunk_map = evaluation.ONE_DEVICE if on == "one device" else Sharing(make_mesh({"tasks": 1}), 2).chunk_map
    with jax.debug_key_reuse(True):
        numbers = {**ARGUMENTS, "num_tasks": 20, "chunk_map": chunk_map}
        for learner in (learners.nearest_mean(num_ways=3), normalising_learner()):
            result = jmeta.evaluate(learner, losses.cross_entropy, {}, SAMPLE, key, **numbers)
            assert np.isfinite(result.inductive["loss"].mean)


@pytest.mark.parametrize("num_tasks", [20, 100])
def test_an_evaluation_compiles_four_programs_however_many_its_dispatches(key, num_tasks):
    """The keys, the drawing of tasks, the test for leaks, and the learner."""
    learner = learners.protonet(models.mlp([4]), num_ways=3)
    sample = tasks.gaussian_blobs(
        num_ways=3, num_shots=1, num_queries=2, num_features=num_tasks // 5
    )  # drawn nowhere else
    params = learner.init(key, sample(key))
    with compilations() as compiled:
        jmeta.evaluate(learner, losses.cross_entropy, params, sample, key, protocol="blobs", num_tasks=num_tasks)
    assert len(compiled) <= 4


FIVE_WAYS = tasks.gaussian_blobs(num_ways=5, num_shots=2, num_queries=2)


@pytest.mark.parametrize(
    ("relabel", "message"),
    [
        (lambda y: y + 1, "the support has labels 1, 2, 3, 4, 5, but the learner tells 5 classes apart"),
        (lambda y: y - 1, "the support has labels -1, 0, 1, 2, 3, but"),
        (lambda y: 2 * y, "pass labels in 0..4"),
    ],
)
def test_labels_that_no_output_is_for_are_refused_by_name(relabel, message, key):
    def sample(key):
        task = FIVE_WAYS(key)
        batches = (batch._replace(y=relabel(batch.y)) for batch in (task.support, task.query))
        return Task(*batches)

    learner = learners.nearest_mean(num_ways=5)
    with pytest.raises(ValueError, match=message):
        jmeta.evaluate(learner, losses.cross_entropy, {}, sample, key, protocol="", num_tasks=4, tasks_at_once=2)


def test_tasks_of_more_ways_than_the_learner_has_are_refused_and_padding_is_not_looked_at(key):
    learner = learners.nearest_mean(num_ways=4)
    arguments = (losses.cross_entropy, {})
    with pytest.raises(ValueError, match="labels 0, 1, 2, 3, 4, but the learner tells 4 classes apart"):
        jmeta.evaluate(learner, *arguments, FIVE_WAYS, key, protocol="", num_tasks=2)

    def sample(key):  # the fifth class is padding
        task = FIVE_WAYS(key)
        return Task(*(Batch(each.x, each.y, each.y < 4) for each in (task.support, task.query)))

    result = jmeta.evaluate(learner, *arguments, sample, key, protocol="", num_tasks=2)
    assert np.isfinite(result.inductive["loss"].mean)


def test_class_ids_are_no_predictions(key):
    nearest = learners.nearest_mean(num_ways=5)
    ids = nearest._replace(predict=lambda *arguments: nearest.predict(*arguments).argmax(-1))
    with pytest.raises(ValueError, match="`predict` must return floating-point numbers.* but it returns int32"):
        jmeta.evaluate(ids, losses.cross_entropy, {}, FIVE_WAYS, key, protocol="", num_tasks=2)


def test_what_padding_of_a_query_holds_changes_no_evaluation(key):
    """Even with statistics of the whole query, which count padding in as zeros."""

    def sample(filling):
        def padded(key):
            task = tasks.sinusoid(num_shots=5, num_queries=5)(key)
            mask = jnp.arange(5) < 3
            x, y = (jnp.where(mask[:, None], leaf, filling) for leaf in (task.query.x, task.query.y))
            return task._replace(query=Batch(x, y, mask))

        return padded

    learner = learners.maml(models.mlp([8, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
    centred = learner._replace(predict=lambda m, adapted, x, key: learner.predict(m, adapted, x - x.mean(), key))
    params = learner.init(key, sample(0.0)(key))
    with_zeros, with_nan = (
        jmeta.evaluate(centred, losses.squared_error, params, sample(each), key, protocol="", num_tasks=3)
        for each in (0.0, jnp.nan)
    )
    for one, other in ((with_zeros.inductive, with_nan.inductive), (with_zeros.transductive, with_nan.transductive)):
        np.testing.assert_array_equal(one["loss"].values, other["loss"].values)


def test_a_metric_that_is_undefined_in_a_task_is_estimated_over_the_others(key):
    """Like the area under a curve in a task of one class; a loss that is not a number is no matter of definition."""

    def loss_fn(outputs, batch):
        loss, aux = losses.cross_entropy(outputs, batch)
        return loss, aux | {"odd": jnp.where(batch.x[0, 0] > 0, aux["accuracy"], jnp.nan), "never": jnp.nan * loss}

    evaluate = lambda loss_fn: jmeta.evaluate(
        learners.nearest_mean(num_ways=5), loss_fn, {}, FIVE_WAYS, key, protocol="", num_tasks=8
    )
    result = evaluate(loss_fn).inductive
    defined = ~np.isnan(result["odd"].values)
    assert 2 <= defined.sum() < 8
    expected = evaluation.estimate(result["accuracy"].values[defined])
    assert (result["odd"].mean, result["odd"].half_width) == (expected.mean, expected.half_width)
    assert result["odd"].num_undefined == 8 - defined.sum()
    assert str(result["odd"]).endswith(f"(undefined in {8 - defined.sum()} of 8)")
    assert (result["accuracy"].num_undefined, result["never"].num_undefined) == (0, 8)
    assert np.isnan(result["never"].mean)
    assert np.isnan(evaluate(lambda *arguments: (jnp.nan * loss_fn(*arguments)[0], {})).inductive["loss"].mean)
    difference = evaluation.paired_difference(result["odd"], result["accuracy"])
    assert (difference.mean, difference.num_undefined) == (0.0, result["odd"].num_undefined)
