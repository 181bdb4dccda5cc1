"""Inputs beside the ones before them: against pairs made by hand, step by step and over a sequence."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta import models

GRU = models.gru(4)
MODEL = models.with_previous_input(GRU)


def params_and_inputs(key):
    """With numbers before the first input that are not zeros."""
    key_params, key_before, key_x = jax.random.split(key, 3)
    x = jax.random.normal(key_x, (5, 3))
    return MODEL.init(key_params, x) | {"before_first": jax.random.normal(key_before, (3,))}, x


def test_the_model_sees_pairs(key):
    params, x = params_and_inputs(key)
    memory, outputs = MODEL.unroll(params, MODEL.start(params), x)
    pairs = np.stack([np.concatenate([x[i], params["before_first"] if i == 0 else x[i - 1]]) for i in range(5)])
    after, expected = GRU.unroll(params["model"], GRU.start(params["model"]), jnp.asarray(pairs))
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)
    np.testing.assert_allclose(memory.memory, after, rtol=1e-6)
    np.testing.assert_array_equal(memory.previous, x[-1])


def test_step_by_step_and_in_parts_is_as_a_whole(key):
    params, x = params_and_inputs(key)
    _, outputs = MODEL.unroll(params, MODEL.start(params), x)
    memory, by_steps = MODEL.start(params), []
    for row in x:
        memory, output = MODEL.step(params, memory, row)
        by_steps.append(output)
    np.testing.assert_allclose(jnp.stack(by_steps), outputs, rtol=1e-5, atol=1e-6)
    memory, first = MODEL.unroll(params, MODEL.start(params), x[:2])
    memory, none = MODEL.unroll(params, memory, x[:0])
    _, rest = MODEL.unroll(params, memory, x[2:])
    assert none.shape == (0, 4)
    np.testing.assert_allclose(jnp.concatenate([first, rest]), outputs, rtol=1e-5, atol=1e-6)


def test_what_comes_before_the_first_input_is_learned(key):
    params, x = params_and_inputs(key)
    gradient = jax.grad(lambda params: MODEL.unroll(params, MODEL.start(params), x)[1].sum())(params)
    assert np.all(np.abs(gradient["before_first"]) > 0)
