"""A sequence model that remembers nothing: step by step and all at once the same, and blind to what is before."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta import models

MODEL = models.forgetful(models.mlp([4, 3]), num_features=2)


def test_steps_and_sequences_are_the_network_on_the_first_features(key):
    key_params, key_x = jax.random.split(key)
    x = jax.random.normal(key_x, (5, 3))
    params = MODEL.init(key_params, x)
    memory, outputs = MODEL.unroll(params, MODEL.start(params), x)
    assert memory == ()
    np.testing.assert_array_equal(outputs, jnp.tanh(models.mlp([4, 3]).apply(params, x[:, :2], None)))
    for row, output in zip(x, outputs, strict=True):
        np.testing.assert_allclose(MODEL.step(params, memory, row)[1], output, rtol=1e-5, atol=1e-6)


def test_an_output_depends_on_its_own_step_and_not_on_hidden_features(key):
    x = jax.random.normal(key, (3, 3))
    params = MODEL.init(key, x)
    outputs = lambda x: MODEL.unroll(params, (), x)[1]
    np.testing.assert_array_equal(outputs(x.at[0].add(1.0))[1:], outputs(x)[1:])
    np.testing.assert_array_equal(outputs(x.at[:, 2].add(1.0)), outputs(x))


def test_no_steps_have_no_outputs(key):
    params = MODEL.init(key, jnp.zeros((1, 3)))
    assert MODEL.unroll(params, (), jnp.zeros((0, 3)))[1].shape == (0, 3)
