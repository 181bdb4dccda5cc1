"""A causal transformer as a sequence model: every step looks at itself and at all steps before it.

Its memory is a cache of keys and values of fixed shape, so a single step costs one row of attention, and a sequence can
continue from any memory. The same code serves both: a step is a sequence of one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..tasks.class_arrays import check_positive
from ..types import PyTree, RandomKey, SequenceModel
from .attention import apply_block, attend, check_num_heads, init_block, init_norm, norm, split_heads
from .dense import dense, init_dense

__all__ = ["KeyValueCache", "causal_transformer"]


class KeyValueCache(NamedTuple):
    """The memory of a causal transformer.

    Attributes:
      keys: keys of each layer, `[heads, max_steps, features]`; steps not seen yet are zeros.
      values: values of each layer, of the same shape.
      num_seen: int32, steps seen so far.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    num_seen: Int[Array, ""]


def causal_transformer(*, width: int, num_layers: int, num_heads: int, max_steps: int) -> SequenceModel:
    """Build a transformer of pre-norm blocks, h ← h + attention(norm(h)), h ← h + mlp(norm(h)), with learned positions.

    Norms come before the branches and leave the residual path free, as in GTrXL. The residual sum itself is plain and
    not gated: the last product of a branch is small at first, by (2 · layers)^-½, so a new network is nearly the
    identity. GTrXL's gates do the same, but need six matrices per sum.

    Args:
      width: numbers in each output, and along the residual path.
      num_layers: number of blocks.
      num_heads: number of attention heads; a divisor of `width`.
      max_steps: steps that can be remembered, those of memory and sequence together. Later steps have no position, and
        their outputs are NaN: `meta_trainer` sees a loss that is not finite and skips it, but would not notice outputs
        with wrong positions.

    Returns:
      A sequence model whose memory is a `KeyValueCache`, and whose outputs are `[steps, width]`.

    Raises:
      ValueError: if a number is not positive, or `num_heads` does not divide `width`; at trace time if a sequence is
        longer than `max_steps`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.models.causal_transformer import causal_transformer
      >>> model = causal_transformer(width=16, num_layers=2, num_heads=4, max_steps=10)
      >>> params = model.init(jax.random.key(0), jnp.zeros((7, 3)))
      >>> memory, outputs = model.unroll(params, model.start(params), jnp.zeros((7, 3)))
      >>> outputs.shape, int(memory.num_seen)
      ((7, 16), 7)

    Reference:
      Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; Radford et al., "Language Models are
      Unsupervised Multitask Learners", 2019, section 2.3 (norms, and the scale of branches); Parisotto et al.,
      "Stabilizing Transformers for Reinforcement Learning", 2019, arXiv:1910.06764, section 3.2.
    """
    check_positive({"width": width, "num_layers": num_layers, "num_heads": num_heads, "max_steps": max_steps})
    check_num_heads(num_heads, width)
    layers = [f"block_{i}" for i in range(num_layers)]

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> PyTree:
        key_input, key_positions, *keys = jax.random.split(key, 2 + num_layers)
        blocks = {name: init_block(key, width, num_layers) for name, key in zip(layers, keys, strict=True)}
        return {
            "input": init_dense(key_input, x.shape[-1], width),
            "positions": 0.02 * jax.random.normal(key_positions, (max_steps, width), jnp.float32),
            **blocks,
            "norm": init_norm(width),
        }

    def start(params: PyTree) -> KeyValueCache:
        empty = (jnp.zeros((num_heads, max_steps, width // num_heads), params["positions"].dtype),) * num_layers
        return KeyValueCache(empty, empty, jnp.zeros((), jnp.int32))

    def unroll(
        params: PyTree, memory: KeyValueCache, x: Float[Array, "steps features"]
    ) -> tuple[KeyValueCache, Float[Array, "steps width"]]:
        num_steps = x.shape[0]
        if num_steps > max_steps:
            raise ValueError(
                f"a sequence of {num_steps} steps, but max_steps={max_steps}; build the transformer with more"
            )
        at = memory.num_seen + jnp.arange(num_steps, dtype=jnp.int32)
        is_visible = jnp.arange(max_steps, dtype=jnp.int32)[None, :] <= at[:, None]
        h = dense(params["input"], x.astype(params["positions"].dtype))
        h = h + jnp.take(params["positions"], at, axis=0, mode="clip")
        keys, values = [], []
        for name, past_keys, past_values in zip(layers, memory.keys, memory.values, strict=True):
            queries, new_keys, new_values = split_heads(params[name], h, num_heads)
            keys.append(_written(past_keys, new_keys, memory.num_seen))
            values.append(_written(past_values, new_values, memory.num_seen))
            h = apply_block(params[name], h, attend(queries, keys[-1], values[-1], is_visible))
        outputs = jnp.where((at < max_steps)[:, None], norm(params["norm"], h), jnp.nan)
        return KeyValueCache(tuple(keys), tuple(values), memory.num_seen + num_steps), outputs

    def step(
        params: PyTree, memory: KeyValueCache, x: Float[Array, " features"]
    ) -> tuple[KeyValueCache, Float[Array, " width"]]:
        memory, outputs = unroll(params, memory, x[None])
        return memory, outputs[0]

    return SequenceModel(init, start, step, unroll)


def _written(
    past: Float[Array, "heads max_steps features"], new: Float[Array, "heads steps features"], at: Int[Array, ""]
) -> Float[Array, "heads max_steps features"]:
    """Return the cache with new rows from `at` on, without those that do not fit."""
    rows = at + jnp.arange(new.shape[1], dtype=jnp.int32)
    return past.at[:, rows].set(new, mode="drop", unique_indices=True, indices_are_sorted=True)
