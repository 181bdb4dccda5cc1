"""The order of examples within their class, by which a support is divided."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..losses import real_examples
from ..types import Batch

__all__ = ["rank_in_class"]


def rank_in_class(batch: Batch) -> Int[Array, "examples"]:
    """Count, for each example, the real examples of the same label before it; for numbers, all real examples before it.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> rank_in_class(jmeta.Batch(x=jnp.zeros(4), y=jnp.array([2, 0, 2, 2]))).tolist()
      [0, 0, 1, 2]
    """
    y = jax.tree.leaves(batch.y)[0]
    is_class = jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == 1
    is_alike = y[:, None] == y[None, :] if is_class else jnp.ones((y.shape[0], y.shape[0]), bool)
    return jnp.tril(is_alike & real_examples(batch)[None, :], -1).sum(-1, dtype="int32")
