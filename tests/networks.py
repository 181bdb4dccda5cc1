"""Smooth little networks and tasks that tests of mathematics share: tanh, so that finite differences mean something."""

import jax
import jax.numpy as jnp

from jmeta import Batch, Model, Task, models


def smooth_mlp(num_outputs: int = 1) -> Model:
    return in_default_precision(models.mlp([6, num_outputs], activation=jnp.tanh))


def in_default_precision(model: Model) -> Model:
    """The model with its initial parameters in the precision in force: Flax makes them float32 even under x64."""
    precise = lambda params: jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), params)
    return model._replace(init=lambda key, x: precise(model.init(key, x)))


def identity() -> Model:
    """A body without parameters."""
    return Model(lambda key, x: {}, lambda params, x, key: x)


def regression_task(key: jax.Array, num_examples: int = 5, num_features: int = 3) -> Task:
    """Targets are a random smooth function of the inputs; the dtype is that of the precision in force."""
    key_weights, key_support, key_query = jax.random.split(key, 3)
    weights = jax.random.normal(key_weights, (num_features, 1))

    def batch(key: jax.Array) -> Batch:
        x = jax.random.normal(key, (num_examples, num_features))
        return Batch(x, jnp.sin(x @ weights))

    return Task(batch(key_support), batch(key_query))


def stacked_regression_tasks(key: jax.Array, num_tasks: int = 4) -> Task:
    return jax.vmap(regression_task)(jax.random.split(key, num_tasks))
