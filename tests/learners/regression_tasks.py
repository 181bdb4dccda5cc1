"""Tasks of smooth functions with noise, and padding anywhere in them."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta import Batch, Task, losses

from .few_shot_tasks import assert_trees_close, predict


def waves(key, num_shots=5, num_queries=4, num_numbers=2):
    """Two noisy numbers for each input of three features."""
    key_weights, key_x, key_noise = jax.random.split(key, 3)
    x = jax.random.normal(key_x, (num_shots + num_queries, 3))
    y = jnp.sin(x @ jax.random.normal(key_weights, (3, num_numbers)))
    y = y + 0.1 * jax.random.normal(key_noise, y.shape)
    return Task(Batch(x[:num_shots], y[:num_shots]), Batch(x[num_shots:], y[num_shots:]))


def padded(batch: Batch, rng: np.random.Generator, num_extra: int = 3) -> Batch:
    """The same batch with rows of NaN at random places, masked out."""
    size = len(batch.x) + num_extra
    places = np.sort(rng.permutation(size)[: len(batch.x)])
    spread = lambda leaf: jnp.full((size, *leaf.shape[1:]), jnp.nan, leaf.dtype).at[places].set(leaf)
    return Batch(spread(batch.x), spread(batch.y), jnp.zeros(size, bool).at[places].set(True))


def assert_padding_and_order_change_nothing(learner, meta_params, task):
    """Neither the training loss nor its gradient, nor what is reported of the predictions."""
    rng = np.random.default_rng(0)
    meta_params = jax.tree.map(lambda leaf: leaf + 0.1, meta_params)  # biases of 0 would embed padding as nothing
    order = rng.permutation(len(task.support.x))
    shuffled = task._replace(support=Batch(task.support.x[order], task.support.y[order]))
    with_padding = Task(padded(task.support, rng), padded(task.query, rng))
    run = jax.jit(jax.value_and_grad(jmeta.episode(learner, losses.negative_log_likelihood), has_aux=True))
    (loss, aux), grads = run(meta_params, task, jax.random.key(7))
    for other in (shuffled, with_padding):
        (same_loss, same_aux), same_grads = run(meta_params, other, jax.random.key(7))
        assert_trees_close((same_loss, same_grads), (loss, grads), rtol=1e-6, atol=1e-8)
        assert_trees_close(same_aux["negative_log_likelihood"], aux["negative_log_likelihood"], rtol=1e-8)


def assert_nothing_observed_leaves_the_prior(learner, meta_params, task, variance):
    """Without a real example, predictions have the constant mean and the prior variance."""
    nothing = Batch(task.support.x, task.support.y * jnp.nan, jnp.zeros(len(task.support.x), bool))
    for support in (nothing, jax.tree.map(lambda leaf: leaf[:0], task.support)):
        prediction = predict(learner, meta_params, task._replace(support=support))
        np.testing.assert_allclose(prediction.mean(), np.broadcast_to(meta_params["mean"], task.query.y.shape))
        np.testing.assert_allclose(prediction.variance(), np.full(task.query.y.shape, variance), rtol=1e-7)
