"""Convolutional networks whose outputs have the positions of their inputs: on a line, or in an image.

They map one function on a grid to another, as `learners.convolutional_neural_process` and its kin on images need. Each
is a `Model` like any other.
"""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from ..tasks.class_arrays import check_positive
from ..types import Model, PyTree, RandomKey
from .primitives import convolution

__all__ = ["conv1d", "conv2d"]


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
    of_image = _of_images(features, (1, kernel_size), activation, conv)

    def as_images(x: Float[Array, "examples positions channels"]) -> Float[Array, "examples 1 positions channels"]:
        if x.ndim != 3:
            raise ValueError(f"expected an input [examples, positions, channels], but it has shape {list(x.shape)}")
        return x[:, None]  # images of one row, which every form of the convolution supports

    def init(key: RandomKey, x: Float[Array, "examples positions channels"]) -> PyTree:
        return of_image.init(key, as_images(x))

    def apply(
        params: PyTree, x: Float[Array, "examples positions channels"], key: RandomKey | None
    ) -> Float[Array, "examples positions outputs"]:
        return of_image.apply(params, as_images(x), key)[:, 0]

    return Model(init, apply)


def conv2d(
    features: Sequence[int],
    *,
    kernel_size: int = 5,
    activation: Callable[[Array], Array] = jax.nn.relu,
    conv: str = "auto",
) -> Model:
    """Build convolutions of images, of stride 1, with an activation between them; the last one, `head`, is linear.

    It is `conv1d` with square kernels of `kernel_size` by `kernel_size` pixels.

    Returns:
      A model of inputs `[examples, height, width, channels]`, with outputs `[examples, height, width, features[-1]]`.

    Raises:
      ValueError: as `conv1d`; at trace time if the input has not four axes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> model = models.conv2d([16, 16, 4], kernel_size=3)
      >>> params = model.init(jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
      >>> model.apply(params, jnp.zeros((2, 28, 28, 1)), None).shape
      (2, 28, 28, 4)
    """
    return _of_images(features, (kernel_size, kernel_size), activation, conv)


def _of_images(
    features: Sequence[int], kernel_size: tuple[int, int], activation: Callable[[Array], Array], conv: str
) -> Model:
    if not features:
        raise ValueError("features=[]; expected the channels of at least one layer")
    check_positive({"kernel_size": kernel_size[1], **{f"features[{i}]": width for i, width in enumerate(features)}})
    if kernel_size[1] % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size[1]}; expected an odd number, so that outputs keep their positions")
    network = _SameSize(tuple(features), kernel_size, activation, convolution(conv))

    def init(key: RandomKey, x: Float[Array, "examples height width channels"]) -> PyTree:
        return network.init(key, x)

    def apply(
        params: PyTree, x: Float[Array, "examples height width channels"], key: RandomKey | None
    ) -> Float[Array, "examples height width outputs"]:
        del key
        return network.apply(params, x)  # pyright: ignore[reportReturnType]

    return Model(init, apply)


class _SameSize(nn.Module):
    features: tuple[int, ...]
    kernel_size: tuple[int, int]
    activation: Callable[[Array], Array]
    conv: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.ndim != 4:
            raise ValueError(f"expected an input [examples, height, width, channels], but it has shape {list(x.shape)}")
        for i, width in enumerate(self.features):
            is_last = i == len(self.features) - 1
            name = "head" if is_last else f"conv_{i}"
            x = nn.Conv(width, self.kernel_size, conv_general_dilated=self.conv, name=name)(x)
            x = x if is_last else self.activation(x)
        return x
