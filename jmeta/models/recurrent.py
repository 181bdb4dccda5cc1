"""Recurrent networks: GRU and LSTM as sequence models.

Written out, not wrapped: inputs of all steps are projected in one product before the loop, which leaves one small
product a step inside it. Under `vmap` over tasks with shared parameters, that is a product with the tasks as rows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..tasks.class_arrays import check_positive
from ..types import PyTree, RandomKey, SequenceModel

LSTMMemory = tuple[Array, Array]


def gru(width: int) -> SequenceModel:
    """A gated recurrent unit: hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁.

    Gates are r, z = σ(W x + b + U hₜ₋₁), and the new content is n = tanh(W x + b + r ⊙ (U hₜ₋₁ + c)), with the reset
    gate after the product.

    Args:
      width: numbers in the memory, and in each output, which is the memory.

    Raises:
      ValueError: if `width` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = gru(16)
      >>> params = model.init(jax.random.key(0), jnp.zeros((7, 3)))
      >>> memory, outputs = model.unroll(params, model.start(params), jnp.zeros((7, 3)))
      >>> memory.shape, outputs.shape
      ((16,), (7, 16))

    Reference:
      Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation", 2014,
      arXiv:1406.1078. Differs from the paper: the reset gate is applied after the product, as fast kernels do.
    """
    check_positive({"width": width})

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> PyTree:
        params = _init_cell(key, x.shape[-1], width, num_gates=3)
        return {**params, "content_bias": jnp.zeros((width,), jnp.float32)}

    def start(params: PyTree) -> Float[Array, " width"]:
        del params
        return jnp.zeros((width,), jnp.float32)

    def cell(
        params: PyTree, memory: Float[Array, " width"], projected: Float[Array, " gates"]
    ) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
        recurrent = memory @ params["recurrent_kernel"]
        gates = jax.nn.sigmoid(projected[: 2 * width] + recurrent[: 2 * width])
        reset, keep = gates[:width], gates[width:]
        content = jnp.tanh(projected[2 * width :] + reset * (recurrent[2 * width :] + params["content_bias"]))
        memory = content + keep * (memory - content)
        return memory, memory

    return _sequence_model(init, start, cell)


def lstm(width: int) -> SequenceModel:
    """A long short-term memory: cₜ = f ⊙ cₜ₋₁ + i ⊙ g, hₜ = o ⊙ tanh(cₜ).

    Gates are i, f, o = σ(W x + U hₜ₋₁ + b) and g = tanh of the same; f begins with a bias of 1.

    Args:
      width: numbers in each output hₜ; the memory is `(h, c)`.

    Raises:
      ValueError: if `width` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = lstm(16)
      >>> params = model.init(jax.random.key(0), jnp.zeros((7, 3)))
      >>> memory, outputs = model.unroll(params, model.start(params), jnp.zeros((7, 3)))
      >>> outputs.shape
      (7, 16)

    Reference:
      Hochreiter, Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers, Schmidhuber, Cummins, 2000.
    """
    check_positive({"width": width})

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> PyTree:
        params = _init_cell(key, x.shape[-1], width, num_gates=4)
        return {**params, "bias": params["bias"].at[width : 2 * width].set(1.0)}

    def start(params: PyTree) -> LSTMMemory:
        del params
        return jnp.zeros((width,), jnp.float32), jnp.zeros((width,), jnp.float32)

    def cell(params: PyTree, memory: LSTMMemory, projected: Float[Array, " gates"]) -> tuple[LSTMMemory, Array]:
        output, content = memory
        both = projected + output @ params["recurrent_kernel"]
        let_in, keep, let_out = jnp.split(jax.nn.sigmoid(both[: 3 * width]), 3)
        content = keep * content + let_in * jnp.tanh(both[3 * width :])
        output = let_out * jnp.tanh(content)
        return (output, content), output

    return _sequence_model(init, start, cell)


def _init_cell(key: RandomKey, num_features: int, width: int, num_gates: int) -> dict[str, Array]:
    """Input weights by Glorot; recurrent ones orthogonal, each gate's by itself."""
    key_input, *keys = jax.random.split(key, num_gates + 1)
    orthogonal = jax.nn.initializers.orthogonal()
    return {
        "input_kernel": jax.nn.initializers.glorot_uniform()(key_input, (num_features, num_gates * width), jnp.float32),
        "recurrent_kernel": jnp.concatenate([orthogonal(each, (width, width), jnp.float32) for each in keys], 1),
        "bias": jnp.zeros((num_gates * width,), jnp.float32),
    }


def _sequence_model(
    init: Callable[[RandomKey, Array], PyTree],
    start: Callable[[PyTree], PyTree],
    cell: Callable[[PyTree, PyTree, Array], tuple[PyTree, Array]],
) -> SequenceModel:
    def project(params: PyTree, x: Float[Array, "*steps features"]) -> Float[Array, "*steps gates"]:
        return x @ params["input_kernel"] + jnp.broadcast_to(params["bias"], (*x.shape[:-1], params["bias"].shape[0]))

    def step(params: PyTree, memory: PyTree, x: Float[Array, " features"]) -> tuple[PyTree, Array]:
        return cell(params, memory, project(params, x))

    def unroll(params: PyTree, memory: PyTree, x: Float[Array, "steps features"]) -> tuple[PyTree, Array]:
        return jax.lax.scan(lambda memory, one: cell(params, memory, one), memory, project(params, x))

    return SequenceModel(init, start, step, unroll)
