"""Examples of no class of the support are told from the others, at the promised rate of false alarms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, deciding, learners, losses, models, tasks

six = tasks.gaussian_blobs(num_ways=6, num_shots=5, num_queries=5, num_features=3, spread=2.0)
sample = deciding.with_unknown_classes(six, num_unknown=2, num_ways=4)
nearest = learners.nearest_mean(num_ways=4)


def test_the_last_classes_are_unknown(key):
    task, whole = sample(key), six(key)
    np.testing.assert_array_equal(task.support.mask, whole.support.y < 4)
    np.testing.assert_array_equal(task.query.y, np.where(whole.query.y < 4, whole.query.y, deciding.UNKNOWN))
    np.testing.assert_array_equal(task.query.x, whole.query.x)


@pytest.mark.parametrize(
    ("score", "detected"),
    [(deciding.energy, 0.3), (deciding.smallest_distance, 0.3), (deciding.least_confidence, 0.0)],
)
def test_false_alarms_are_as_rare_as_promised_and_the_unknown_are_found(score, detected):
    """Far from all classes a softmax is sure, so confidence finds no unknown classes here; distances do."""
    threshold = deciding.fit_novelty(
        nearest, {}, sample, jax.random.key(0), num_tasks=1000, score=score, false_alarms=0.1, tasks_at_once=250
    )
    result = jmeta.evaluate(
        deciding.rejecting(nearest, threshold, score=score),
        deciding.novelty_scores(score),
        {},
        sample,
        jax.random.key(1),
        protocol="blobs",
        num_tasks=1000,
        tasks_at_once=250,
    ).inductive
    alarms = result["false_alarms"]
    assert abs(alarms.mean - 0.1) < 3 * np.sqrt(2) * alarms.half_width / 1.96
    assert result["detected"].mean > detected
    assert result["auroc"].mean > (0.75 if detected else 0.4)


def test_auroc_counts_pairs(key):
    scores = jnp.round(jax.random.normal(key, (30,)), 1)  # with ties
    is_positive, mask = jnp.arange(30) % 3 == 0, jnp.arange(30) < 25
    pairs = [
        0.5 if a == b else float(a > b)
        for a in np.asarray(scores[is_positive & mask])
        for b in np.asarray(scores[~is_positive & mask])
    ]
    np.testing.assert_allclose(deciding.auroc(scores, is_positive, mask), np.mean(pairs), rtol=1e-6)
    assert np.isnan(deciding.auroc(scores, jnp.zeros(30, bool)))


def test_a_task_without_unknown_queries_has_no_auroc_and_is_counted():
    batch = Batch(jnp.zeros((2, 1)), jnp.array([0, 1]), jnp.array([True, False]))
    outputs = deciding.Rejections(jnp.array([[1.0, 0.0], [jnp.nan, 0.0]]), jnp.array([True, True]))
    _, aux = deciding.novelty_scores()(outputs, batch)
    assert np.isnan(aux["auroc"])
    assert np.isnan(aux["detected"])
    assert (float(aux["false_alarms"]), float(aux["known_accuracy"])) == (1.0, 1.0)


def test_it_is_trained_as_the_learner_is(key):
    reptile = learners.reptile(models.mlp([6]), losses.cross_entropy, optax.sgd(0.1), num_steps=2)
    params = reptile.init(key, six(key))
    gradients = [
        jax.grad(jmeta.episode(each, losses.cross_entropy), has_aux=True)(params, six(key), key)[0]
        for each in (reptile, deciding.rejecting(reptile, 0.0))
    ]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


@pytest.mark.parametrize("numbers", [{"num_unknown": 0, "num_ways": 5}, {"num_unknown": 1, "num_ways": 0}])
def test_numbers_of_classes_are_positive(numbers):
    with pytest.raises(ValueError, match="expected positive numbers of classes"):
        deciding.with_unknown_classes(six, **numbers)


def test_too_few_tasks_are_refused():
    with pytest.raises(ValueError, match="take at least 19 tasks"):
        deciding.fit_novelty(nearest, {}, sample, jax.random.key(0), num_tasks=10)
