"""A recipe's network before the method has said what comes out of it."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from configs import parts
from jmeta import Model, models


class Network(NamedTuple):
    """Makes models of one kind, with a head or without.

    Example:
      >>> network = Network(parts.Mlp(hidden=(16, 8)))
      >>> embedding, classifier = network.embedding(), network.with_head(5)
    """

    part: parts.Network

    def embedding(self) -> Model:
        """Without a head: outputs are features."""
        return self._model(None)

    def with_head(self, num_outputs: int, *, num_context: int = 0) -> Model:
        """With a linear head, and reading `num_context` channels at the end of the input as CAVIA's context."""
        return self._model(num_outputs, num_context)

    def _model(self, num_outputs: int | None, num_context: int = 0) -> Model:
        match self.part:
            case parts.Mlp(hidden):
                return models.mlp(hidden if num_outputs is None else (*hidden, num_outputs))
            case parts.Conv4(num_filters, pooling, norm, dtype):
                return models.conv4(
                    num_outputs,
                    num_filters=num_filters,
                    pooling=pooling,
                    norm=norm,
                    num_context=num_context,
                    dtype=_dtype(dtype),
                )
            case parts.Resnet12(widths, norm, dropout_rate, drop_size, dtype):
                return models.resnet12(
                    num_outputs,
                    widths=widths,
                    norm=norm,
                    dropout_rate=dropout_rate,
                    drop_size=drop_size,
                    dtype=_dtype(dtype),
                )
            case parts.Recurrent() | parts.Transformer() | parts.Snail() | parts.Forgetful():
                raise ValueError("a network with memory is for methods that act, such as Rl2; choose an Mlp or a Conv4")


def _dtype(name: parts.Dtype) -> Any:
    """Of activations; none for float32, which then are as wide as the parameters."""
    return jnp.bfloat16 if name == "bfloat16" else None
