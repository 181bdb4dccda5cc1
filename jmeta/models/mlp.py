"""A multilayer perceptron: the network for regression tasks, for tests, and for any vector inputs.

It stores no statistics, so its `calibrate` is `None`. Learners see it only as a `Model`.
"""

import math
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from jaxtyping import Array, Shaped

from ..bounds import is_real, is_whole
from ..types import Model, PyTree, RandomKey
from .inputs import check_array, of_init

__all__ = ["mlp"]


def mlp(
    features: Sequence[int],
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    dropout_rate: float = 0.0,
) -> Model:
    """Build dense layers with an activation between them; the last one, named `head`, is linear.

    Args:
      features: width of every layer; the last entry is the number of outputs.
      activation: applied after every layer but the last.
      dropout_rate: fraction of hidden units that is dropped, in [0, 1), in calls with a key.

    Returns:
      A model of inputs `[examples, ...]`, which it flattens, with outputs `[examples, features[-1]]`. Its parameters
      are `params/hidden_0/kernel`, `params/hidden_0/bias`, ..., `params/head/kernel`, `params/head/bias`.

    Raises:
      ValueError: if `features` is empty or has a width that is not positive, or `dropout_rate` is not in [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = mlp([40, 40, 1])
      >>> params = model.init(jax.random.key(0), jnp.zeros((5, 1)))
      >>> model.apply(params, jnp.zeros((5, 1)), None).shape
      (5, 1)
    """
    if not features or not all(map(is_whole, features)):
        raise ValueError(f"features={list(features)}; expected the width of at least one layer, all positive")
    if not is_real(dropout_rate, least=0) or dropout_rate >= 1:
        raise ValueError(f"dropout_rate={dropout_rate}; expected a share of units in [0, 1)")
    network = _MLP(tuple(features), activation, dropout_rate)

    def init(key: RandomKey, x: Shaped[Array, "examples ..."]) -> PyTree:
        check_array(x)
        return network.init(key, x, deterministic=True)

    def apply(params: PyTree, x: Shaped[Array, "examples ..."], key: RandomKey | None) -> Array:
        check_array(x)
        rngs = None if key is None else {"dropout": key}
        with of_init(x):
            return network.apply(params, x, deterministic=key is None, rngs=rngs)  # pyright: ignore[reportReturnType]

    return Model(init, apply)


class _MLP(nn.Module):
    features: tuple[int, ...]
    activation: Callable[[Array], Array]
    dropout_rate: float

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))  # not -1: there may be zero examples
        for i, width in enumerate(self.features[:-1]):
            x = self.activation(nn.Dense(width, name=f"hidden_{i}")(x))
            x = nn.Dropout(self.dropout_rate, deterministic=deterministic)(x)
        return nn.Dense(self.features[-1], name="head")(x)
