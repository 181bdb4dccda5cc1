"""ResNet-12, the deeper embedding of few-shot learning, with the norm policies and names of `conv4`.

Most results on colour images of 84 or 32 pixels, for which four layers are too few, use it. It is a `Model` like any
other; learners know its layers only by their names (`is_norm`; `is_head` for your own).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from ..bounds import is_real, is_whole
from ..types import Model
from .conv4 import check_images, head
from .norms import Norm, as_model, check_policy
from .primitives import convolution, max_pool

__all__ = ["resnet12", "drop_squares"]


def resnet12(
    num_outputs: int | None,
    *,
    widths: Sequence[int] = (64, 160, 320, 640),
    norm: str = "batch",
    global_pool: bool = True,
    dropout_rate: float = 0.0,
    drop_size: int = 1,
    conv: str = "auto",
    dtype: Any = None,
) -> Model:
    """Build residual blocks of three 3x3 convolutions, leaky ReLU of slope 0.1 and 2x2 max-pooling.

    Args:
      num_outputs: width of the linear head, `params/head`; `None` for no head, the embedding of metric methods.
      widths: channels of the blocks; `(64, 128, 256, 512)` is the other common choice.
      norm: source of the statistics, as for `conv4`.
      global_pool: whether to average the last image; otherwise it is flattened.
      dropout_rate: fraction of every block's output that is dropped, in [0, 1), in calls with a key.
      drop_size: side of the squares that are dropped: 1 is dropout, more is DropBlock (5 is usual).
      conv: form of the convolutions, as for `conv4`.
      dtype: dtype of the activations, as for `conv4`.

    Returns:
      A model of images `[examples, height, width, channels]` with outputs `[examples, num_outputs]`, or `[examples,
      features]` without a head: `widths[-1]` features with `global_pool`.

    Raises:
      ValueError: if a number is out of range or a name unknown; at trace time if the input is not a batch of images, or
        an image is too small to be halved `len(widths)` times.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = resnet12(5, widths=(4, 8))
      >>> params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
      >>> model.apply(params, jnp.zeros((2, 8, 8, 3)), None).shape
      (2, 5)

    Reference:
      Lee, Maji, Ravichandran, Soatto, "Meta-Learning with Differentiable Convex Optimization", 2019, arXiv:1904.03758,
      section 4.1; Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", 2018,
      arXiv:1810.12890, algorithm 1. Differs: the same rate in all blocks, constant over training.
    """
    if not widths or not all(map(is_whole, [*widths, 1 if num_outputs is None else num_outputs])):
        raise ValueError(f"num_outputs={num_outputs}, widths={tuple(widths)}; expected positive numbers")
    if not is_real(dropout_rate, least=0) or dropout_rate >= 1 or not is_whole(drop_size):
        raise ValueError(
            f"dropout_rate={dropout_rate}, drop_size={drop_size}; expected a share in [0, 1) and a positive side"
        )
    check_policy(norm)
    network = _ResNet12(
        num_outputs, tuple(widths), norm, global_pool, dropout_rate, drop_size, convolution(conv), dtype
    )
    return as_model(network, stores_statistics=norm == "support")


class _ResNet12(nn.Module):
    num_outputs: int | None
    widths: tuple[int, ...]
    norm: str
    global_pool: bool
    dropout_rate: float
    drop_size: int
    conv: Callable[..., Array]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool, calibrating: bool) -> Float[Array, "examples features"]:
        check_images(x, smallest=2 ** len(self.widths))
        if self.dtype is not None:
            x = x.astype(self.dtype)
        for i, width in enumerate(self.widths):
            x = _Block(width, self.norm, self.conv, self.dtype, name=f"block_{i}")(x, calibrating=calibrating)
            if self.dropout_rate and not deterministic:
                x = drop_squares(x, self.make_rng("dropout"), rate=self.dropout_rate, size=self.drop_size)
        x = x.mean((1, 2)) if self.global_pool else x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return head(x, self.num_outputs, self.dtype)


class _Block(nn.Module):
    width: int
    norm: str
    conv: Callable[..., Array]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, calibrating: bool) -> Array:
        def convolve(x: Array, size: int, name: str) -> Array:
            x = nn.Conv(
                self.width,
                (size, size),
                use_bias=self.norm not in ("batch", "support"),
                kernel_init=nn.initializers.he_normal(),
                conv_general_dilated=self.conv,
                dtype=self.dtype,
                name=f"conv_{name}",
            )(x)
            return Norm(self.norm, name=f"norm_{name}")(x, calibrating=calibrating)

        shortcut = convolve(x, 1, "shortcut")
        for i in range(3):
            x = convolve(x, 3, str(i))
            if i < 2:
                x = jax.nn.leaky_relu(x, 0.1)
        return jax.nn.leaky_relu(max_pool(x + shortcut), 0.1)  # maximum first: the same, on a quarter of the numbers


def drop_squares(
    x: Float[Array, "examples height width channels"], key: Array, *, rate: float, size: int
) -> Float[Array, "examples height width channels"]:
    """Set squares of `size`x`size` pixels to zero, about a fraction `rate` of every channel, and scale up the rest.

    Squares lie inside the image, and are cut to its size if it is smaller; `size=1` is dropout.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> dropped = drop_squares(jnp.ones((2, 8, 8, 3)), jax.random.key(0), rate=0.2, size=3)
      >>> dropped.shape, bool((dropped == 0).any())
      ((2, 8, 8, 3), True)

    Reference:
      Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", 2018, arXiv:1810.12890,
      algorithm 1.
    """
    examples, height, width, channels = x.shape
    down, across = min(size, height), min(size, width)
    corners = (examples, height - down + 1, width - across + 1, channels)
    # A pixel is kept if none of the squares over it is dropped; the corner rate gives the stated fraction on average.
    corner_rate = rate * height * width / (down * across * corners[1] * corners[2])
    dropped = jax.random.bernoulli(key, min(corner_rate, 1.0), corners).astype(x.dtype)
    border = ((0, 0), (down - 1, down - 1), (across - 1, across - 1), (0, 0))
    kept = 1 - lax.reduce_window(dropped, 0.0, lax.max, (1, down, across, 1), (1, 1, 1, 1), border)
    share = kept.astype(jnp.float32).mean()
    return x * kept / jnp.maximum(share, 1 / kept.size).astype(x.dtype)
