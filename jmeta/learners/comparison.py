"""Labels, class means, directions and absent classes: shared by learners that compare a query with a support.

This module has no learner. Each function treats padding so that a padded task equals the task itself: a masked example
belongs to no class, and a class without a real example is excluded from the predictions.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from ..bounds import is_whole
from ..support import apply_to_support
from ..types import Batch, Model, PyTree, RandomKey

__all__ = ["check_num_ways", "embed_support", "embed", "one_hot_labels", "class_means", "directions", "exclude_absent"]


def check_num_ways(num_ways: int) -> None:
    """Raise `ValueError` if `num_ways` is not positive."""
    if not is_whole(num_ways):
        raise ValueError(f"num_ways={num_ways}; expected the number of classes of a task, at least 1")


def embed_support(
    model: Model, params: PyTree, support: Batch, key: RandomKey | None
) -> tuple[Float[Array, "examples features"], PyTree]:
    """Return `(embeddings, params)` of the support; the parameters hold its statistics; see `embed`."""
    outputs, params = apply_to_support(model, params, support, key)
    return _as_embeddings(outputs), params


def embed(model: Model, params: PyTree, x: PyTree, key: RandomKey | None) -> Float[Array, "examples features"]:
    """Return a model's outputs as vectors, in float32 at least: distances and solves in half precision are noise.

    Raises:
      ValueError: if an output is not a vector.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> model = jmeta.models.mlp([4])
      >>> params = model.init(jax.random.key(0), jnp.zeros((3, 2)))
      >>> embed(model, params, jnp.ones((3, 2)), None).shape
      (3, 4)
    """
    return _as_embeddings(model.apply(params, x, key))


def one_hot_labels(support: Batch, num_ways: int, dtype: DTypeLike) -> Float[Array, "examples ways"]:
    """Return one row for each example: 1 at its label, and all zeros for padding (and for a label out of range).

    Raises:
      ValueError: if the labels are not a vector of integers.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> support = jmeta.Batch(x=jnp.zeros(2), y=jnp.array([1, 0]), mask=jnp.array([True, False]))
      >>> one_hot_labels(support, 2, jnp.float32).tolist()
      [[0.0, 1.0], [0.0, 0.0]]
    """
    labels = support.y
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"expected one integer label for each support example, but support.y has shape {labels.shape} and dtype "
            f"{labels.dtype}; pass labels in 0..{num_ways - 1}, not one-hot rows"
        )
    rows = jax.nn.one_hot(labels, num_ways, dtype=dtype)
    return rows if support.mask is None else jnp.where(support.mask[:, None], rows, 0.0)


def class_means(
    values: Float[Array, "examples ..."], one_hot: Float[Array, "examples ways"]
) -> tuple[Float[Array, "ways ..."], Float[Array, "ways"]]:
    """Return the mean of each class's values and the number of its examples; the mean of a class without any is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> means, counts = class_means(jnp.array([[1.0], [3.0], [5.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
      >>> means.tolist(), counts.tolist()
      ([[2.0], [5.0]], [2.0, 1.0])
    """
    counts = one_hot.sum(0)
    sums = jnp.tensordot(one_hot, values, axes=(0, 0), precision="highest")
    return sums / jnp.maximum(counts, 1.0).reshape(-1, *[1] * (values.ndim - 1)), counts


def directions(vectors: Float[Array, "... features"]) -> Float[Array, "... features"]:
    """Scale vectors to length 1. One shorter than 1e-6 has no direction: it becomes 0, and so does its gradient.

    The inner product of two directions is a cosine, without the NaN or the huge gradient of a division by a length of
    0.

    Example:
      >>> import jax.numpy as jnp
      >>> print(directions(jnp.array([3.0, 4.0])).round(1), directions(jnp.zeros(2)))
      [0.6 0.8] [0. 0.]
    """
    squares = jnp.square(vectors).sum(-1, keepdims=True)
    has_direction = squares > 1e-12
    lengths = jnp.sqrt(jnp.where(has_direction, squares, 1.0))  # this `where` keeps the gradient finite, the next one 0
    return jnp.where(has_direction, vectors / lengths, 0.0)


def exclude_absent(
    logits: Float[Array, "examples ways"], counts: Float[Array, "ways"]
) -> Float[Array, "examples ways"]:
    """Set logits to -inf for every class without an example in the support (a task of padding alone keeps all).

    Example:
      >>> import jax.numpy as jnp
      >>> exclude_absent(jnp.zeros((1, 3)), jnp.array([2.0, 0.0, 1.0])).tolist()
      [[0.0, -inf, 0.0]]
    """
    is_present = (counts > 0) | (counts.sum() == 0)
    return jnp.where(is_present[None, :], logits, -jnp.inf)


def _as_embeddings(outputs: Shaped[Array, "examples ..."]) -> Float[Array, "examples features"]:
    if outputs.ndim != 2:
        raise ValueError(
            f"expected a model that embeds each example as a vector, [examples, features], but its outputs have shape "
            f"{outputs.shape}; let the model flatten or average the trailing axes"
        )
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
