"""The accuracy of an adapted task is estimated from its support: better than by cross-validation, with an interval."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta import Batch, deciding, learners, losses, models, tasks
from jmeta.evaluation.per_task import ONE_DEVICE, per_task

nearest = learners.nearest_mean(num_ways=3)
signs = jax.jit(deciding.signs, static_argnames=("learner", "num_folds"))


def blobs(num_shots, num_queries=200):
    return tasks.gaussian_blobs(num_ways=3, num_shots=num_shots, num_queries=num_queries, num_features=2, spread=1.0)


def test_signs_are_those_of_supports_without_each_fold(key):
    support = blobs(4)(key).support
    found = signs(nearest, {}, support, key, num_folds=2)
    rank = np.array([np.sum(np.asarray(support.y[:i]) == support.y[i]) for i in range(12)])

    def probabilities(kept, asked):
        adapted = nearest.adapt({}, Batch(support.x[kept], support.y[kept]), key)
        return jax.nn.softmax(nearest.predict({}, adapted, support.x[asked], None))

    everything = np.arange(12)
    halves = [np.flatnonzero(rank % 2 == fold) for fold in (0, 1)]
    own = probabilities(everything, everything)[everything, support.y]
    left_out = [probabilities(halves[1 - fold], halves[fold]) for fold in (0, 1)]
    labels = np.asarray(support.y)[np.concatenate(halves)]
    np.testing.assert_allclose(found.own_probability, own.mean(), rtol=1e-5)
    chosen = np.concatenate(left_out)[np.arange(12), labels]
    np.testing.assert_allclose(found.left_out_probability, chosen.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        found.cross_validation, (np.concatenate(left_out).argmax(-1) == labels).mean(), rtol=1e-6
    )


def test_padding_of_the_support_changes_nothing(key):
    support = blobs(2)(key).support
    padded = Batch(np.insert(support.x, 2, 9.0, axis=0), np.insert(support.y, 2, 1), np.arange(7) != 2)
    padded = jax.tree.map(jnp.asarray, padded)
    both = [signs(nearest, {}, each, key, num_folds=2) for each in (support, padded)]
    jax.tree.map(lambda *leaves: np.testing.assert_allclose(*leaves, rtol=1e-5), *both)


@pytest.mark.parametrize("num_shots", [1, 4])
def test_the_estimate_beats_cross_validation_and_its_interval_covers(num_shots):
    sample, num_tasks = blobs(num_shots), 600
    fitted = deciding.fit_expected_accuracy(
        nearest, {}, sample, jax.random.key(0), num_tasks=num_tasks, num_folds=4, tasks_at_once=100
    )

    def one_task(meta_params, task, key):
        found = deciding.expected_accuracy(nearest, fitted, meta_params, task.support, key)
        outputs = nearest.predict({}, nearest.adapt({}, task.support, key), task.query.x, None)
        validation = deciding.signs(nearest, meta_params, task.support, key, num_folds=4).cross_validation
        return found, losses.cross_entropy(outputs, task.query)[1]["accuracy"], validation

    found, accuracy, validation = per_task(one_task, ONE_DEVICE)(
        {}, sample, jax.random.key(1), num_tasks=num_tasks, tasks_at_once=100
    )
    error = np.abs(found.estimate - accuracy)
    assert error.mean() < 0.8 * np.abs(validation - accuracy).mean()
    assert error.mean() < 0.95 * np.abs(accuracy.mean() - accuracy).mean()  # and than the mean of all tasks
    is_covered = (found.low <= accuracy) & (accuracy <= found.high)
    assert abs(is_covered.mean() - 0.9) < 3 * np.sqrt(0.09 * (1 / num_tasks + 2 / num_tasks))


def test_dropout_and_adaptation_get_keys_of_their_own(key):
    """A learner that draws is asked under as many keys as there are models; nothing is reused."""
    model = models.mlp([8, 3], dropout_rate=0.5)
    learner = learners.from_scratch(model, losses.cross_entropy, optax.sgd(0.1), num_steps=2)
    support = blobs(2)(key).support
    first, again, other = (signs(learner, {}, support, each, num_folds=2) for each in (key, key, jax.random.key(5)))
    assert first == again
    assert first.own_probability != other.own_probability


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_folds": 1}, "num_folds=1; expected at least 2"),
        ({"level": 0.0}, "level=0.0; expected a number between 0 and 1"),
        ({"num_tasks": 17}, "num_tasks=17 is too few for an interval of level 0.9; take at least 18"),
        ({"learner": nearest._replace(predict=lambda m, a, x, k: jnp.full((x.shape[0], 3), jnp.nan))}, "are NaN"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes, message):
    arguments = {"learner": nearest, "num_tasks": 20, **changes}
    with pytest.raises(ValueError, match=message):
        deciding.fit_expected_accuracy(arguments.pop("learner"), {}, blobs(2, 5), jax.random.key(0), **arguments)
