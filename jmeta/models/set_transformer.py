"""A transformer over sets: tokens that remember each other, and tokens that only read what is remembered.

In-context learners are made of it. A support is encoded once, into the keys and values of every layer; queries read
them, and neither the support nor another query sees a query. Positions are unknown, so the order of a set is, too.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..tasks.class_arrays import check_positive
from ..types import PyTree, RandomKey
from .attention import Attend, apply_block, attend, check_num_heads, init_block, init_norm, norm, split_heads

__all__ = ["SetMemory", "SetTransformer", "set_transformer"]


class SetMemory(NamedTuple):
    """The tokens that a set transformer remembers.

    Attributes:
      keys: keys of each layer, `[heads, tokens, features]`.
      values: values of each layer, of the same shape.
      is_real: which tokens are not padding, `[tokens]`.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    is_real: Bool[Array, "tokens"]


class SetTransformer(NamedTuple):
    """A transformer over sets, as four pure functions; the memory is a value that is passed from call to call.

    Attributes:
      width: numbers in a token and in an output.
      init: `key -> params`.
      start: `params -> memory`, the memory of an empty set. It holds one learned token, so that there is something to
        read.
      extend: `(params, memory, tokens, is_real, is_visible | None) -> memory`, which remembers `[tokens, width]` more.
        They see the memory and each other: all, or what `is_visible`, `[tokens, tokens]`, lets the one of a row see.
        Those remembered before do not change.
      read: `(params, memory, tokens, is_visible | None) -> outputs`, one `[width]` for each of `[tokens, width]`, which
        see the memory alone: all of it, or what `is_visible`, `[tokens, remembered]`, lets them.
    """

    width: int
    init: Callable[[RandomKey], PyTree]
    start: Callable[[PyTree], SetMemory]
    extend: Callable[[PyTree, SetMemory, Array, Array, Array | None], SetMemory]
    read: Callable[[PyTree, SetMemory, Array, Array | None], Array]


def set_transformer(*, width: int, num_layers: int, num_heads: int, attend: Attend = attend) -> SetTransformer:
    """Build a transformer over sets, of pre-norm blocks, h ← h + attention(norm(h)), h ← h + mlp(norm(h)).

    Args:
      width: numbers in a token.
      num_layers: number of blocks.
      num_heads: number of attention heads; a divisor of `width`.
      attend: `attention.attend`, with a softmax, or `attention.attend_linearly`.

    Raises:
      ValueError: if a number is not positive, or `num_heads` does not divide `width`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> transformer = models.set_transformer(width=16, num_layers=2, num_heads=4)
      >>> params = transformer.init(jax.random.key(0))
      >>> is_real = jnp.array([True, True, False])
      >>> memory = transformer.extend(params, transformer.start(params), jnp.ones((3, 16)), is_real, None)
      >>> transformer.read(params, memory, jnp.zeros((7, 16)), None).shape
      (7, 16)

    Reference:
      Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; Lee et al., "Set Transformer: A Framework for
      Attention-based Permutation-Invariant Neural Networks", 2018, arXiv:1810.00825. Differs from the latter: there are
      no inducing points, and norms come before the branches.
    """
    check_positive({"width": width, "num_layers": num_layers, "num_heads": num_heads})
    check_num_heads(num_heads, width)
    layers = [f"block_{i}" for i in range(num_layers)]

    def init(key: RandomKey) -> PyTree:
        key_start, *keys = jax.random.split(key, 1 + num_layers)
        blocks = {name: init_block(key, width, num_layers) for name, key in zip(layers, keys, strict=True)}
        return {"start": jax.random.normal(key_start, (width,), jnp.float32), **blocks, "norm": init_norm(width)}

    def start(params: PyTree) -> SetMemory:
        nothing = (jnp.zeros((num_heads, 0, width // num_heads), params["start"].dtype),) * num_layers
        memory = SetMemory(nothing, nothing, jnp.zeros((0,), bool))
        return extend(params, memory, params["start"][None], jnp.ones((1,), bool), None)

    def extend(
        params: PyTree,
        memory: SetMemory,
        tokens: Float[Array, "tokens width"],
        is_real: Bool[Array, "tokens"],
        is_visible: Bool[Array, "tokens tokens"] | None,
    ) -> SetMemory:
        num_new, num_past = tokens.shape[0], memory.is_real.shape[0]
        among = jnp.ones((num_new, num_new), bool) if is_visible is None else is_visible
        together = jnp.concatenate([memory.is_real, is_real])
        visible = jnp.concatenate([jnp.ones((num_new, num_past), bool), among], 1) & together[None]
        keys, values, h = [], [], tokens.astype(params["start"].dtype)
        for name, past_keys, past_values in zip(layers, memory.keys, memory.values, strict=True):
            queries, new_keys, new_values = split_heads(params[name], h, num_heads)
            keys.append(jnp.concatenate([past_keys, new_keys], 1))
            values.append(jnp.concatenate([past_values, new_values], 1))
            h = apply_block(params[name], h, attend(queries, keys[-1], values[-1], visible))
        return SetMemory(tuple(keys), tuple(values), together)

    def read(
        params: PyTree,
        memory: SetMemory,
        tokens: Float[Array, "tokens width"],
        is_visible: Bool[Array, "tokens remembered"] | None,
    ) -> Float[Array, "tokens width"]:
        visible = jnp.broadcast_to(memory.is_real[None], (tokens.shape[0], memory.is_real.shape[0]))
        visible = visible if is_visible is None else visible & is_visible
        h = tokens.astype(params["start"].dtype)
        for name, keys, values in zip(layers, memory.keys, memory.values, strict=True):
            queries, _, _ = split_heads(params[name], h, num_heads)
            h = apply_block(params[name], h, attend(queries, keys, values, visible))
        return norm(params["norm"], h)

    return SetTransformer(width, init, start, extend, read)
