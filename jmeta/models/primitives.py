"""Convolution and pooling in the forms that are fast, and right, where every task has its own weights.

The networks of this package, and other people's Flax modules through `nn.Conv(conv_general_dilated=patch_conv)`, are
made of these. A form is chosen when a network is built; all forms agree in value, gradient and second derivative. On a
CPU, XLA's own convolution costs 5 to 16 times the meta-gradient step of `patch_conv`: under `vmap` over per-task
weights it becomes a grouped convolution, and inside `lax.scan` its weight gradient leaves the fast path.

Max-pooling deliberately avoids `x.reshape(...).max(...)`, whose gradient looks for the elements that *equal* the
maximum: XLA recomputes `x` in another fusion with another rounding, and under `jit` the search finds none or the wrong
number of them. Meta-gradients then come out 8 to 80 % wrong, or NaN, without a warning.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_NHWC = lax.ConvDimensionNumbers(lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2))


def convolution(form: str = "auto") -> Callable[..., Array]:
    """The convolution to build a network with, as `nn.Conv(conv_general_dilated=convolution(form))`.

    Args:
      form: `"patches"`, gathered patches and one matrix product; `"xla"`, the compiler's own convolution; or `"auto"`,
        patches where JAX's default backend is a CPU at the time of the call, and the compiler's elsewhere.

    Returns:
      A function with the signature of `jax.lax.conv_general_dilated`.

    Raises:
      ValueError: if `form` is none of these.

    Example:
      >>> convolution("patches") is patch_conv
      True
    """
    if form not in ("auto", "patches", "xla"):
        raise ValueError(f"conv={form!r}; expected 'auto', 'patches' or 'xla'")
    if form == "auto":
        form = "patches" if jax.default_backend() == "cpu" else "xla"
    return patch_conv if form == "patches" else lax.conv_general_dilated


def patch_conv(
    lhs: Float[Array, "examples height width channels"],
    rhs: Float[Array, "kernel_height kernel_width channels filters"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Float[Array, "examples new_height new_width filters"]:
    """A convolution as gathered patches and one matrix product.

    It has the signature of `jax.lax.conv_general_dilated`, so `flax.linen.Conv` and `flax.nnx.Conv` take it as their
    `conv_general_dilated`. Under `vmap` over per-task weights the product becomes a batched matrix product.

    Args:
      lhs: images.
      rhs: the kernel.
      window_strides: step of the window along height and width.
      padding: `"SAME"`, `"VALID"`, or `(before, after)` for height and width.
      lhs_dilation, rhs_dilation: only 1 is supported.
      dimension_numbers: only `("NHWC", "HWIO", "NHWC")` is supported; `None` means another layout to `jax.lax`, so it
        is refused.
      feature_group_count, batch_group_count: only 1 is supported.
      precision, preferred_element_type: as for `jax.lax.dot_general`.
      out_sharding: only `None` is supported.

    Raises:
      ValueError: for anything that is not supported.

    Example:
      >>> import jax.numpy as jnp
      >>> images, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 8))
      >>> patch_conv(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")).shape
      (2, 4, 4, 8)
    """
    _check_supported(lhs, rhs, dimension_numbers, feature_group_count, batch_group_count, out_sharding)
    for name, dilation in (("lhs_dilation", lhs_dilation), ("rhs_dilation", rhs_dilation)):
        if dilation is not None and any(rate != 1 for rate in dilation):
            raise ValueError(f"patch_conv got {name}={tuple(dilation)}; it does not dilate, use conv='xla' instead")
    kernel_height, kernel_width, channels, filters = rhs.shape
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    down, across = window_strides
    padded = jnp.pad(lhs, ((0, 0), tuple(padding[0]), tuple(padding[1]), (0, 0)))
    height = (padded.shape[1] - kernel_height) // down + 1
    width = (padded.shape[2] - kernel_width) // across + 1
    if height < 1 or width < 1:
        raise ValueError(f"images of {lhs.shape[1:3]} pixels are smaller than the kernel of {rhs.shape[:2]}; pad them")
    slices = [
        padded[:, i : i + (height - 1) * down + 1 : down, j : j + (width - 1) * across + 1 : across]
        for i in range(kernel_height)
        for j in range(kernel_width)
    ]
    # Two-dimensional, since XLA's matrix product of a 4-D operand is slower, above all under vmap.
    patches = jnp.concatenate(slices, -1).reshape(-1, kernel_height * kernel_width * channels)
    kernel = rhs.reshape(-1, filters)
    outputs = jnp.matmul(patches, kernel, precision=precision, preferred_element_type=preferred_element_type)
    return outputs.reshape(lhs.shape[0], height, width, filters)


def max_pool(
    x: Float[Array, "examples height width channels"], form: str = "select"
) -> Float[Array, "examples half_height half_width channels"]:
    """The maximum of every 2x2 square, at stride 2; an odd last row or column is left out.

    Of equal elements the first one, row by row, takes the whole gradient. NaN wins against any number.

    Args:
      x: images.
      form: `"select"`, three elementwise choices; `"window"`, `lax.reduce_window`, which costs 1.5 (under `scan` over
        tasks) to 2.2 times (under `vmap`) the meta-gradient step of conv4 on a CPU.

    Raises:
      ValueError: if `form` is neither, or an image has less than 2 rows or columns.

    Example:
      >>> import jax.numpy as jnp
      >>> max_pool(jnp.arange(9.0).reshape(1, 3, 3, 1))[0, 0, 0]
      Array([4.], dtype=float32)
    """
    examples, height, width, channels = x.shape
    if height < 2 or width < 2:
        raise ValueError(f"max_pool got images of {height}x{width} pixels; it needs 2x2, so use larger images")
    if form == "window":
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    if form != "select":
        raise ValueError(f"form={form!r}; expected 'select' or 'window'")
    height, width = height // 2, width // 2
    squares = x[:, : 2 * height, : 2 * width].reshape(examples, height, 2, width, 2, channels)
    upper = _larger(squares[:, :, 0, :, 0], squares[:, :, 0, :, 1])
    lower = _larger(squares[:, :, 1, :, 0], squares[:, :, 1, :, 1])
    return _larger(upper, lower)


def _larger(a: Array, b: Array) -> Array:
    """The larger one, `a` when equal, NaN if there is one. Its gradient compares the two, never one with the result."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def _check_supported(
    lhs: Array, rhs: Array, dimension_numbers: Any, feature_group_count: int, batch_group_count: int, out_sharding: Any
) -> None:
    if lhs.ndim != 4 or lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) != _NHWC:
        raise ValueError(
            f"patch_conv got an input of shape {lhs.shape} and dimension_numbers={dimension_numbers}; it supports "
            "two-dimensional images in the layout ('NHWC', 'HWIO', 'NHWC') only, use conv='xla' for others"
        )
    if feature_group_count != 1 or batch_group_count != 1:
        raise ValueError(
            f"patch_conv got feature_group_count={feature_group_count} and batch_group_count={batch_group_count}; it "
            "has no groups, use conv='xla' for grouped or depthwise convolutions"
        )
    if out_sharding is not None:
        raise ValueError("patch_conv got an out_sharding; it leaves sharding to the compiler, pass None")
