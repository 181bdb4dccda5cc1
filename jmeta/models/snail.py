"""SNAIL: temporal convolutions that gather experience, and attention that selects from it.

Blocks only append to the features of a step: each reads all of them and adds its own outputs. So the past inputs of
every convolution are columns of one array. A buffer of that array's last rows, with the keys and values of the
attention, is the whole memory. Sequences and steps share one piece of code: a step is a sequence of one.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..bounds import is_whole
from ..tasks.class_arrays import check_positive
from ..types import PyTree, RandomKey, SequenceModel
from .attention import attend
from .dense import dense, init_dense

__all__ = ["SnailMemory", "snail"]


class SnailMemory(NamedTuple):
    """The memory of SNAIL: a window of the last steps, the latest last; steps before the first are zeros.

    Attributes:
      features: `[longest dilation, features]`, the features of each step: the past inputs of the convolutions.
      keys: keys of each attention block, `[max_steps - 1, key_width]`.
      values: values of each attention block, `[max_steps - 1, value_width]`.
      num_seen: int32, steps seen so far.
    """

    features: Array
    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    num_seen: Int[Array, ""]


def snail(
    *, width: int, num_blocks: int, num_filters: int, key_width: int, value_width: int, max_steps: int
) -> SequenceModel:
    """Build a dense layer, and then blocks of temporal convolutions followed by attention.

    A convolution of dilation d appends tanh(W [hₜ₋d, hₜ] + b) ⊙ σ(V [hₜ₋d, hₜ] + c) to hₜ; a block of them has the
    dilations 1, 2, 4, ... needed to see `max_steps` steps. Attention appends softmax(q · k / √key_width) v over the
    step itself and those before it.

    Args:
      width: numbers in the first layer's outputs.
      num_blocks: number of pairs of a convolution block and an attention block.
      num_filters: numbers that each convolution appends.
      key_width: numbers in a query and a key.
      value_width: numbers that each attention block appends.
      max_steps: number of steps that attention sees, including the current one; in a longer sequence, the latest ones.
        Nothing in SNAIL counts steps, so such a window may slide forever.

    Returns:
      A sequence model whose memory is a `SnailMemory`, and whose outputs are all features of a step: `width +
      num_blocks * (num_filters * ⌈log₂ max_steps⌉ + value_width)` numbers.

    Raises:
      ValueError: if a number is not positive, or `max_steps` is 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.models.snail import snail
      >>> model = snail(width=8, num_blocks=2, num_filters=4, key_width=6, value_width=5, max_steps=10)
      >>> params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((7, 3)))
      >>> memory, outputs = model.unroll(params, model.start(params), jnp.zeros((7, 3)))
      >>> outputs.shape, memory.features.shape[0]
      ((7, 50), 8)

    Reference:
      Mishra, Rohaninejad, Chen, Abbeel, "A Simple Neural Attentive Meta-Learner", 2018, arXiv:1707.03141, section 3
      and algorithms 1-2. Differs from the paper: dilations are 1, 2, 4, ... up to below T. The paper's pseudo-code has
      2, 4, ... up to T, which reach no odd number of steps back and, at the last, beyond the sequence's start.
    """
    numbers = {"width": width, "num_blocks": num_blocks, "num_filters": num_filters, "key_width": key_width}
    check_positive({**numbers, "value_width": value_width})
    if not is_whole(max_steps, least=2):
        raise ValueError(f"max_steps={max_steps}; expected at least 2, since convolutions and attention look back")
    dilations = [2**i for i in range(math.ceil(math.log2(max_steps)))]
    added = len(dilations) * num_filters + value_width  # by one block
    num_features = width + num_blocks * added

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> PyTree:
        key_input, *keys = jax.random.split(key, 1 + num_blocks)
        params = {"input": init_dense(key_input, x.shape[-1], width)}
        for i, key_block in enumerate(keys):
            key_attention, *keys_convolution = jax.random.split(key_block, 1 + len(dilations))
            num_known = width + i * added
            for dilation, key_convolution in zip(dilations, keys_convolution, strict=True):
                name = f"convolution_{i}_{dilation}"
                params[name] = init_dense(key_convolution, 2 * num_known, 2 * num_filters)
                num_known += num_filters
            params[f"attention_{i}"] = _init_attention(key_attention, num_known, key_width, value_width)
        return params

    def start(params: PyTree) -> SnailMemory:
        dtype = params["input"]["kernel"].dtype
        zeros = lambda numbers: (jnp.zeros((max_steps - 1, numbers), dtype),) * num_blocks  # noqa: E731
        features = jnp.zeros((dilations[-1], num_features), dtype)
        return SnailMemory(features, zeros(key_width), zeros(value_width), jnp.zeros((), jnp.int32))

    def unroll(
        params: PyTree, memory: SnailMemory, x: Float[Array, "steps features"]
    ) -> tuple[SnailMemory, Float[Array, "steps outputs"]]:
        num_steps = x.shape[0]
        is_visible = _window(num_steps, max_steps, memory.num_seen)
        known = dense(params["input"], x.astype(memory.features.dtype))
        keys, values = [], []
        for i, (past_keys, past_values) in enumerate(zip(memory.keys, memory.values, strict=True)):
            for dilation in dilations:
                past = memory.features[dilations[-1] - dilation :, : known.shape[1]]
                before = jnp.concatenate([past, known])[:num_steps]
                gates = dense(params[f"convolution_{i}_{dilation}"], jnp.concatenate([before, known], 1))
                content, is_open = jnp.tanh(gates[:, :num_filters]), jax.nn.sigmoid(gates[:, num_filters:])
                known = jnp.concatenate([known, content * is_open], 1)
            attention = params[f"attention_{i}"]
            keys.append(jnp.concatenate([past_keys, known @ attention["key"]["kernel"]]))
            values.append(jnp.concatenate([past_values, dense(attention["value"], known)]))
            query = dense(attention["query"], known)
            (read,) = attend(query[None], keys[-1][None], values[-1][None], is_visible)
            known = jnp.concatenate([known, read], 1)
        features = jnp.concatenate([memory.features, known])
        latest = lambda arrays: tuple(array[num_steps:] for array in arrays)  # noqa: E731
        return SnailMemory(features[num_steps:], latest(keys), latest(values), memory.num_seen + num_steps), known

    def step(
        params: PyTree, memory: SnailMemory, x: Float[Array, " features"]
    ) -> tuple[SnailMemory, Float[Array, " outputs"]]:
        memory, outputs = unroll(params, memory, x[None])
        return memory, outputs[0]

    return SequenceModel(init, start, step, unroll)


def _window(num_steps: int, max_steps: int, num_seen: Int[Array, ""]) -> Array:
    """Return `[steps, remembered]`: whether a step sees a row; the `max_steps - 1` rows of the memory come first."""
    steps = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
    ago = steps - (jnp.arange(max_steps - 1 + num_steps, dtype=jnp.int32) - (max_steps - 1))[None]
    return (ago >= 0) & (ago < max_steps) & (ago <= steps + num_seen)


def _init_attention(key: RandomKey, num_inputs: int, key_width: int, value_width: int) -> PyTree:
    key_query, key_key, key_value = jax.random.split(key, 3)
    return {
        "query": init_dense(key_query, num_inputs, key_width),
        "key": {"kernel": init_dense(key_key, num_inputs, key_width)["kernel"]},  # a bias would change no weight
        "value": init_dense(key_value, num_inputs, value_width),
    }
