"""Prediction sets contain the answer as often as they promise, on new tasks, whatever the learner is like."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Learner, Task, deciding, distributions, learners, losses, models, tasks

LEVELS = (0.8, 0.95)
blobs = tasks.gaussian_blobs(num_ways=5, num_shots=2, num_queries=4, num_features=3, spread=1.0)
nearest = learners.nearest_mean(num_ways=5)
network = models.normal_outputs(models.mlp([8, 2], activation=jnp.tanh))
sinusoid = tasks.sinusoid(num_shots=5, num_queries=8)
sine_learner = learners.maml(network, losses.negative_log_likelihood, optax.sgd(0.01), num_steps=1)


def measured(learner, meta_params, sample, num_tasks=1500):
    judge = deciding.set_scores(LEVELS)
    return jmeta.evaluate(
        learner,
        judge,
        meta_params,
        sample,
        jax.random.key(1),
        protocol="new tasks",
        num_tasks=num_tasks,
        tasks_at_once=250,
    ).inductive


def assert_covered(result):
    """Within three standard errors of the new tasks' mean, and of that of the tasks that it was fitted on."""
    for level in LEVELS:
        found = result[f"coverage_{100 * level:g}"]
        assert abs(found.mean - level) < 3 * np.sqrt(2) * found.half_width / 1.96


def test_sets_of_classes_cover_and_are_those_of_a_probability():
    fitted = deciding.fit_conformal(
        nearest, {}, blobs, jax.random.key(0), num_tasks=1500, levels=LEVELS, tasks_at_once=250
    )
    result = measured(deciding.conformal(nearest, fitted), {}, blobs)
    assert_covered(result)
    assert 1 < result["set_size_80"].mean < result["set_size_95"].mean < 5
    task = blobs(jax.random.key(2))
    sets = deciding.conformal(nearest, fitted).predict(
        {}, nearest.adapt({}, task.support, jax.random.key(3)), task.query.x, None
    )
    wanted = jax.nn.softmax(sets.outputs)[:, None] >= np.exp(-fitted.thresholds)[None, :, None]
    np.testing.assert_array_equal(sets.included, wanted)


@pytest.mark.parametrize("predicts", ["a distribution", "numbers"])
def test_intervals_of_numbers_cover_though_the_learner_is_untrained(predicts):
    learner = sine_learner
    if predicts == "numbers":
        learner = learner._replace(predict=lambda *arguments: sine_learner.predict(*arguments).mean())
    meta_params = learner.init(jax.random.key(0), sinusoid(jax.random.key(1)))
    fitted = deciding.fit_conformal(
        learner,
        meta_params,
        sinusoid,
        jax.random.key(0),
        num_tasks=1500,
        levels=LEVELS,
        score=deciding.NUMBERS,
        tasks_at_once=250,
    )
    result = measured(deciding.conformal(learner, fitted, score=deciding.NUMBERS), meta_params, sinusoid)
    assert_covered(result)
    assert result["width_80"].mean < result["width_95"].mean


def test_the_threshold_is_the_quantile_of_the_scores_with_one_more_task_at_infinity():
    """One query a task: the k-th smallest of n scores, k = ceil(level (n + 1)), as in every textbook."""
    learner = Learner(lambda key, task: {}, lambda *_: (), lambda meta_params, adapted, x, key: x)
    sample = lambda key: Task(*[Batch(jnp.zeros((1, 1)), jax.random.normal(key, (1, 1)))] * 2)
    fitted = deciding.fit_conformal(
        learner, {}, sample, jax.random.key(0), num_tasks=19, levels=[0.5, 0.9, 0.95], score=deciding.NUMBERS
    )
    drawn = jax.vmap(sample)(jax.vmap(lambda key: jax.random.split(key)[0])(jax.random.split(jax.random.key(0), 19)))
    scores = np.sort(np.abs(np.asarray(drawn.query.y)).reshape(-1))
    np.testing.assert_allclose(fitted.thresholds, scores[[9, 17, 18]], rtol=1e-6)


