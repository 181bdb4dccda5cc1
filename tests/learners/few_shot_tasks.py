"""Tiny classification tasks, and what learners of them must satisfy: padding and the support's order change nothing."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta import Batch, Learner, Task, losses

NUM_FEATURES = 4


def blobs(key: jax.Array, num_ways: int = 3, num_shots: int = 2, num_queries: int = 2) -> Task:
    """Overlapping Gaussian blobs, in random order and in the precision in force."""
    key_centres, key_support, key_query = jax.random.split(key, 3)
    centres = 2.0 * jax.random.normal(key_centres, (num_ways, NUM_FEATURES))

    def batch(key: jax.Array, count: int) -> Batch:
        key_order, key_noise = jax.random.split(key)
        labels = jax.random.permutation(key_order, jnp.tile(jnp.arange(num_ways, dtype=jnp.int32), count))
        return Batch(centres[labels] + jax.random.normal(key_noise, (labels.size, NUM_FEATURES)), labels)

    return Task(batch(key_support, num_shots), batch(key_query, num_queries))


def in_double(tree):
    """Floating-point leaves in float64; Flax makes float32 parameters whatever the precision in force."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(leaf, jnp.float64)), tree)


def padded(support: Batch, rng: np.random.Generator, num_extra: int = 3) -> Batch:
    """The same support with rows of NaN at random places, masked out."""
    size = support.y.size + num_extra
    places = np.sort(rng.permutation(size)[: support.y.size])
    x = jnp.full((size, *support.x.shape[1:]), jnp.nan, support.x.dtype).at[places].set(support.x)
    y = jnp.ones(size, support.y.dtype).at[places].set(support.y)
    return Batch(x, y, jnp.zeros(size, bool).at[places].set(True))


def loss_and_gradient(learner: Learner, meta_params, task: Task, loss_fn=losses.cross_entropy):
    episode_fn = jmeta.plain_episode(learner, loss_fn)
    both = jax.jit(jax.value_and_grad(lambda meta_params, task: episode_fn(meta_params, task, jax.random.key(7))[0]))
    return both(meta_params, task)


def predict(learner: Learner, meta_params, task: Task) -> jax.Array:
    @jax.jit
    def adapt_and_predict(meta_params, task):
        adapted = learner.adapt(meta_params, task.support, jax.random.key(7))
        return learner.predict(meta_params, adapted, task.query.x, None)

    return adapt_and_predict(meta_params, task)


def assert_trees_close(actual, expected, rtol=1e-9, atol=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected)


def assert_padding_changes_nothing(learner: Learner, meta_params, task: Task, loss_fn=losses.cross_entropy):
    """Neither predictions nor meta-gradients, in float64, whatever the padding holds and wherever it stands."""
    meta_params = jax.tree.map(lambda leaf: leaf + 0.1, meta_params)  # biases of 0 would embed padding as nothing
    same = task._replace(support=padded(task.support, np.random.default_rng(0)))
    assert_trees_close(predict(learner, meta_params, same), predict(learner, meta_params, task))
    assert_trees_close(
        loss_and_gradient(learner, meta_params, same, loss_fn), loss_and_gradient(learner, meta_params, task, loss_fn)
    )


def assert_absent_ways_change_nothing(make, meta_params, task: Task, num_ways: int, loss_fn=losses.cross_entropy):
    """A task of `num_ways` classes in the shape of one of two more; `make(num_ways)` gives the learner."""
    exact, roomy = make(num_ways), make(num_ways + 2)
    outputs = predict(roomy, meta_params, task)
    assert_trees_close(outputs[:, :num_ways], predict(exact, meta_params, task))
    assert jnp.all(outputs[:, num_ways:] == -jnp.inf)
    assert_trees_close(
        loss_and_gradient(roomy, meta_params, task, loss_fn), loss_and_gradient(exact, meta_params, task, loss_fn)
    )


def assert_support_order_is_irrelevant(learner: Learner, meta_params, task: Task):
    order = np.random.default_rng(0).permutation(task.support.y.size)
    other = task._replace(support=Batch(task.support.x[order], task.support.y[order]))
    assert_trees_close(predict(learner, meta_params, other), predict(learner, meta_params, task))


def assert_padding_alone_is_finite(learner: Learner, meta_params, task: Task):
    """A task of padding alone, as a batch of unequal size is filled up with, makes no NaN."""
    empty = task.support._replace(mask=jnp.zeros(task.support.y.shape, bool))
    loss, gradient = loss_and_gradient(learner, meta_params, task._replace(support=empty))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, gradient)))
