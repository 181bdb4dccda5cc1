"""GRU and LSTM against their equations in numpy, against PyTorch, and against themselves step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models

from ..differences import assert_gradient_is_central_difference

STEPS, FEATURES, WIDTH = 6, 3, 5
MODELS = {"gru": models.gru(WIDTH), "lstm": models.lstm(WIDTH)}


def in_double(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def model_params_and_inputs(name, key):
    """With biases that are not zero, which they are at first."""
    model = MODELS[name]
    key_params, key_biases, key_x = jax.random.split(key, 3)
    x = jax.random.normal(key_x, (STEPS, FEATURES))
    params = in_double(model.init(key_params, x))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key_biases, len(leaves))
    leaves = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(structure, leaves), x


def unroll(model, params, x):
    return model.unroll(params, in_double(model.start(params)), x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_by_a_loop(params, x):
    w_r, w_z, w_n = np.split(np.asarray(params["input_kernel"]), 3, axis=1)
    u_r, u_z, u_n = np.split(np.asarray(params["recurrent_kernel"]), 3, axis=1)
    b_r, b_z, b_n = np.split(np.asarray(params["bias"]), 3)
    h, outputs = np.zeros(WIDTH), []
    for now in np.asarray(x):
        r, z = sigmoid(now @ w_r + b_r + h @ u_r), sigmoid(now @ w_z + b_z + h @ u_z)
        n = np.tanh(now @ w_n + b_n + r * (h @ u_n + np.asarray(params["content_bias"])))
        h = (1 - z) * n + z * h
        outputs.append(h)
    return np.stack(outputs)


def lstm_by_a_loop(params, x):
    kernels = zip(
        np.split(np.asarray(params["input_kernel"]), 4, axis=1),
        np.split(np.asarray(params["recurrent_kernel"]), 4, axis=1),
        np.split(np.asarray(params["bias"]), 4),
        strict=True,
    )
    kernels = list(kernels)
    h, c, outputs = np.zeros(WIDTH), np.zeros(WIDTH), []
    for now in np.asarray(x):
        i, f, o, g = (now @ w + h @ u + b for w, u, b in kernels)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize(("name", "loop"), [("gru", gru_by_a_loop), ("lstm", lstm_by_a_loop)])
def test_it_is_its_equations(float64, key, name, loop):
    model, params, x = model_params_and_inputs(name, key)
    np.testing.assert_allclose(unroll(model, params, x)[1], loop(params, x), rtol=0, atol=1e-13)


def torch_weights(torch, cell, params, order):
    """Ours in PyTorch's layout: gates in another order, on the first axis."""
    to_torch = lambda array: torch.from_numpy(np.ascontiguousarray(array))
    reordered = lambda array: np.concatenate([np.split(np.asarray(array), len(order), -1)[i] for i in order], -1)
    recurrent_bias = np.zeros(len(order) * WIDTH)
    if "content_bias" in params:
        recurrent_bias[-WIDTH:] = params["content_bias"]
    with torch.no_grad():
        cell.weight_ih_l0.copy_(to_torch(reordered(params["input_kernel"]).T))
        cell.weight_hh_l0.copy_(to_torch(reordered(params["recurrent_kernel"]).T))
        cell.bias_ih_l0.copy_(to_torch(reordered(params["bias"])))
        cell.bias_hh_l0.copy_(to_torch(recurrent_bias))


@pytest.mark.parametrize(("name", "order"), [("gru", [0, 1, 2]), ("lstm", [0, 1, 3, 2])])
def test_it_is_pytorchs(float64, key, torch, name, order):
    model, params, x = model_params_and_inputs(name, key)
    cell = getattr(torch.nn, name.upper())(FEATURES, WIDTH, dtype=torch.float64)
    torch_weights(torch, cell, params, order)
    with torch.no_grad():
        expected, last = cell(torch.from_numpy(np.array(x)))
    memory, outputs = unroll(model, params, x)
    np.testing.assert_allclose(outputs, expected.numpy(), rtol=0, atol=1e-13)
    pairs = zip(jax.tree.leaves(memory), last if name == "lstm" else [last], strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", MODELS)
def test_step_by_step_is_unroll_from_any_memory(float64, key, name):
    model, params, x = model_params_and_inputs(name, key)
    whole, outputs = unroll(model, params, x)
    memory, first = unroll(model, params, x[:2])
    _, rest = model.unroll(params, memory, x[2:])
    np.testing.assert_allclose(jnp.concatenate([first, rest]), outputs, rtol=0, atol=1e-13)
    for i in range(2, STEPS):
        memory, output = model.step(params, memory, x[i])
        np.testing.assert_allclose(output, outputs[i], rtol=0, atol=1e-13)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13), memory, whole)


