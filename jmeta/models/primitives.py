"""Convolution and pooling in the forms that are fast and correct where every task has its own weights.

The networks of this package, and other Flax modules with `nn.Conv(conv_general_dilated=patch_conv)`, are built from
these. A form is chosen when a network is built; all forms agree in value, gradient and second derivative. On a CPU, a
meta-gradient step with XLA's own convolution costs many times one with `patch_conv` (BENCHMARKS.md): under `vmap` over
per-task weights it becomes a grouped convolution, and inside `lax.scan` its weight gradient leaves the fast path.

Max-pooling deliberately avoids `x.reshape(...).max(...)`, whose gradient searches for the elements that *equal* the
maximum: XLA recomputes `x` in another fusion with another rounding, and under `jit` the search finds none or the wrong
number of them. Meta-gradients are then wrong by 8 to 80 %, or NaN, without a warning.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..accelerators import choice
from ..chunks import chunk_of, map_chunks

__all__ = ["convolution", "patch_conv", "max_pool"]

_NHWC = lax.ConvDimensionNumbers(lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2))


def convolution(form: str = "auto") -> Callable[..., Array]:
    """Choose the convolution to build a network with, as `nn.Conv(conv_general_dilated=convolution(form))`.

    Args:
      form: `"patches"`, gathered patches and one matrix product; `"xla"`, the compiler's own convolution; or `"auto"`,
        patches where JAX's default backend is a CPU at the time of the call, and elsewhere the form measured for the
        card (`jmeta.accelerators`), or the compiler's.

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
        form = "patches" if jax.default_backend() == "cpu" else choice(jax.devices()[0].device_kind).conv
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
    """Compute a convolution as gathered patches and one matrix product.

    It has the signature of `jax.lax.conv_general_dilated`, so `flax.linen.Conv` and `flax.nnx.Conv` accept it as their
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
      ValueError: for any unsupported argument.

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
    (top, bottom), (left, right) = padding
    height = (lhs.shape[1] + top + bottom - kernel_height) // window_strides[0] + 1
    width = (lhs.shape[2] + left + right - kernel_width) // window_strides[1] + 1
    if height < 1 or width < 1:
        raise ValueError(
            f"images of {lhs.shape[1:3]} pixels, padded by {tuple(padding)}, are smaller than the kernel of "
            f"{rhs.shape[:2]}; pad them"
        )
    matmul = functools.partial(jnp.matmul, precision=precision, preferred_element_type=preferred_element_type)
    rows_then_taps = kernel_width * channels + kernel_height * filters
    patches = kernel_height * kernel_width * channels
    is_by_rows = window_strides[0] == 1 and rows_then_taps < patches
    at_once = _by_rows if is_by_rows else _by_patches

    def convolve(images: Array) -> Array:
        return at_once(images, rhs, window_strides, padding, (height, width), matmul)

    numbers = rows_then_taps if is_by_rows else patches
    chunk = chunk_of(lhs.shape[0], numbers * height * width * lhs.dtype.itemsize)
    if chunk == lhs.shape[0]:
        return convolve(lhs)
    return map_chunks(convolve, lhs, chunk).reshape(lhs.shape[0], height, width, filters)


def _by_patches(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    size: tuple[int, int],
    matmul: Callable[[Array, Array], Array],
) -> Array:
    """Multiply whole patches with the kernel."""
    kernel_height, kernel_width, channels, filters = rhs.shape
    (height, width), (down, across) = size, strides
    padded = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    slices = [
        padded[:, i : i + (height - 1) * down + 1 : down, j : j + (width - 1) * across + 1 : across]
        for i in range(kernel_height)
        for j in range(kernel_width)
    ]
    # Two-dimensional, since XLA's matrix product of a 4-D operand is slower, especially under vmap.
    patches = jnp.concatenate(slices, -1).reshape(-1, kernel_height * kernel_width * channels)
    return matmul(patches, rhs.reshape(-1, filters)).reshape(lhs.shape[0], height, width, filters)


def _by_rows(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    size: tuple[int, int],
    matmul: Callable[[Array, Array], Array],
) -> Array:
    """Multiply patches of single rows with all rows of the kernel, and sum the parts, each moved to its row.

    For a 3x3 kernel of C channels and F filters this takes 3 C + 3 F numbers per pixel instead of the 9 C of whole
    patches, with the same arithmetic, forwards and backwards. With C = F = 64, a meta-step of MAML took 0.8 times as
    long, in 0.63 of the temporary memory.
    """
    kernel_height, kernel_width, channels, filters = rhs.shape
    (top, _), (left, right) = padding
    (height, width), (_, across) = size, strides
    padded = jnp.pad(lhs, ((0, 0), (0, 0), (left, right), (0, 0)))
    slices = [padded[:, :, j : j + (width - 1) * across + 1 : across] for j in range(kernel_width)]
    patches = jnp.concatenate(slices, -1).reshape(-1, kernel_width * channels)
    kernel = rhs.transpose(1, 2, 0, 3).reshape(kernel_width * channels, kernel_height * filters)
    products = matmul(patches, kernel).reshape(*lhs.shape[:2], width, kernel_height * filters)
    zero = jnp.zeros((), products.dtype)

    def moved(product: Array, down: int) -> Array:
        """Return the rows from `-down` on, `height` of them; rows outside the image are zero."""
        return lax.pad(product, zero, ((0, 0, 0), (down, height - lhs.shape[1] - down, 0), (0, 0, 0), (0, 0, 0)))

    taps = lax.split(products, [filters] * kernel_height, axis=3)
    return functools.reduce(jnp.add, [moved(tap, top - i) for i, tap in enumerate(taps)])


def max_pool(
    x: Float[Array, "examples height width channels"], form: str = "select"
) -> Float[Array, "examples half_height half_width channels"]:
    """Take the maximum of every 2x2 square, at stride 2; an odd last row or column is left out.

    Among equal elements the first one, row by row, receives the whole gradient. NaN wins against any number.

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
    columns = x[:, : 2 * height, : 2 * width].reshape(examples, 2 * height, width, 2, channels)
    rows = _larger(columns[:, :, :, 0], columns[:, :, :, 1]).reshape(examples, height, 2, width, channels)
    return _larger(rows[:, :, 0], rows[:, :, 1])


def _larger(a: Array, b: Array) -> Array:
    """Return the larger one, `a` if equal, NaN if either is. The gradient compares the two, not one and the result."""
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
