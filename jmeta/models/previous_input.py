"""Sequence models that see each input beside the one before: whole transitions, where a step says only where it led."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import PyTree, RandomKey, SequenceModel


class PreviousInputMemory(NamedTuple):
    """What a model with previous inputs remembers.

    Attributes:
      memory: of the model itself.
      previous: the last input, `[features]`; before the first, learned numbers that begin as zeros.
    """

    memory: PyTree
    previous: Array


def with_previous_input(model: SequenceModel) -> SequenceModel:
    """A sequence model whose every step sees its input and the one before it, `[xₜ, xₜ₋₁]`.

    A step of a policy tells the state arrived in, the action and its reward; the state that was left is in the step
    before. Side by side they are a whole transition, and "what did this action pay in this state?" takes attention one
    layer, not two that must find each other. A recurrent network gains little by it.

    Args:
      model: what sees the pairs.

    Returns:
      A sequence model whose memory is a `PreviousInputMemory`, and whose outputs are the model's.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> model = with_previous_input(models.gru(4))
      >>> params = model.init(jax.random.key(0), jnp.zeros((7, 3)))
      >>> memory, outputs = model.unroll(params, model.start(params), jnp.ones((7, 3)))
      >>> outputs.shape, memory.previous.tolist()
      ((7, 4), [1.0, 1.0, 1.0])

    Reference:
      Olsson et al., "In-context Learning and Induction Heads", 2022, arXiv:2209.11895, "smeared keys": there a mixture
      of keys, here a pair of inputs.
    """

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> dict[str, Any]:
        return {"model": model.init(key, jnp.concatenate([x, x], 1)), "before_first": jnp.zeros(x.shape[1:], x.dtype)}

    def start(params: PyTree) -> PreviousInputMemory:
        return PreviousInputMemory(model.start(params["model"]), params["before_first"])

    def unroll(
        params: PyTree, memory: PreviousInputMemory, x: Float[Array, "steps features"]
    ) -> tuple[PreviousInputMemory, Float[Array, "steps outputs"]]:
        inputs = jnp.concatenate([memory.previous[None], x])
        after, outputs = model.unroll(params["model"], memory.memory, jnp.concatenate([x, inputs[:-1]], 1))
        return PreviousInputMemory(after, inputs[-1]), outputs

    def step(
        params: PyTree, memory: PreviousInputMemory, x: Float[Array, " features"]
    ) -> tuple[PreviousInputMemory, Float[Array, " outputs"]]:
        after, output = model.step(params["model"], memory.memory, jnp.concatenate([x, memory.previous]))
        return PreviousInputMemory(after, x), output

    return SequenceModel(init, start, step, unroll)