@pytest.mark.parametrize("name", MODELS)
def test_no_steps_change_nothing(key, name):
    model = MODELS[name]
    params = model.init(key, jnp.zeros((STEPS, FEATURES)))
    memory, outputs = model.unroll(params, model.start(params), jnp.zeros((0, FEATURES)))
    assert outputs.shape == (0, WIDTH)
    jax.tree.map(np.testing.assert_array_equal, memory, model.start(params))


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_the_central_difference(float64, key, name):
    model, params, x = model_params_and_inputs(name, key)
    fn = lambda params_and_x: jnp.sin(unroll(model, *params_and_x)[1]).sum()
    assert_gradient_is_central_difference(fn, (params, x))


@pytest.mark.parametrize("name", MODELS)
def test_jit_and_vmap_change_nothing(key, name):
    model = MODELS[name]
    x = jax.random.normal(key, (4, STEPS, FEATURES))
    params = model.init(key, x[0])
    run = lambda x: model.unroll(params, model.start(params), x)
    in_a_loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[run(one) for one in x])
    together = jax.jit(jax.vmap(run))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), together, in_a_loop)


def test_recurrent_weights_of_each_gate_begin_orthogonal(key):
    for name, num_gates in (("gru", 3), ("lstm", 4)):
        kernel = MODELS[name].init(key, jnp.zeros((1, FEATURES)))["recurrent_kernel"]
        gates = jnp.split(kernel, num_gates, 1)
        for gate in gates:
            np.testing.assert_allclose(gate @ gate.T, jnp.eye(WIDTH), atol=1e-5)
        assert not np.allclose(gates[0], gates[1])


def test_what_an_lstm_has_learned_is_kept_at_first(key):
    """The bias of the gate that forgets begins at 1."""
    bias = MODELS["lstm"].init(key, jnp.zeros((1, FEATURES)))["bias"]
    np.testing.assert_array_equal(bias.reshape(4, WIDTH), np.repeat([[0.0], [1.0], [0.0], [0.0]], WIDTH, 1))


def test_gates_may_begin_with_keeping_for_up_to_a_span(key):
    """A gate of σ(log s) keeps 1 − 1 / (1 + s) of what it holds; an LSTM lets in what it forgets."""
    x = jnp.zeros((1, FEATURES))
    for max_span in (2, 100):
        gru_bias = models.gru(200, max_span=max_span).init(key, x)["bias"].reshape(3, 200)
        lstm_bias = models.lstm(200, max_span=max_span).init(key, x)["bias"].reshape(4, 200)
        np.testing.assert_allclose(lstm_bias[0], -lstm_bias[1], rtol=1e-6)
        assert not np.any(gru_bias[::2])
        assert not np.any(lstm_bias[2:])
        for keep in (gru_bias[1], lstm_bias[1]):
            spans = 1 + np.exp(keep)
            assert spans.min() >= 2 - 1e-5
            assert spans.max() <= max(max_span, 2.5) + 1e-3
            assert spans.std() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_no_dtype_is_promoted_and_no_key_used_twice(key, name):
    model = MODELS[name]

    def run(key, x):
        params = model.init(key, x)
        return model.step(params, model.unroll(params, model.start(params), x)[0], x[0])

    with jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True):
        jax.jit(run).trace(key, jnp.zeros((STEPS, FEATURES)))


def test_mistakes_are_refused():
    for make in (models.gru, models.lstm):
        with pytest.raises(ValueError, match="width=0; expected"):
            make(0)
        with pytest.raises(ValueError, match="max_span=1; expected at least 2"):
            make(3, max_span=1)
