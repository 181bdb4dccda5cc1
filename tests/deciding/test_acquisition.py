"""Acquisitions ask about what helps, never look at a label that was not asked for, and never ask twice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta import Batch, Task, deciding, evaluation, learners, losses, models, tasks

nearest = learners.nearest_mean(num_ways=3)
pools = tasks.gaussian_blobs(num_ways=3, num_shots=6, num_queries=20, num_features=2, spread=3.0)
drawing = learners.from_scratch(models.mlp([8, 3], dropout_rate=0.5), losses.cross_entropy, optax.sgd(0.3), num_steps=3)
ACQUISITIONS = {
    "randomly": (nearest, deciding.randomly),
    "entropy": (nearest, deciding.uncertainty()),
    "margin": (nearest, deciding.uncertainty(deciding.margin)),
    "disagreement": (drawing, deciding.disagreement(3)),
    "expected_entropy": (nearest, deciding.expected_entropy()),
}


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_labels_that_were_not_asked_for_are_not_looked_at(name, key):
    learner, acquisition = ACQUISITIONS[name]
    pool, is_labelled = pools(key).support, jnp.arange(18) % 5 == 0
    score = jax.jit(lambda y: acquisition(learner, {}, pool._replace(y=y), is_labelled, key))
    other = jnp.where(is_labelled, pool.y, (pool.y + 1) % 3)
    np.testing.assert_array_equal(score(pool.y), score(other))
    assert np.isfinite(score(pool.y)).all()


def test_every_example_is_asked_for_once_and_all_labels_give_the_full_accuracy(key):
    task = pools(key)
    curve = jax.jit(deciding.label_curve(nearest, deciding.uncertainty(), num_labels=18))
    _, aux = curve({}, task, key)
    outputs = nearest.predict({}, nearest.adapt({}, task.support, key), task.query.x, None)
    np.testing.assert_allclose(aux["accuracy_18"], losses.cross_entropy(outputs, task.query)[1]["accuracy"])
    np.testing.assert_allclose(aux["accuracy"], np.mean([aux[f"accuracy_{i + 1}"] for i in range(18)]), rtol=1e-6)


def test_the_curve_is_that_of_asking_step_by_step(key):
    task, asked = pools(key), []

    def acquisition(learner, meta_params, pool, is_labelled, key):
        return -jnp.arange(18.0)  # in order, after the random first

    for i in range(1, 4):
        mask = np.zeros(18, bool)
        first = int(jnp.argmax(jax.random.uniform(jax.random.split(key)[0], (18,))))
        mask[[first, *[j for j in range(18) if j != first][: i - 1]]] = True
        outputs = nearest.predict(
            {}, nearest.adapt({}, task.support._replace(mask=jnp.asarray(mask)), key), task.query.x, None
        )
        asked.append(float(losses.cross_entropy(outputs, task.query)[1]["accuracy"]))
    _, aux = deciding.label_curve(nearest, acquisition, num_labels=3)({}, task, key)
    np.testing.assert_allclose([aux[f"accuracy_{i}"] for i in (1, 2, 3)], asked, rtol=1e-6)


def test_asking_about_what_is_new_halves_the_labels_and_uncertainty_among_known_classes_does_not_help():
    random, novel, uncertain = (
        evaluation.per_task_values(deciding.label_curve(nearest, acquisition, num_labels=6))(
            {}, pools, jax.random.key(0), num_tasks=400, tasks_at_once=200
        )
        for acquisition in (deciding.randomly, deciding.uncertainty(deciding.energy), deciding.uncertainty())
    )
    gain = evaluation.estimate(novel["accuracy_3"] - random["accuracy_5"])
    assert gain.mean > -gain.half_width
    gain = evaluation.estimate(uncertain["accuracy"] - random["accuracy"])
    assert gain.mean < gain.half_width


def test_disagreement_is_the_information_of_the_label_about_the_model(key):
    """H(y) - H(y | model) = sum over models and labels of p(model, y) log p(model, y) / (p(model) p(y))."""
    pool, is_labelled = pools(key).support, jnp.arange(18) < 3
    found = deciding.disagreement(4)(drawing, {}, pool, is_labelled, key)
    probs = np.stack(
        [
            jax.nn.softmax(drawing.predict({}, drawing.adapt({}, pool._replace(mask=is_labelled), each), pool.x, None))
            for each in jax.random.split(key, 4)
        ]
    )
    information = (probs / 4 * np.log(probs / probs.mean(0))).sum((0, 2))
    np.testing.assert_allclose(found, information, atol=1e-5)


def test_padding_is_never_asked_about(key):
    task = pools(key)
    mask = jnp.arange(18) % 2 == 0
    seen = []

    def acquisition(learner, meta_params, pool, is_labelled, key):
        seen.append(is_labelled)
        return jnp.arange(18.0)

    padded = Task(Batch(task.support.x, task.support.y, mask), task.query)
    with jax.disable_jit():
        deciding.label_curve(nearest, acquisition, num_labels=9)({}, padded, key)
    assert not (np.asarray(seen) & ~np.asarray(mask)).any()
    assert np.asarray(seen).sum(1).tolist() == list(range(9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: deciding.disagreement(1), "num_samples=1; expected at least 2"),
        (lambda: deciding.label_curve(nearest, deciding.randomly, num_labels=0), "num_labels=0; expected at least one"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_more_labels_than_examples_are_refused(key):
    with pytest.raises(ValueError, match="num_labels=19, but the support has 18 examples"):
        deciding.label_curve(nearest, deciding.randomly, num_labels=19)({}, pools(key), key)
