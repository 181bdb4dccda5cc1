"""Tasks of smooth functions with noise, and padding anywhere in them."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta import Batch, Task

from .few_shot_tasks import predict


def waves(key, num_shots=5, num_queries=4, num_numbers=2):
    """Two noisy numbers for each input of three features."""
    key_weights, key_x, key_noise = jax.random.split(key, 3)
    x = jax.random.normal(key_x, (num_shots + num_queries, 3))
    y = jnp.sin(x @ jax.random.normal(key_weights, (3, num_numbers)))
    y = y + 0.1 * jax.random.normal(key_noise, y.shape)
    return Task(Batch(x[:num_shots], y[:num_shots]), Batch(x[num_shots:], y[num_shots:]))


def assert_nothing_observed_leaves_the_prior(learner, meta_params, task, variance):
    """Without a real example, predictions have the constant mean and the prior variance."""
    nothing = Batch(task.support.x, task.support.y * jnp.nan, jnp.zeros(len(task.support.x), bool))
    for support in (nothing, jax.tree.map(lambda leaf: leaf[:0], task.support)):
        prediction = predict(learner, meta_params, task._replace(support=support))
        np.testing.assert_allclose(prediction.mean(), np.broadcast_to(meta_params["mean"], task.query.y.shape))
        np.testing.assert_allclose(prediction.variance(), np.full(task.query.y.shape, variance), rtol=1e-7)
