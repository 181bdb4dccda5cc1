"""Sets of points (x, y): shared by neural processes, which encode every point alone and forget their order.

This module has no learner. Each function treats padding so that a padded set equals the set itself, and a set without a
real point has a mean of zeros.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..losses import real_examples, without_padding
from ..types import Batch, Model, PyTree, RandomKey

__all__ = [
    "Representation",
    "check_no_statistics",
    "check_rows",
    "pairs",
    "encode",
    "represent",
    "with_each",
]


class Representation(NamedTuple):
    """The mean of encoded points, which can be updated by further points without the earlier ones.

    Attributes:
      mean: `[width]`; zeros if there is no point.
      num_points: number of real points, a scalar of the same dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> two, one = Representation(jnp.ones(3), jnp.float32(2)), Representation(jnp.full(3, 4.0), jnp.float32(1))
      >>> two.joined(one).mean.tolist()
      [2.0, 2.0, 2.0]
    """

    mean: Array
    num_points: Array

    def joined(self, other: "Representation") -> "Representation":
        """Return the representation of the points of both sets together."""
        num_points = self.num_points + other.num_points
        totals = self.num_points * self.mean + other.num_points * other.mean
        return Representation(totals / jnp.maximum(num_points, 1.0), num_points)


def check_no_statistics(**networks: Model) -> None:
    """Refuse networks whose outputs for one point depend on other points.

    Raises:
      ValueError: if a network stores statistics of norm layers.
    """
    for name, model in networks.items():
        if model.calibrate is not None:
            raise ValueError(
                f"the {name} stores statistics of examples, but a neural process encodes and decodes every point "
                "alone; use a norm of single examples or none"
            )


def pairs(batch: Batch) -> Float[Array, "points numbers"]:
    """Return one row [x, y] for each point, zeros for padding.

    Raises:
      ValueError: if inputs and targets are not `[points, features]` and `[points, numbers]`, in floating point.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> pairs(jmeta.Batch(jnp.zeros((2, 1)), jnp.ones((2, 1)), jnp.array([True, False]))).tolist()
      [[0.0, 1.0], [0.0, 0.0]]
    """
    x, y, _ = without_padding(batch)
    return jnp.concatenate([check_rows("inputs [points, features]", x), check_rows("targets [points, numbers]", y)], 1)


def check_rows(expected: str, rows: PyTree) -> Float[Array, "points numbers"]:
    """Return inputs or targets after checking that each point has a vector of floating-point numbers.

    Raises:
      ValueError: if it has anything else.

    Example:
      >>> import jax.numpy as jnp
      >>> check_rows("targets [points, numbers]", jnp.zeros(3, jnp.int32))
      Traceback (most recent call last):
      ...
      ValueError: a neural process expects floating-point targets [points, numbers], but they are int32[3]; ...
    """
    if not hasattr(rows, "dtype") or rows.ndim != 2 or not jnp.issubdtype(rows.dtype, jnp.floating):
        found = f"{rows.dtype}{list(rows.shape)}" if hasattr(rows, "dtype") else f"a {type(rows).__name__}"
        raise ValueError(
            f"a neural process expects floating-point {expected}, but they are {found}; flatten what an example has, "
            "and encode labels as numbers"
        )
    return jnp.asarray(rows)


def encode(model: Model, params: PyTree, inputs: Array, key: RandomKey | None) -> Float[Array, "points width"]:
    """Return a network's output for each row of `inputs`, in float32 at least.

    Raises:
      ValueError: if an output is not a vector.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> model = jmeta.models.mlp([4])
      >>> encode(model, model.init(jax.random.key(0), jnp.zeros((3, 2))), jnp.ones((3, 2)), None).shape
      (3, 4)
    """
    outputs = model.apply(params, inputs, key)
    if not isinstance(outputs, jax.Array) or outputs.ndim != 2:
        found = list(outputs.shape) if isinstance(outputs, jax.Array) else f"a {type(outputs).__name__}"
        raise ValueError(
            f"expected a network with one vector for each point, [points, width], but its output is {found}"
        )
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def represent(model: Model, params: PyTree, batch: Batch, key: RandomKey | None) -> Representation:
    """Return the mean of the encoded real points of a batch.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> double = jmeta.Model(lambda key, x: {}, lambda params, x, key: 2 * x)
      >>> represent(double, {}, jmeta.Batch(jnp.ones((3, 1)), jnp.full((3, 1), 2.0)), None).mean.tolist()
      [2.0, 4.0]
    """
    rows = encode(model, params, pairs(batch), key)
    is_real = real_examples(batch)
    num_points = is_real.sum(dtype=rows.dtype)
    total = jnp.where(is_real[:, None], rows, 0).sum(0)
    return Representation(total / jnp.maximum(num_points, 1.0), num_points)


def with_each(vector: Float[Array, " width"], x: PyTree) -> Float[Array, "points inputs"]:
    """Return one row [vector, x] for each point: the input of a decoder.

    Raises:
      ValueError: if inputs are not `[points, features]` in floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> with_each(jnp.zeros(2), jnp.ones((3, 1))).tolist()
      [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    """
    x = check_rows("inputs [points, features]", x)
    return jnp.concatenate([jnp.broadcast_to(vector, (x.shape[0], vector.shape[0])), x], axis=1)
