"""The causal transformer: attention against a loop, causality, and a cache that changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.models.attention import attend
from jmeta.models.causal_transformer import causal_transformer

from ..differences import assert_gradient_is_central_difference

STEPS, FEATURES, WIDTH, MAX_STEPS = 7, 3, 8, 9
MODEL = causal_transformer(width=WIDTH, num_layers=2, num_heads=2, max_steps=MAX_STEPS)


@functools.partial(jax.jit, static_argnames="num_steps")
def params_and_inputs(key, num_steps=STEPS):
    """In double precision, and away from norms that scale by 1 and shift by 0."""
    key_params, key_noise, key_x = jax.random.split(key, 3)
    x = jax.random.normal(key_x, (num_steps, FEATURES))
    leaves, structure = jax.tree.flatten(MODEL.init(key_params, x))
    keys = jax.random.split(key_noise, len(leaves))
    leaves = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, [leaf.astype(jnp.float64) for leaf in leaves]), x


go_on, step = jax.jit(MODEL.unroll), jax.jit(MODEL.step)


@jax.jit
def unroll(params, x):
    return MODEL.unroll(params, MODEL.start(params), x)


def assert_same(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def attention_by_loops(queries, keys, values):
    """Step t over steps 0 .. t, one head and one sum at a time."""
    num_heads, num_steps, num_features = queries.shape
    outputs = np.zeros_like(values)
    for t in range(num_steps):
        for h in range(num_heads):
            scores = [sum(queries[h, t] * keys[h, s]) / num_features**0.5 for s in range(t + 1)]
            weights = np.exp(scores) / np.exp(scores).sum()
            outputs[h, t] = sum(weight * values[h, s] for s, weight in enumerate(weights))
    return outputs


def norm_by_hand(params, x):
    standard = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    return standard * np.asarray(params["scale"]) + np.asarray(params["bias"])


def dense_by_hand(params, x):
    return x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def transformer_by_hand(params, x):
    h = dense_by_hand(params["input"], np.asarray(x)) + np.asarray(params["positions"])[: len(x)]
    for block in (params["block_0"], params["block_1"]):
        heads = norm_by_hand(block["norm_attention"], h) @ np.asarray(block["attention"]["kernel"])
        queries, keys, values = (part.reshape(len(x), 2, WIDTH // 2).swapaxes(0, 1) for part in np.split(heads, 3, 1))
        read = attention_by_loops(queries, keys, values).swapaxes(0, 1).reshape(len(x), WIDTH)
        h = h + dense_by_hand(block["read"], read)
        hidden = dense_by_hand(block["hidden"], norm_by_hand(block["norm_mlp"], h))
        gelu = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        h = h + dense_by_hand(block["output"], gelu)
    return norm_by_hand(params["norm"], h)


def test_attention_is_a_loop_over_softmaxes(float64, key):
    queries, keys = jax.random.normal(key, (2, 3, STEPS, 4))
    values = jax.random.normal(jax.random.fold_in(key, 1), (3, STEPS, 5))
    read = attend(queries, keys, values, jnp.tril(jnp.ones((STEPS, STEPS), bool)))
    assert_same(read, attention_by_loops(*(np.asarray(array) for array in (queries, keys, values))))


def test_it_is_its_formula(float64, key):
    params, x = params_and_inputs(key)
    assert_same(unroll(params, x)[1], transformer_by_hand(params, x))


def test_outputs_depend_on_no_later_input(float64, key):
    params, x = params_and_inputs(key)
    jacobian = jax.jit(jax.jacobian(lambda x: unroll(params, x)[1]))(x)
    depends = np.abs(jacobian).max((1, 3)) > 0  # [output's step, input's step]
    np.testing.assert_array_equal(depends, np.tril(np.ones((STEPS, STEPS), bool)))


@pytest.mark.parametrize("num_before", [0, 3])
def test_step_by_step_is_unroll_from_any_memory(float64, key, num_before):
    params, x = params_and_inputs(key)
    whole, outputs = unroll(params, x)
    memory, before = unroll(params, x[:num_before])
    _, rest = go_on(params, memory, x[num_before:])
    assert_same(jnp.concatenate([before, rest]), outputs)
    for i in range(num_before, STEPS):
        memory, output = step(params, memory, x[i])
        assert_same(output, outputs[i])
    jax.tree.map(assert_same, memory, whole)


def test_past_its_end_outputs_are_nan_and_all_before_it_are_right(float64, key):
    params, x = params_and_inputs(key, num_steps=MAX_STEPS)
    _, outputs = unroll(params, x)
    assert np.isfinite(outputs).all()
    memory, _ = unroll(params, x[:5])
    memory, over = go_on(params, memory, jnp.concatenate([x[5:], x[:3]]))
    assert_same(over[:4], outputs[5:])
    assert np.isnan(over[4:]).all()
    _, after = step(params, memory, x[0])
    assert np.isnan(after).all()
    memory, _ = unroll(params, x)
    jax.tree.map(assert_same, step(params, memory, x[0])[0]._replace(num_seen=memory.num_seen), memory)


def test_no_steps_change_nothing(key):
    params = jax.jit(MODEL.init)(key, jnp.zeros((STEPS, FEATURES)))
    memory, outputs = unroll(params, jnp.zeros((0, FEATURES)))
    assert outputs.shape == (0, WIDTH)
    jax.tree.map(np.testing.assert_array_equal, memory, MODEL.start(params))


def test_the_gradient_is_the_central_difference_through_a_memory(float64, key):
    params, x = params_and_inputs(key)

    def fn(params_and_x):
        params, x = params_and_x
        memory, _ = unroll(params, x[:3])
        return jnp.sin(MODEL.unroll(params, memory, x[3:])[1]).sum()

    assert_gradient_is_central_difference(fn, (params, x))


def test_every_parameter_has_a_gradient_at_first(key):
    x = jax.random.normal(key, (STEPS, FEATURES))
    gradient = jax.jit(jax.grad(lambda params: jnp.sin(unroll(params, x)[1]).sum()))(jax.jit(MODEL.init)(key, x))
    assert all(jnp.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(gradient))


def test_jit_and_vmap_change_nothing_with_memories_of_unequal_lengths(key):
    x = jax.random.normal(key, (3, STEPS, FEATURES))
    params = jax.jit(MODEL.init)(key, x[0])
    memories = [unroll(params, one[:length])[0] for one, length in zip(x, (0, 2, 1), strict=True)]
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    in_a_loop = stack([go_on(params, memory, one) for memory, one in zip(memories, x, strict=True)])
    together = jax.jit(jax.vmap(MODEL.unroll, (None, 0, 0)))(params, stack(memories), x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, in_a_loop)


def test_shapes_of_memory_never_change(key):
    """So that it can be carried by a scan."""
    x = jnp.zeros((STEPS, FEATURES))
    params = MODEL.init(key, x)
    memory = MODEL.start(params)
    avals = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert avals(memory) == avals(unroll(params, x)[0]) == avals(step(params, memory, x[0])[0])


def test_no_dtype_is_promoted_and_no_key_used_twice(key):
    def run(key, x):
        params = MODEL.init(key, x)
        return MODEL.step(params, unroll(params, x)[0], x[0])

    with jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True):
        jax.jit(run).trace(key, jnp.zeros((STEPS, FEATURES)))


def test_mistakes_are_refused(key):
    with pytest.raises(ValueError, match="num_layers=0; expected"):
        causal_transformer(width=8, num_layers=0, num_heads=2, max_steps=4)
    with pytest.raises(ValueError, match="num_heads=3 does not divide width=8"):
        causal_transformer(width=8, num_layers=1, num_heads=3, max_steps=4)
    params = MODEL.init(key, jnp.zeros((1, FEATURES)))
    with pytest.raises(ValueError, match="a sequence of 10 steps, but max_steps=9"):
        unroll(params, jnp.zeros((10, FEATURES)))
