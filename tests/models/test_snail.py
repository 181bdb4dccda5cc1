"""SNAIL: its blocks against loops, what it sees and what not, and a sliding memory that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.models.snail import snail

from ..differences import assert_gradient_is_central_difference

STEPS, FEATURES, MAX_STEPS = 8, 3, 6  # longer than attention's window, and than the longest dilation, 4
WIDTH, FILTERS, KEYS, VALUES, BLOCKS = 5, 3, 4, 2, 2
MODEL = snail(
    width=WIDTH, num_blocks=BLOCKS, num_filters=FILTERS, key_width=KEYS, value_width=VALUES, max_steps=MAX_STEPS
)
OUTPUTS = WIDTH + BLOCKS * (3 * FILTERS + VALUES)


@jax.jit
def params_and_inputs(key):
    """In double precision, with biases that are not zero."""
    key_params, key_noise, key_x = jax.random.split(key, 3)
    x = jax.random.normal(key_x, (STEPS, FEATURES))
    leaves, structure = jax.tree.flatten(MODEL.init(key_params, x))
    keys = jax.random.split(key_noise, len(leaves))
    leaves = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, [leaf.astype(jnp.float64) for leaf in leaves]), x


go_on, step = jax.jit(MODEL.unroll), jax.jit(MODEL.step)


@jax.jit
def unroll(params, x):
    return MODEL.unroll(params, MODEL.start(params), x)


def assert_same(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def snail_by_loops(params, x):
    dense = lambda params, x: x @ np.asarray(params["kernel"]) + np.asarray(params.get("bias", 0.0))
    known = [dense(params["input"], now) for now in np.asarray(x)]
    for i in range(BLOCKS):
        for dilation in (1, 2, 4):
            past = [np.zeros_like(known[0])] * dilation + known[:-dilation]
            gates = [
                dense(params[f"convolution_{i}_{dilation}"], np.concatenate(pair))
                for pair in zip(past, known, strict=True)
            ]
            new = [np.tanh(gate[:FILTERS]) / (1 + np.exp(-gate[FILTERS:])) for gate in gates]
            known = [np.concatenate(pair) for pair in zip(known, new, strict=True)]
        of = params[f"attention_{i}"]
        reads = []
        for t in range(STEPS):
            seen = range(max(0, t - MAX_STEPS + 1), t + 1)
            scores = [dense(of["query"], known[t]) @ dense(of["key"], known[s]) / KEYS**0.5 for s in seen]
            weights = np.exp(scores) / np.exp(scores).sum()
            reads.append(sum(weight * dense(of["value"], known[s]) for weight, s in zip(weights, seen, strict=True)))
        known = [np.concatenate(pair) for pair in zip(known, reads, strict=True)]
    return np.stack(known)


def test_it_is_its_formula(float64, key):
    params, x = params_and_inputs(key)
    _, outputs = unroll(params, x)
    assert outputs.shape == (STEPS, OUTPUTS)
    assert_same(outputs, snail_by_loops(params, x))


def test_outputs_depend_on_no_later_input_and_on_all_earlier_ones(float64, key):
    params, x = params_and_inputs(key)
    jacobian = jax.jit(jax.jacobian(lambda x: unroll(params, x)[1]))(x)
    depends = np.abs(jacobian).max((1, 3)) > 0  # [output's step, input's step]
    np.testing.assert_array_equal(depends, np.tril(np.ones((STEPS, STEPS), bool)))


def test_one_block_of_convolutions_sees_every_step_of_its_window_and_no_more(float64, key):
    """Dilations 1, 2 and 4 reach 0 to 7 steps back."""
    model = snail(width=2, num_blocks=1, num_filters=2, key_width=1, value_width=1, max_steps=8)
    x = jax.random.normal(key, (12, 1))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.init(key, x))
    last_filter = slice(2 + 2 * 2, 2 + 3 * 2)
    jacobian = jax.jit(jax.jacobian(lambda x: model.unroll(params, model.start(params), x)[1][-1, last_filter]))(x)
    np.testing.assert_array_equal(np.abs(jacobian).max((0, 2)) > 0, [False] * 4 + [True] * 8)


@pytest.mark.parametrize("num_before", [0, 1, 3, 7])
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


def test_no_steps_change_nothing(key):
    params = jax.jit(MODEL.init)(key, jnp.zeros((STEPS, FEATURES)))
    memory, outputs = unroll(params, jnp.zeros((0, FEATURES)))
    assert outputs.shape == (0, OUTPUTS)
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
    memories = [unroll(params, one[:length])[0] for one, length in zip(x, (0, 2, 7), strict=True)]
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


def test_mistakes_are_refused():
    make = lambda **other: snail(**{"width": 2, "num_blocks": 1, "num_filters": 2, "key_width": 1, **other})
    with pytest.raises(ValueError, match="value_width=0; expected"):
        make(value_width=0, max_steps=4)
    with pytest.raises(ValueError, match="max_steps=1; expected at least 2"):
        make(value_width=1, max_steps=1)
