"""Kernels of Gaussian processes with priors on their hyper-parameters, and ways to combine them.

A hyper-parameter is a number, or a range `(low, high)` from which every task draws its own. Drawn ones are coordinates
in the unit cube, so that an exact posterior integrates them out over the same cube.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..bounds import is_real

__all__ = ["Kernel", "Range", "rbf", "matern52", "periodic", "add", "multiply"]

Range = float | tuple[float, float]
"""A fixed number, or the ends of a uniform distribution."""


class Kernel(NamedTuple):
    """A covariance function whose hyper-parameters have a uniform prior.

    Attributes:
      num_drawn: how many hyper-parameters are drawn.
      gram: `(unit, a, b) -> [a, b]`, the covariances between inputs `[a, features]` and `[b, features]`, where `unit`
        are the drawn hyper-parameters as numbers in [0, 1], `[num_drawn]`.
    """

    num_drawn: int
    gram: Callable[[Array, Array, Array], Array]


def rbf(*, length_scale: Range, scale: Range = 1.0) -> Kernel:
    """Build the kernel s² exp(−r² / 2ℓ²), with r the Euclidean distance.

    Args:
      length_scale: ℓ, positive.
      scale: s, positive: the standard deviation of the process.

    Raises:
      ValueError: if a number is not positive or a range is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.tasks import kernels
      >>> kernel = kernels.rbf(length_scale=(0.1, 0.6))
      >>> kernel.num_drawn, kernel.gram(jnp.array([0.5]), jnp.zeros((2, 1)), jnp.zeros((3, 1))).shape
      (1, (2, 3))
    """

    def gram(length_scale: Array, scale: Array, a: Array, b: Array) -> Array:
        return jnp.square(scale) * jnp.exp(-_squared_distances(a, b) / (2 * jnp.square(length_scale)))

    return _kernel(gram, length_scale=length_scale, scale=scale)


def matern52(*, length_scale: Range, scale: Range = 1.0) -> Kernel:
    """Build the Matérn-5/2 kernel s² (1 + u + u²/3) exp(−u), with u = √5 r / ℓ.

    The arguments and errors are those of `rbf`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.tasks import kernels
      >>> kernel = kernels.matern52(length_scale=0.25, scale=2.0)
      >>> kernel.gram(jnp.zeros(0), jnp.zeros((1, 1)), jnp.zeros((1, 1))).tolist()
      [[4.0]]
    """

    def gram(length_scale: Array, scale: Array, a: Array, b: Array) -> Array:
        squares = _squared_distances(a, b)
        apart = jnp.sqrt(5 * jnp.where(squares > 0, squares, 1.0))  # a root has no derivative at zero; the kernel has
        u = jnp.where(squares > 0, apart, 0.0) / length_scale
        return jnp.square(scale) * (1 + u + jnp.square(u) / 3) * jnp.exp(-u)

    return _kernel(gram, length_scale=length_scale, scale=scale)


def periodic(*, period: Range, length_scale: Range = 1.0, scale: Range = 1.0) -> Kernel:
    """Build the periodic kernel s² exp(−2 Σ sin²(π (a − b) / p) / ℓ²).

    Args:
      period: p, positive.
      length_scale: ℓ, positive, in units of the sine.
      scale: s, positive.

    Raises:
      ValueError: if a number is not positive or a range is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.tasks import kernels
      >>> kernel = kernels.periodic(period=0.5)
      >>> round(float(kernel.gram(jnp.zeros(0), jnp.zeros((1, 1)), jnp.ones((1, 1)))[0, 0]), 6)
      1.0
    """

    def gram(period: Array, length_scale: Array, scale: Array, a: Array, b: Array) -> Array:
        sines = jnp.sin(jnp.pi * (a[:, None] - b[None]) / period)
        return jnp.square(scale) * jnp.exp(-2 * jnp.square(sines).sum(-1) / jnp.square(length_scale))

    return _kernel(gram, period=period, length_scale=length_scale, scale=scale)


def add(*kernels: Kernel) -> Kernel:
    """Build the sum of kernels: the covariance of a sum of independent processes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.tasks import kernels
      >>> kernel = kernels.add(kernels.rbf(length_scale=1.0), kernels.periodic(period=(0.1, 0.5)))
      >>> kernel.num_drawn, kernel.gram(jnp.array([0.3]), jnp.zeros((1, 1)), jnp.zeros((1, 1))).tolist()
      (1, [[2.0]])
    """
    return _combine(kernels, lambda grams: sum(grams[1:], start=grams[0]))


def multiply(*kernels: Kernel) -> Kernel:
    """Build the product of kernels, such as an `rbf` times a `periodic` for processes that are weakly periodic.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.tasks import kernels
      >>> weakly_periodic = kernels.multiply(kernels.rbf(length_scale=0.5), kernels.periodic(period=0.25))
      >>> weakly_periodic.gram(jnp.zeros(0), jnp.zeros((1, 1)), jnp.zeros((1, 1))).tolist()
      [[1.0]]
    """

    def product(grams: list[Array]) -> Array:
        result = grams[0]
        for gram in grams[1:]:
            result = result * gram
        return result

    return _combine(kernels, product)


def _combine(kernels: Sequence[Kernel], combined: Callable[[list[Array]], Array]) -> Kernel:
    if not kernels:
        raise ValueError("there are no kernels to combine; pass at least one")
    starts = [sum(kernel.num_drawn for kernel in kernels[:i]) for i in range(len(kernels))]

    def gram(unit: Array, a: Array, b: Array) -> Array:
        return combined(
            [
                kernel.gram(unit[start : start + kernel.num_drawn], a, b)
                for kernel, start in zip(kernels, starts, strict=True)
            ]
        )

    return Kernel(sum(kernel.num_drawn for kernel in kernels), gram)


def _kernel(gram: Callable[..., Array], **ranges: Range) -> Kernel:
    """Build a kernel from a covariance function of named hyper-parameters, which come first, and two sets of inputs."""
    for name, ends in ranges.items():
        low, high = ends if isinstance(ends, tuple) else (ends, ends)
        if not (is_real(low, above=0) and is_real(high, least=low)):
            raise ValueError(f"{name}={ends}; expected a positive number, or a range (low, high) of positive numbers")
    drawn = [name for name, ends in ranges.items() if isinstance(ends, tuple)]

    def of_unit(unit: Float[Array, "drawn"], a: Array, b: Array) -> Array:
        numbers = []
        for name, ends in ranges.items():
            if isinstance(ends, tuple):
                numbers.append(ends[0] + (ends[1] - ends[0]) * unit[drawn.index(name)])
            else:
                numbers.append(jnp.asarray(ends, a.dtype))
        return gram(*numbers, a, b)

    return Kernel(len(drawn), of_unit)


def _squared_distances(a: Float[Array, "a features"], b: Float[Array, "b features"]) -> Float[Array, "a b"]:
    return jnp.square(a[:, None] - b[None]).sum(-1)
