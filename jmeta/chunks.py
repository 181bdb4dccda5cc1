"""Functions of many examples, computed a few examples at a time where a CPU's caches would not hold them all.

A step of a convolutional network moves more numbers than it multiplies: values that are written to memory and read
again cost more than to compute them once more. Accelerators hide this, so nothing is divided there.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Shaped

__all__ = ["CHUNK_BYTES", "largest_divisor", "chunk_of", "map_chunks"]

CHUNK_BYTES = 4 * 2**20
"""Largest size of the intermediate values of the examples computed at once on a CPU: about what a core's own cache
holds. From 1 to 6 MB a convolution takes the same time; from 40 MB on twice as long."""


def largest_divisor(count: int, at_most: int) -> int:
    """Return the largest divisor of `count` up to `at_most`, or `count` if that divisor is far smaller.

    Example:
      >>> largest_divisor(32, 20), largest_divisor(31, 20), largest_divisor(32, 100)
      (16, 31, 32)
    """
    at_most = min(at_most, count)
    best = max(divisor for divisor in range(1, at_most + 1) if count % divisor == 0)
    return best if 4 * best >= at_most else count  # such as a prime number of small tasks


def chunk_of(num_examples: int, bytes_per_example: int) -> int:
    """Return how many examples to compute at once: all of them on an accelerator, or where they fit `CHUNK_BYTES`.

    Args:
      num_examples: number of examples.
      bytes_per_example: size of the intermediate values of one example.

    Example:
      >>> chunk_of(8, 1000)
      8
    """
    if jax.default_backend() != "cpu" or num_examples * bytes_per_example <= CHUNK_BYTES:
        return num_examples
    return largest_divisor(num_examples, max(CHUNK_BYTES // bytes_per_example, 1))


def map_chunks(fn: Callable[[Array], Any], examples: Shaped[Array, "examples ..."], chunk: int) -> Any:
    """Apply a function to chunks of examples, one after another, and stack the results.

    The gradient computes the chunk's intermediate values again instead of keeping them.

    Args:
      fn: `chunk of examples -> result`.
      examples: stacked examples.
      chunk: number of examples of a chunk; it divides the number of examples.

    Returns:
      The results, with an axis of chunks in front.

    Example:
      >>> import jax.numpy as jnp
      >>> map_chunks(jnp.sum, jnp.arange(6.0), 2)
      Array([1., 5., 9.], dtype=float32)
    """
    chunks = examples.reshape(examples.shape[0] // chunk, chunk, *examples.shape[1:])
    return lax.map(jax.checkpoint(fn, prevent_cse=False), chunks)