def test_padding_of_queries_has_no_weight():
    learner = Learner(lambda key, task: {}, lambda *_: (), lambda meta_params, adapted, x, key: x)

    def sample(key):
        y = jax.random.normal(key, (3, 1))
        batch = Batch(jnp.zeros((3, 1)), y.at[1].set(jnp.nan), jnp.array([True, False, True]))
        return Task(batch, batch)

    def without(key):
        return jax.tree.map(lambda leaf: leaf[jnp.array([0, 2])], sample(key))

    both = [
        deciding.fit_conformal(learner, {}, each, jax.random.key(0), num_tasks=30, score=deciding.NUMBERS).thresholds
        for each in (sample, without)
    ]
    np.testing.assert_array_equal(*both)


def test_split_conformal_needs_examples_and_covers_with_enough():
    with pytest.raises(AssertionError):  # with one example a class, sets are everything: they cover too often
        assert_covered(
            measured(
                deciding.split_conformal(nearest, levels=LEVELS),
                {},
                tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=4),
                250,
            )
        )
    many = tasks.gaussian_blobs(num_ways=5, num_shots=40, num_queries=4, num_features=3, spread=1.0)
    result = measured(deciding.split_conformal(nearest, levels=LEVELS), {}, many)
    for level in LEVELS:
        assert level - 0.01 < result[f"coverage_{100 * level:g}"].mean < level + 0.02


def test_split_conformal_adapts_to_the_first_of_each_pair_and_scores_the_second(key):
    support = Batch(
        jnp.arange(6.0)[:, None], jnp.array([0, 1, 0, 0, 1, 1]), jnp.array([True, True, False, True, True, True])
    )
    seen = []
    spy = nearest._replace(
        adapt=lambda params, support, key: seen.append(support.mask) or nearest.adapt(params, support, key)
    )
    spied = deciding.split_conformal(spy, levels=[0.5])
    _, thresholds = spied.adapt({}, support, key)
    assert seen[0].tolist() == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]  # 3 is the second real one of class 0, 4 of class 1
    assert np.isfinite(thresholds).all()  # two scores can promise a half


def test_intervals_are_in_standard_deviations_and_may_be_endless():
    outputs = distributions.Normal(jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [0.0]]))
    found = deciding.NUMBERS.answers_within(outputs, jnp.array([1.5, jnp.inf]))
    assert (found.low[:, 0].tolist(), found.high[:, 0].tolist()) == ([[-0.5], [2.0]], [[2.5], [2.0]])
    assert (found.low[0, 1].tolist(), found.high[0, 1].tolist()) == ([-jnp.inf], [jnp.inf])
    scores = deciding.NUMBERS.of_answers(outputs, Batch(jnp.zeros((2, 1)), jnp.array([[-1.0], [2.0]])))
    assert scores.tolist() == [2.0, 0.0]


def test_a_class_that_a_task_does_not_have_is_in_no_set():
    sets = deciding.CLASSES.answers_within(jnp.array([[0.0, -jnp.inf]]), jnp.array([jnp.inf]))
    assert sets.included.tolist() == [[[True, False]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [1.0]}, r"levels=\[1.0\]; expected numbers between 0 and 1"),
        ({"levels": []}, "expected numbers between 0 and 1"),
        ({"num_tasks": 5}, r"5 tasks can promise 0.833 at most.*take at least 19 tasks"),
        ({"learner": nearest._replace(predict=lambda *_: jnp.full((20, 5), jnp.nan))}, "some predictions are NaN"),
    ],
)
def test_what_cannot_be_promised_is_refused(changes, message):
    arguments = {"learner": nearest, "num_tasks": 30, **changes}
    with pytest.raises(ValueError, match=message):
        deciding.fit_conformal(arguments.pop("learner"), {}, blobs, jax.random.key(0), **arguments)


def test_it_is_trained_as_the_learner_is(key):
    fitted = deciding.Conformal(np.array([0.9]), np.array([1.0]))
    reptile = learners.reptile(models.mlp([5]), losses.cross_entropy, optax.sgd(0.1), num_steps=2)
    params = reptile.init(key, blobs(key))
    gradients = [
        jax.grad(jmeta.episode(each, losses.cross_entropy), has_aux=True)(params, blobs(key), key)[0]
        for each in (reptile, deciding.conformal(reptile, fitted))
    ]
    jax.tree.map(np.testing.assert_array_equal, *gradients)
