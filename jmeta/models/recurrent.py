"""Recurrent networks: GRU and LSTM as sequence models.

They are written in plain JAX for two reasons of speed on CPUs. First, inputs are projected inside the loop: the row
that a step reads from an array of all steps is then an operand of a product, and not of the gates' arithmetic, which
XLA does not vectorise together with such a read (at a width of 64 and 256 tasks, projecting before the loop took 5
times as long, and its gradient 4 times). Second, and for the same reason, the backward pass computes a step's gates
again instead of storing them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..bounds import is_whole
from ..tasks.class_arrays import check_positive
from ..types import PyTree, RandomKey, SequenceModel

__all__ = ["LSTMMemory", "UNROLL", "gru", "lstm"]

LSTMMemory = tuple[Array, Array]

UNROLL = 4
"""Steps in one iteration of the compiled loop: at a width of 256 and 128 tasks on a CPU, the gradient takes 8 % less
time than with one; at 64 it makes no difference."""


def gru(width: int, *, max_span: int | None = None) -> SequenceModel:
    """Build a gated recurrent unit: hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁.

    Gates are r, z = σ(W x + b + U hₜ₋₁), and the new content is n = tanh(W x + b + r ⊙ (U hₜ₋₁ + c)), with the reset
    gate after the product.

    Args:
      width: numbers in the memory, and in each output, which is the memory.
      max_span: steps that the longest-lived part of a new memory lasts, at least 2: unit i keeps its content for a time
        drawn from 1 to `max_span`. With `None`, gates start half open and forget within a few steps, and sequences of a
        hundred are then hard to learn from.

    Raises:
      ValueError: if `width` is not positive, or `max_span` is below 2.

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
      Tallec, Ollivier, "Can Recurrent Neural Networks Warp Time?", 2018, arXiv:1804.11188 (`max_span`).
    """
    check_positive({"width": width})
    _check_span(max_span)

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> PyTree:
        key_cell, key_span = jax.random.split(key)
        params = _init_cell(key_cell, x.shape[-1], width, num_gates=3)
        params["bias"] = params["bias"].at[width : 2 * width].set(_keeping_for(key_span, width, max_span))
        return {**params, "content_bias": jnp.zeros((width,), jnp.float32)}

    def start(params: PyTree) -> Float[Array, " width"]:
        return jnp.zeros((width,), params["recurrent_kernel"].dtype)

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


def lstm(width: int, *, max_span: int | None = None) -> SequenceModel:
    """Build a long short-term memory: cₜ = f ⊙ cₜ₋₁ + i ⊙ g, hₜ = o ⊙ tanh(cₜ).

    Gates are i, f, o = σ(W x + U hₜ₋₁ + b) and g = tanh of the same; the bias of f starts at 1, or as `max_span` says.

    Args:
      width: numbers in each output hₜ; the memory is `(h, c)`.
      max_span: as for `gru`; the input gate's bias then starts at minus the forget gate's.

    Raises:
      ValueError: if `width` is not positive, or `max_span` is below 2.

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
    _check_span(max_span)

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> PyTree:
        key_cell, key_span = jax.random.split(key)
        params = _init_cell(key_cell, x.shape[-1], width, num_gates=4)
        if max_span is None:
            return {**params, "bias": params["bias"].at[width : 2 * width].set(1.0)}
        keep = _keeping_for(key_span, width, max_span)
        return {**params, "bias": params["bias"].at[: 2 * width].set(jnp.concatenate([-keep, keep]))}

    def start(params: PyTree) -> LSTMMemory:
        blank = jnp.zeros((width,), params["recurrent_kernel"].dtype)
        return blank, blank

    def cell(params: PyTree, memory: LSTMMemory, projected: Float[Array, " gates"]) -> tuple[LSTMMemory, Array]:
        output, content = memory
        both = projected + output @ params["recurrent_kernel"]
        let_in, keep, let_out = jnp.split(jax.nn.sigmoid(both[: 3 * width]), 3)
        content = keep * content + let_in * jnp.tanh(both[3 * width :])
        output = let_out * jnp.tanh(content)
        return (output, content), output

    return _sequence_model(init, start, cell)


def _check_span(max_span: int | None) -> None:
    if max_span is not None and not is_whole(max_span, least=2):
        raise ValueError(f"max_span={max_span}; expected at least 2 steps, or None")


def _keeping_for(key: RandomKey, width: int, max_span: int | None) -> Float[Array, " width"]:
    """Draw biases of a gate that keeps its content for 1 to `max_span` steps: σ(log s) = 1 − 1 / (1 + s)."""
    if max_span is None:
        return jnp.zeros((width,), jnp.float32)
    return jnp.log(jax.random.uniform(key, (width,), jnp.float32, 1.0, float(max_span - 1) if max_span > 2 else 1.5))


def _init_cell(key: RandomKey, num_features: int, width: int, num_gates: int) -> dict[str, Array]:
    """Draw input weights by Glorot's rule, and orthogonal recurrent ones for each gate separately."""
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
    def step(params: PyTree, memory: PyTree, x: Float[Array, " features"]) -> tuple[PyTree, Array]:
        projected = x @ params["input_kernel"] + params["bias"]
        return cell(params, memory, projected)

    def unroll(params: PyTree, memory: PyTree, x: Float[Array, "steps features"]) -> tuple[PyTree, Array]:
        recomputed = jax.checkpoint(lambda memory, one: step(params, memory, one), prevent_cse=False)
        return jax.lax.scan(recomputed, memory, x, unroll=UNROLL)

    return SequenceModel(init, start, step, unroll)
