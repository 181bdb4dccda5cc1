"""The nearest pixels, by hand and in the limits that the formula has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import Batch, Task, learners, losses, tasks

from .short_training import query_losses

HEIGHT, WIDTH = 4, 6


@pytest.fixture
def task(float64):
    images = np.random.default_rng(0).random((5, HEIGHT, WIDTH, 2))
    task = tasks.completion(images, num_shots=8, threshold=0.5)(jax.random.key(1))
    return task._replace(support=task.support._replace(mask=jnp.arange(8) != 2))


def meta_params_of(length_scale, smoothing):
    mean_image = jax.random.normal(jax.random.key(2), (HEIGHT, WIDTH, 2))
    return {
        "log_length_scale": jnp.log(jnp.asarray(length_scale)),
        "log_smoothing": jnp.log(jnp.asarray(smoothing)),
        "mean_image": mean_image,
    }


def probabilities(meta_params, task):
    learner = learners.nearest_pixels(height=HEIGHT, width=WIDTH)
    adapted = learner.adapt(meta_params, task.support, jax.random.key(0))
    return learner.predict(meta_params, adapted, task.query.x, None).mean()


def in_pixels(x):
    return (np.asarray(x) + 1) / 2 * [HEIGHT - 1, WIDTH - 1]


def test_it_is_its_formula(task):
    meta_params = meta_params_of(0.7, 0.3)
    seen, y = in_pixels(task.support.x)[np.arange(8) != 2], np.asarray(task.support.y)[np.arange(8) != 2]
    found = probabilities(meta_params, task)
    for row, pixel in zip(found, in_pixels(task.query.x), strict=True):
        weights = np.exp(-np.linalg.norm(pixel - seen, axis=1) / 0.7)
        i, j = np.round(pixel).astype(int)
        mean = 1 / (1 + np.exp(-np.asarray(meta_params["mean_image"])[i, j]))
        np.testing.assert_allclose(row, (0.3 * mean + weights @ y) / (0.3 + weights.sum()), atol=2e-6)


def test_a_small_length_scale_makes_it_the_nearest_neighbour_and_a_large_smoothing_the_mean_image(task):
    distances = np.linalg.norm(in_pixels(task.query.x)[:, None] - in_pixels(task.support.x)[None], axis=-1)
    distances = distances[:, np.arange(8) != 2].round(9)
    is_nearest = distances == distances.min(1, keepdims=True)
    expected = is_nearest @ np.asarray(task.support.y)[np.arange(8) != 2] / is_nearest.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities(meta_params_of(0.01, 1e-300), task), expected, atol=1e-5)
    meta_params = meta_params_of(1.0, 1e9)
    at_query = meta_params["mean_image"].reshape(-1, 2)[tasks.pixel_at(task.query.x, HEIGHT, WIDTH)]
    np.testing.assert_allclose(probabilities(meta_params, task), jax.nn.sigmoid(at_query), atol=1e-5)
    nothing = task._replace(support=task.support._replace(mask=jnp.zeros(8, bool)))
    np.testing.assert_allclose(probabilities(meta_params_of(0.7, 0.3), nothing), jax.nn.sigmoid(at_query), atol=1e-5)


def test_training_finds_the_mean_image():
    """All images are the same: their pixels are known without a context."""
    image = np.random.default_rng(0).random((1, HEIGHT, WIDTH, 1)).astype(np.float32)
    sample = tasks.completion(image, num_shots=(0, 3), threshold=0.5)
    learner = learners.nearest_pixels(height=HEIGHT, width=WIDTH)
    before, after, _ = query_losses(learner, losses.negative_log_likelihood, sample, num_steps=60, lr=0.3)
    assert (before > 0.5).all()
    assert (after < 0.05).all()


def test_mistakes():
    with pytest.raises(ValueError, match="width=0"):
        learners.nearest_pixels(height=3, width=0)
    line = Batch(jnp.zeros((3, 1)), jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match="these inputs have 1 features"):
        learners.nearest_pixels(height=3, width=3).init(jax.random.key(0), Task(line, line))
