"""State of a bridged network other than its parameters, as ordinary floating-point leaves of `params["stats"]`.

Inner loops and meta-gradients run over whole trees of parameters, and `jax.grad` refuses integers. So counters and
flags are stored as floating point and return to their own dtype inside `apply`; their gradient is zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..types import PyTree

__all__ = ["as_leaves", "from_leaves", "exact_averages"]


def as_leaves(state: PyTree) -> PyTree:
    """Convert integers and flags of `state` to floating point; exact up to 2²⁴."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf.astype(float), state)


def from_leaves(leaves: PyTree, like: PyTree) -> PyTree:
    """Invert `as_leaves`: integers and flags get the dtypes of `like`, floating-point leaves keep their own."""
    restore = lambda leaf, model: leaf if jnp.issubdtype(model.dtype, jnp.inexact) else leaf.astype(model.dtype)  # noqa: E731
    return jax.tree.map(restore, leaves, like)


def exact_averages(update: Callable[[PyTree], tuple[PyTree, Any]], averages: PyTree) -> tuple[PyTree, Any]:
    """Return the values that enter exponential moving averages, from one run of the function that updates them.

    An update is a ← m·a + (1 − m)·v, with a momentum m that only the layer knows. At a = 0 it gives (1 − m)·v, and its
    derivative there is m. Only the averages depend on a, so the compiler leaves no second pass behind. The result is
    exact up to rounding, which 1 / (1 − m) magnifies: 10⁻⁶ relative at m = 0.99 in float32.

    Args:
      update: `averages -> (updated averages, anything)`; affine, one average at a time.
      averages: floating-point leaves; only shapes and dtypes matter.

    Returns:
      `(values, anything)`.

    Example:
      >>> import jax.numpy as jnp
      >>> values, _ = exact_averages(lambda average: (0.75 * average + 0.25 * 8.0, None), jnp.ones(()))
      >>> float(values)
      8.0
    """
    zeros, ones = jax.tree.map(jnp.zeros_like, averages), jax.tree.map(jnp.ones_like, averages)
    scaled, momentum, rest = jax.jvp(update, (zeros,), (ones,), has_aux=True)
    return jax.tree.map(lambda value, m: value / (1 - m), scaled, momentum), rest
