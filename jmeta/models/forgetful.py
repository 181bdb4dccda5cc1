"""A sequence model that remembers nothing: the baseline for policies with memory."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Model, PyTree, RandomKey, SequenceModel

__all__ = ["forgetful"]


def forgetful(model: Model, *, num_features: int | None = None) -> SequenceModel:
    """Build a network of the current step alone, in place of a memory.

    Args:
      model: maps a step's features to outputs, which then pass through a tanh.
      num_features: number of leading features that the network sees; all if not given. A policy's features begin with
        the observation, so a baseline without any adaptation can exclude rewards.

    Returns:
      A sequence model whose memory is empty.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> sequence_model = forgetful(models.mlp([16]), num_features=2)
      >>> params = sequence_model.init(jax.random.key(0), jnp.zeros((7, 3)))
      >>> memory, outputs = sequence_model.unroll(params, sequence_model.start(params), jnp.zeros((7, 3)))
      >>> memory, outputs.shape
      ((), (7, 16))
    """

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> PyTree:
        return model.init(key, x[:, :num_features])

    def start(params: PyTree) -> tuple[()]:
        del params
        return ()

    def unroll(params: PyTree, memory: PyTree, x: Float[Array, "steps features"]) -> tuple[PyTree, Array]:
        return memory, jnp.tanh(model.apply(params, x[:, :num_features], None))

    def step(params: PyTree, memory: PyTree, x: Float[Array, " features"]) -> tuple[PyTree, Array]:
        memory, outputs = unroll(params, memory, x[None])
        return memory, outputs[0]

    return SequenceModel(init, start, step, unroll)
