"""Set convolutions written out in NumPy, and predictions that move with the context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import Batch, Model, Task, learners, models
from jmeta.distributions import Normal

from ..networks import identity, in_default_precision

ENDS, NUM_GRID = (-10.0, 10.0), 201
CELL = 0.1


def task_of(key, num_features=1):
    key_x, key_y, key_query = jax.random.split(key, 3)
    x, queries = (jax.random.uniform(key, (6, num_features), minval=-1, maxval=1) for key in (key_x, key_query))
    support = Batch(x, jax.random.normal(key_y, (6, 2)), jnp.arange(6) != 1)
    return Task(support, Batch(queries, jnp.zeros((6, 2))))


def convolutional(network, decoder):
    return learners.convolutional_neural_process(network, decoder, inputs=ENDS, num_grid=NUM_GRID)


def test_predictions_move_with_the_context_by_whole_cells(float64, key):
    network = in_default_precision(models.conv1d([8, 8, 4], activation=jnp.tanh))
    learner = convolutional(network, models.normal_outputs(in_default_precision(models.mlp([6, 4]))))
    task = task_of(key)
    meta_params = jax.tree.map(lambda leaf: leaf.astype("float64") + 0.1, learner.init(key, task))

    @jax.jit
    def predict(shift):
        support = task.support._replace(x=task.support.x + shift)
        return learner.predict(meta_params, learner.adapt(meta_params, support, key), task.query.x + shift, None)

    still, half = predict(0.0), predict(CELL / 2)
    for cells in (1, 17, -23):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), predict(cells * CELL), still)
    assert not np.allclose(still.loc, half.loc, rtol=1e-9)
    assert np.ptp(still.loc) > 0.01


def test_set_convolutions_are_their_formulas(float64, key):
    """With a network that does nothing: h₀(t) and h₁(t) on the grid, and their average around each query."""
    task = task_of(key)
    decoder = Model(lambda key, x: {}, lambda params, x, key: Normal(x, jnp.ones_like(x)))
    learner = convolutional(identity(), decoder)
    meta_params = learner.init(key, task)
    start = meta_params["log_length_scales"]
    np.testing.assert_allclose(jax.tree.leaves(start), np.log(2 * CELL), rtol=1e-6)
    to_grid, from_grid = 0.5, 0.15
    scales = {"to_grid": jnp.log(jnp.float64(to_grid)), "from_grid": jnp.log(jnp.float64(from_grid))}
    meta_params = meta_params | {"log_length_scales": scales}
    adapted = learner.adapt(meta_params, task.support, key)
    x, y = (np.delete(np.asarray(leaf), 1, 0) for leaf in task.support[:2])
    expected = np.zeros((NUM_GRID, 3))
    for j, t in enumerate(np.linspace(*ENDS, NUM_GRID)):
        near = np.exp(-((t - x[:, 0]) ** 2) / 2 / to_grid**2)
        expected[j] = [near.sum(), *(near @ y / (near.sum() + 1e-8))]
    np.testing.assert_allclose(adapted, expected, rtol=1e-9, atol=1e-15)
    found = learner.predict(meta_params, adapted, task.query.x, None).loc
    for row, query in zip(found, np.asarray(task.query.x)[:, 0], strict=True):
        weights = np.exp(-((query - np.linspace(*ENDS, NUM_GRID)) ** 2) / 2 / from_grid**2)
        np.testing.assert_allclose(row, weights @ expected * CELL / from_grid / np.sqrt(2 * np.pi), rtol=1e-9)
        np.testing.assert_allclose(weights.sum() * CELL / from_grid / np.sqrt(2 * np.pi), 1.0, rtol=1e-6)


def test_points_far_beyond_the_grid_have_no_effect(float64, key):
    task = task_of(key)
    network = in_default_precision(models.conv1d([3]))
    learner = convolutional(network, models.mlp([2]))
    meta_params = learner.init(key, task)
    beyond = task.support._replace(x=task.support.x + 1000.0)
    nothing = task.support._replace(mask=jnp.zeros(6, bool))
    adapted = [learner.adapt(meta_params, support, key) for support in (beyond, nothing)]
    np.testing.assert_array_equal(*adapted)


def test_mistakes(key):
    network, decoder = models.conv1d([3]), models.mlp([2])
    with pytest.raises(ValueError, match=r"inputs=\(1.0, 1.0\)"):
        learners.convolutional_neural_process(network, decoder, inputs=(1.0, 1.0), num_grid=5)
    with pytest.raises(ValueError, match="num_grid=1; expected"):
        learners.convolutional_neural_process(network, decoder, inputs=(0.0, 1.0), num_grid=1)
    flat = Model(lambda key, x: {}, lambda params, x, key: x[:, 0])
    with pytest.raises(ValueError, match=r"maps \[1, 201, 3\] to \[1, 3\]"):
        convolutional(flat, decoder).init(key, task_of(key))
    learner, plane = convolutional(network, decoder), task_of(key, num_features=2)
    meta_params = learner.init(key, task_of(key))
    with pytest.raises(ValueError, match="expects inputs .points, 1., but they have 2 features"):
        learner.adapt(meta_params, plane.support, key)
    with pytest.raises(ValueError, match="but they have 2 features"):
        learner.predict(meta_params, jnp.zeros((NUM_GRID, 3)), plane.query.x, None)
