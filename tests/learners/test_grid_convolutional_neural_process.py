"""Convolutions of images against sums over the context, and predictions that move with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import Batch, Model, Task, learners, losses, models, tasks

from ..networks import identity, in_default_precision
from .short_training import query_losses

HEIGHT, WIDTH = 11, 9


def context(key, num_points=7):
    """Points on different pixels in the middle of the image, the second of which is padding, with two numbers each."""
    key_cells, key_y = jax.random.split(key)
    cells = jax.random.permutation(key_cells, 9)[:num_points]
    rows, columns = 4 + cells // 3, 3 + cells % 3
    y = jax.random.normal(key_y, (num_points, 2))
    return rows, columns, y, jnp.arange(num_points) != 1


def batch_at(rows, columns, y, mask=None):
    positions = tasks.pixel_positions(HEIGHT, WIDTH)
    return Batch(positions[rows * WIDTH + columns], y, mask)


def on_grid(network, decoder, kernel_size=3):
    return learners.grid_convolutional_neural_process(
        network, decoder, height=HEIGHT, width=WIDTH, kernel_size=kernel_size
    )


def test_the_context_is_smoothed_by_sums_over_its_points(float64, key):
    """h₀ and h₁ of the docstring, with a network that does nothing; two points are on one pixel."""
    rows, columns, y, mask = context(key)
    rows, columns = rows.at[0].set(rows[3]), columns.at[0].set(columns[3])
    decoder = Model(lambda key, x: {}, lambda params, x, key: x)
    learner, support = on_grid(identity(), decoder, kernel_size=5), batch_at(rows, columns, y, mask)
    meta_params = learner.init(key, Task(support, support))
    away = np.arange(-2, 3)
    start = -(away[:, None] ** 2 + away[None] ** 2) / 2
    np.testing.assert_allclose(meta_params["log_kernel"], start, rtol=1e-6)
    kernel = jax.random.normal(key, (5, 5))
    adapted = learner.adapt(meta_params | {"log_kernel": kernel}, support, key)
    expected = np.zeros((HEIGHT, WIDTH, 3))
    for i in range(HEIGHT):
        for j in range(WIDTH):
            down, across = np.asarray(rows) - i + 2, np.asarray(columns) - j + 2
            is_near = np.asarray(mask) & (down >= 0) & (down < 5) & (across >= 0) & (across < 5)
            weights = np.exp(np.asarray(kernel)[down[is_near], across[is_near]])
            expected[i, j, 0] = weights.sum()
            expected[i, j, 1:] = weights @ np.asarray(y)[is_near] / (weights.sum() + 1e-8)
    np.testing.assert_allclose(adapted, expected, rtol=1e-9, atol=1e-15)
    assert (expected[:, :, 0] == 0).any()
    found = learner.predict(meta_params, adapted, support.x, None)
    np.testing.assert_array_equal(found, adapted[rows, columns])
    backwards = jax.tree.map(lambda leaf: leaf[::-1], support)
    np.testing.assert_allclose(learner.adapt(meta_params | {"log_kernel": kernel}, backwards, key), adapted, rtol=1e-12)


def test_predictions_move_with_the_context_away_from_the_edges(float64, key):
    """Three layers that see a pixel to each side, so predictions four pixels from all edges know of none."""
    network = in_default_precision(models.conv2d([4, 3], kernel_size=3, activation=jnp.tanh))
    learner = on_grid(network, models.normal_outputs(in_default_precision(models.mlp([6, 4]))))
    rows, columns, y, mask = context(key)
    task = Task(batch_at(rows, columns, y, mask), batch_at(rows, columns, y))
    meta_params = jax.tree.map(lambda leaf: leaf.astype("float64") + 0.1, learner.init(key, task))

    @jax.jit
    def predict(down, across):
        support, query = (batch_at(rows + down, columns + across, y, each) for each in (mask, None))
        return learner.predict(meta_params, learner.adapt(meta_params, support, key), query.x, None)

    still = predict(0, 0)
    for down, across in ((1, 0), (-1, 1), (1, -1)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), predict(down, across), still)
    assert not np.allclose(predict(4, 0).loc, still.loc, rtol=1e-6)  # at the edge, it shows
    assert np.ptp(still.loc) > 0.01


def test_it_learns_to_complete_images():
    """Blocks of ones: neighbours are alike."""
    draw = np.random.default_rng(0)
    images = np.repeat(np.repeat(draw.random((20, 3, 3, 1)) < 0.5, 3, 1), 3, 2).astype(np.float32)
    sample = tasks.completion(images, num_shots=(10, 40), num_queries=20)
    learner = learners.grid_convolutional_neural_process(
        models.conv2d([8, 8], kernel_size=3), models.bernoulli_outputs(models.mlp([1])), height=9, width=9
    )
    before, after, _ = query_losses(learner, losses.negative_log_likelihood, sample, num_steps=40, lr=2e-2)
    assert (before > 0.6).all()
    assert (after < 0.55).all()


def test_mistakes(key):
    network, decoder = models.conv2d([3]), models.mlp([2])
    with pytest.raises(ValueError, match="kernel_size=4; expected an odd number"):
        on_grid(network, decoder, kernel_size=4)
    with pytest.raises(ValueError, match="height=0"):
        learners.grid_convolutional_neural_process(network, decoder, height=0, width=3)
    support = batch_at(*context(key))
    flat = Model(lambda key, x: {}, lambda params, x, key: x[:, 0, 0])
    with pytest.raises(ValueError, match=r"maps \[1, 11, 9, 3\] to \[1, 3\]"):
        on_grid(flat, decoder).init(key, Task(support, support))
    line = support._replace(x=support.x[:, :1])
    with pytest.raises(ValueError, match="these inputs have 1 features"):
        on_grid(network, decoder).init(key, Task(line, line))
