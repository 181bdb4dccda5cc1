"""The four-layer convolutional network of few-shot learning, with its head or as an embedding.

Nearly every few-shot paper reports results with it. It is a `Model` like any other; learners know its layers only by
their names (`is_norm`; `is_head` for your own).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from ..bounds import is_whole
from ..chunks import chunk_of, map_chunks
from ..types import Model
from .norms import Norm, as_model, check_policy
from .primitives import convolution, max_pool, patch_conv

__all__ = ["conv4", "check_images", "head"]


def conv4(
    num_outputs: int | None,
    *,
    num_filters: int = 64,
    norm: str = "batch",
    pooling: str = "max",
    conv: str = "auto",
    num_context: int = 0,
    dtype: Any = None,
) -> Model:
    """Build four blocks of 3x3 convolution, normalisation, halving of the image and ReLU.

    Kernels start with Glorot's uniform distribution; the norm's epsilon is 10⁻³. A convolution before a norm over
    examples has no bias, which such a norm would cancel. The maximum is taken before the ReLU: the same function, on a
    quarter of the elements.

    Args:
      num_outputs: width of the linear head, `params/head`; `None` for no head, the embedding of metric methods.
      num_filters: channels of every block.
      norm: source of the statistics: `"batch"`, the examples of the call (transductive on a query); `"support"`, stored
        by `calibrate`; `"group"`, `"layer"`, single examples; or `"none"`. See `jmeta.models.norms`.
      pooling: `"max"`, 2x2 maxima that leave out odd borders; or `"strided"`, convolutions of stride 2.
      conv: form of the convolutions: `"patches"`, fast on CPUs, above all where weights differ between tasks; `"xla"`;
        or `"auto"`, chosen at once by JAX's default backend, and on accelerators by the card (`jmeta.accelerators`).
      num_context: number of channels at the end of the input that hold not an image but a context, the same at every
        pixel, as `learners.cavia` appends it. Linear maps of the context, `params/film_0` to `film_3`, scale and shift
        the feature maps after each norm (FiLM, "feature-wise linear modulation"); a context of zeros changes nothing.
      dtype: dtype of the activations, such as `jax.numpy.bfloat16`; parameters, statistics and outputs stay float32.
        `None` uses that of the parameters and inputs.

    Returns:
      A model of images `[examples, height, width, channels]` with outputs `[examples, num_outputs]`, or `[examples,
      features]` without a head: for 28x28 pixels these are `num_filters` features, or `4 * num_filters` if strided.

    Raises:
      ValueError: if a number is not positive (`num_context`: is negative) or a name unknown; at trace time if the input
        is not a batch of images, too small for four halvings (16x16 pixels with `pooling="max"`), or all context.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = conv4(5, num_filters=8)
      >>> params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
      >>> model.apply(params, jnp.zeros((2, 28, 28, 1)), None).shape
      (2, 5)

    Reference:
      Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, "Matching Networks for One Shot Learning", 2016,
      arXiv:1606.04080, section 4.1. Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
      Networks", 2017, arXiv:1703.03400, section 5.2, uses strides and averages the last image, where this flattens it.
      The context: Perez, Strub, de Vries, Dumoulin, Courville, "FiLM: Visual Reasoning with a General Conditioning
      Layer", 2018, arXiv:1709.07871, eq. 2, as Zintgraf et al., 2019, arXiv:1810.03642, use it for images.
    """
    for name, number in (("num_outputs", 1 if num_outputs is None else num_outputs), ("num_filters", num_filters)):
        if not is_whole(number):
            raise ValueError(f"{name}={number}; expected a positive number")
    if pooling not in ("max", "strided"):
        raise ValueError(f"pooling={pooling!r}; expected 'max' or 'strided'")
    if not is_whole(num_context, least=0):
        raise ValueError(f"num_context={num_context}; expected the number of context channels, 0 for none")
    check_policy(norm)
    network = _Conv4(num_outputs, num_filters, norm, pooling, convolution(conv), num_context, dtype)
    return as_model(network, stores_statistics=norm == "support")


class _Conv4(nn.Module):
    num_outputs: int | None
    num_filters: int
    norm: str
    pooling: str
    conv: Callable[..., Array]
    num_context: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool, calibrating: bool) -> Float[Array, "examples features"]:
        del deterministic
        check_images(x, smallest=16 if self.pooling == "max" else 1)
        if self.dtype is not None:
            x = x.astype(self.dtype)
        x, context = self._without_context(x)
        for i in range(4):
            chunk = self._chunk(x)
            if chunk < x.shape[0]:
                x = self._block_in_chunks(x, i, chunk, calibrating)
                continue
            x = nn.Conv(
                self.num_filters,
                (3, 3),
                strides=2 if self.pooling == "strided" else 1,
                use_bias=self.norm not in ("batch", "support"),
                kernel_init=nn.initializers.glorot_uniform(),
                conv_general_dilated=self.conv,
                dtype=self.dtype,
                name=f"conv_{i}",
            )(x)
            x = Norm(self.norm, name=f"norm_{i}")(x, calibrating=calibrating)
            if self.num_context:
                film = nn.Dense(2 * self.num_filters, dtype=self.dtype, name=f"film_{i}")(context)
                scale, shift = jnp.split(film[:, None, None, :], 2, axis=-1)
                x = x * (1 + scale) + shift
            x = jax.nn.relu(max_pool(x) if self.pooling == "max" else x)
        return head(x.reshape(x.shape[0], math.prod(x.shape[1:])), self.num_outputs, self.dtype)

    def _chunk(self, x: Array) -> int:
        """Return how many images to take through a block at once: all, unless to compute their maps again is cheap.

        It is in a first block, whose patches hold fewer numbers than its maps.
        """
        images, height, width, channels = x.shape
        is_plain = self.pooling == "max" and self.norm in ("batch", "support") and not self.num_context
        if not is_plain or self.conv is not patch_conv or 9 * channels >= self.num_filters:
            return images
        return chunk_of(images, height * width * self.num_filters * x.dtype.itemsize)

    def _block_in_chunks(self, x: Array, i: int, chunk: int, calibrating: bool) -> Array:
        """Compute a block without keeping its maps: once for their moments, and once for the maxima."""
        kernel = _Kernel(self.num_filters, name=f"conv_{i}")(x.shape[-1])
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        wide = jnp.promote_types(x.dtype, jnp.float32)

        def convolve(images: Array) -> Array:
            maps = patch_conv(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return maps.astype(wide)

        def moments() -> tuple[Array, Array]:
            mean = convolve(x.mean(0, keepdims=True)).mean(
                (0, 1, 2), keepdims=True
            )  # the maps are linear in the images
            squares = map_chunks(
                lambda images: jnp.square(convolve(images) - mean).mean((0, 1, 2), keepdims=True), x, chunk
            )
            return mean, squares.mean(0)

        factor, shift = Norm(self.norm, name=f"norm_{i}").affine(self.num_filters, moments, calibrating=calibrating)
        maxima = map_chunks(lambda images: jax.nn.relu(max_pool(convolve(images) * factor + shift)), x, chunk)
        return maxima.reshape(x.shape[0], *maxima.shape[2:]).astype(x.dtype)

    def _without_context(self, x: Array) -> tuple[Array, Float[Array, "examples num_context"]]:
        channels = x.shape[-1] - self.num_context
        if channels < 1:
            raise ValueError(
                f"the input has {x.shape[-1]} channels, and num_context={self.num_context} of them are context, which "
                "leaves no image; append the context to the image's own channels, as `learners.cavia` does"
            )
        return x[..., :channels], x[:, 0, 0, channels:]


class _Kernel(nn.Module):
    """The kernel of a 3x3 convolution, named and initialised as that of `nn.Conv`."""

    num_filters: int

    @nn.compact
    def __call__(self, channels: int) -> Float[Array, "3 3 channels num_filters"]:
        shape = (3, 3, channels, self.num_filters)
        return self.param("kernel", nn.initializers.glorot_uniform(), shape, jnp.float32)


def check_images(x: Array, *, smallest: int) -> None:
    """Raise `ValueError` unless `x` is a batch of images of at least `smallest` rows and columns."""
    if x.ndim != 4 or min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"expected images [examples, height, width, channels] of at least {smallest}x{smallest} pixels, but the "
            f"input has shape {x.shape}; add the axis of channels, or use larger images or other pooling"
        )


def head(x: Float[Array, "examples features"], num_outputs: int | None, dtype: Any) -> Float[Array, "examples outputs"]:
    """Apply the linear output layer named `head`, if there is one; narrower activations give float32 outputs."""
    if num_outputs is not None:
        x = nn.Dense(num_outputs, kernel_init=nn.initializers.glorot_uniform(), dtype=dtype, name="head")(x)
    return x if dtype is None else x.astype("float32")
