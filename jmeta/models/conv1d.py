"""A convolutional network over positions on a line: for grids, signals and time series of one dimension.

Its outputs have the positions of its inputs, so it maps one function on a grid to another, as
`learners.convolutional_neural_process` needs. It is a `Model` like any other.
"""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from ..tasks.class_arrays import check_positive
from ..types import Model, PyTree, RandomKey
from .primitives import convolution

__all__ = ["conv1d"]


def conv1d(
    features: Sequence[int],
    *,
    kernel_size: int = 5,
    activation: Callable[[Array], Array] = jax.nn.relu,
    conv: str = "auto",
) -> Model:
    """Build convolutions of stride 1 with an activation between them; the last one, named `head`, is linear.

    Zeros continue the input beyond both ends. An output depends on `len(features) * (kernel_size - 1) + 1` positions,
    half of them on each side.

    Args:
      features: channels of every layer; the last entry is the number of outputs at each position.
      kernel_size: positions under a kernel, odd.
      activation: applied after every layer but the last.
      conv: form of the convolutions, as for `conv4`.

    Returns:
      A model of inputs `[examples, positions, channels]`, with outputs `[examples, positions, features[-1]]`. Its
      parameters are `params/conv_0/kernel`, `params/conv_0/bias`, ..., `params/head/kernel`, `params/head/bias`.

    Raises:
      ValueError: if `features` is empty, a number is not positive, `kernel_size` is even or `conv` is unknown; at trace
        time if the input has not three axes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> model = models.conv1d([16, 16, 4])
      >>> params = model.init(jax.random.key(0), jnp.zeros((2, 30, 1)))
      >>> model.apply(params, jnp.zeros((2, 30, 1)), None).shape
      (2, 30, 4)
    """
    if not features:
        raise ValueError("features=[]; expected the channels of at least one layer")
    check_positive({"kernel_size": kernel_size, **{f"features[{i}]": width for i, width in enumerate(features)}})
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size}; expected an odd number, so that outputs keep their positions")
    network = _Conv1d(tuple(features), kernel_size, activation, convolution(conv))

    def init(key: RandomKey, x: Float[Array, "examples positions channels"]) -> PyTree:
        return network.init(key, x)

    def apply(
        params: PyTree, x: Float[Array, "examples positions channels"], key: RandomKey | None
    ) -> Float[Array, "examples positions outputs"]:
        del key
        return network.apply(params, x)  # pyright: ignore[reportReturnType]

    return Model(init, apply)


class _Conv1d(nn.Module):
    features: tuple[int, ...]
    kernel_size: int
    activation: Callable[[Array], Array]
    conv: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.ndim != 3:
            raise ValueError(f"expected an input [examples, positions, channels], but it has shape {list(x.shape)}")
        x = x[:, None]  # images of one row, which every form of the convolution supports
        for i, width in enumerate(self.features):
            is_last = i == len(self.features) - 1
            name = "head" if is_last else f"conv_{i}"
            x = nn.Conv(width, (1, self.kernel_size), conv_general_dilated=self.conv, name=name)(x)
            x = x if is_last else self.activation(x)
        return x[:, 0]
