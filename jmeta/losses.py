"""Losses of one task, as `(outputs, batch) -> (loss, aux)`.

An inner loop descends such a loss on the support, and an episode is evaluated by one on the query. Each averages over
the real examples of the batch: padding, where `batch.mask` is False, changes neither value nor gradient.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from .distributions import Distribution
from .types import Aux, Batch, PyTree

__all__ = [
    "checked_loss",
    "without_padding",
    "masked_mean",
    "real_examples",
    "num_real",
    "cross_entropy",
    "squared_error",
    "negative_log_likelihood",
    "check_labels",
]


def checked_loss(result: Any, of: str) -> tuple[Any, Aux]:
    """Return the result of a loss function after checking that it is `(loss, aux)`: a scalar and a dictionary.

    Args:
      result: the function's result.
      of: name of the result in the error message.

    Raises:
      ValueError: if it is anything else, at trace time.

    Example:
      >>> loss, aux = checked_loss((0.5, {}), "the result of loss_fn")
      >>> checked_loss(0.5, "the result of loss_fn")
      Traceback (most recent call last):
      ...
      ValueError: the result of loss_fn must be (loss, aux), a scalar and a dictionary, but it is a float
    """
    expected = f"{of} must be (loss, aux), a scalar and a dictionary, but it is"
    if not isinstance(result, tuple) or len(result) != 2:
        length = f" of {len(result)}" if isinstance(result, tuple) else ""
        raise ValueError(f"{expected} a {type(result).__name__}{length}")
    loss, aux = result
    if not isinstance(loss, jax.Array | np.ndarray | np.generic | float | int):
        raise ValueError(f"{expected} a loss that is a {type(loss).__name__}")
    if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise ValueError(f"{expected} a loss of shape {jnp.shape(loss)} and dtype {jnp.result_type(loss)}")
    if not isinstance(aux, dict):
        raise ValueError(f"{expected} an aux that is a {type(aux).__name__}")
    return loss, aux


def without_padding(batch: Batch) -> Batch:
    """Put zeros into the inputs and targets of padding: whatever padding holds, even NaN, is gone.

    Episodes do so with both batches of a task before anything is computed, since a NaN that is masked afterwards is
    still in the gradient.

    Raises:
      ValueError: at trace time, if inputs and targets are not of equally many examples, or the mask is not one bool for
        each.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.array([1.0, jnp.nan]), y=jnp.array([2, 7]), mask=jnp.array([True, False]))
      >>> without_padding(batch).x.tolist(), without_padding(batch).y.tolist()
      ([1.0, 0.0], [2, 0])
    """
    _check_examples(batch)
    return batch._replace(x=_blank(batch.mask, batch.x), y=_blank(batch.mask, batch.y))


def _blank(mask: Any, tree: PyTree) -> PyTree:
    """The tree with zeros where the mask of its leaves' first axis is False."""
    if mask is None:
        return tree

    def blank(leaf: Array) -> Array:
        _check_mask(mask, jnp.shape(leaf)[:1])
        return jnp.where(mask.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf))

    return jax.tree.map(blank, tree)


def _check_examples(batch: Batch) -> None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves((batch.x, batch.y))]
    if len({shape[:1] for shape in shapes}) > 1 or () in shapes:
        raise ValueError(
            f"a batch has arrays of shapes {', '.join(map(str, shapes))} as x and y; pass arrays with the examples on "
            "their first axis, as many targets as inputs"
        )


def _check_mask(mask: Any, expected: tuple[int, ...]) -> None:
    if mask.dtype != bool or mask.shape != expected:
        raise ValueError(
            f"a batch of examples {expected} has a mask of shape {mask.shape} and dtype {mask.dtype}; pass one bool "
            "for each example, True where it is real; weights and masks of single outputs belong in a loss of your own"
        )


def masked_mean(values: Float[Array, "examples"], batch: Batch) -> Float[Array, ""]:
    """Average `values` over the real examples of `batch`; 0 if there are none.

    Raises:
      ValueError: at trace time, if `values` is not one number, or the mask not one bool, for each example.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.zeros(3), y=jnp.zeros(3), mask=jnp.array([True, True, False]))
      >>> float(masked_mean(jnp.array([1.0, 3.0, 100.0]), batch))
      2.0
    """
    if values.ndim != 1:
        raise ValueError(f"masked_mean expects one value for each example, but values have shape {values.shape}")
    if batch.mask is None:
        return values.mean() if values.size else jnp.zeros((), values.dtype)
    _check_mask(batch.mask, values.shape)
    kept = jnp.where(batch.mask, values, 0.0)  # `where`, not a product: padding may hold NaN
    return kept.sum() / jnp.maximum(batch.mask.sum(), 1).astype(values.dtype)


def real_examples(batch: Batch) -> Bool[Array, "examples"]:
    """Return the mask of `batch`, all True where it has none.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> real_examples(jmeta.Batch(x=jnp.zeros(2), y=jnp.zeros(2))).tolist()
      [True, True]
    """
    return jnp.ones(jax.tree.leaves(batch.y)[0].shape[:1], bool) if batch.mask is None else batch.mask


def num_real(batch: Batch, dtype: DTypeLike) -> Float[Array, ""]:
    """Count the real examples of `batch`, as a floating-point number.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.zeros(3), y=jnp.zeros(3), mask=jnp.array([True, True, False]))
      >>> float(num_real(batch, jnp.float32))
      2.0
    """
    if batch.mask is None:
        return jnp.full((), jax.tree.leaves(batch.y)[0].shape[0], dtype)
    return batch.mask.sum().astype(dtype)


def cross_entropy(outputs: Shaped[Array, "examples ways"], batch: Batch) -> tuple[Float[Array, ""], Aux]:
    """Compute the softmax cross-entropy with integer labels, in nats; `aux` has the `accuracy`, in [0, 1].

    A logit of -inf means that the task has no such class. The loss of a label out of range is NaN, so that training
    skips the step and counts it.

    Raises:
      ValueError: if `batch.y` is not one integer label for each row of `outputs`.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.zeros((2, 1)), y=jnp.array([0, 1]))
      >>> loss, aux = cross_entropy(jnp.array([[0.0, 0.0], [5.0, 0.0]]), batch)
      >>> float(aux["accuracy"])
      0.5
    """
    outputs, labels = _blank(batch.mask, (outputs, _checked_labels(outputs, batch)))
    num_ways = outputs.shape[-1]
    within = jnp.where(labels < 0, num_ways, labels)  # a negative index would count from the end
    log_probs = jax.nn.log_softmax(outputs)
    losses = -jnp.take_along_axis(log_probs, within[:, None], axis=-1, mode="fill")[:, 0]
    correct = (outputs.argmax(-1) == labels).astype(losses.dtype)
    return masked_mean(losses, batch), {"accuracy": masked_mean(correct, batch)}


def squared_error(outputs: Shaped[Array, "examples ..."], batch: Batch) -> tuple[Float[Array, ""], Aux]:
    """Compute the mean squared error, averaged over the features of an example, then over examples; `aux` repeats it.

    Raises:
      ValueError: if `outputs` and `batch.y` differ in shape (broadcasting them is a well-known silent fault).

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> loss, aux = squared_error(jnp.zeros((2, 1)), jmeta.Batch(x=jnp.zeros((2, 1)), y=jnp.ones((2, 1))))
      >>> float(loss)
      1.0
    """
    if outputs.shape != batch.y.shape:
        raise ValueError(
            f"squared_error expects outputs and targets of one shape, but outputs are {outputs.shape} and batch.y is "
            f"{batch.y.shape}; reshape one of them (a missing trailing axis of 1 is the usual cause)"
        )
    outputs, targets = _blank(batch.mask, (outputs, batch.y))
    squares = jnp.square(outputs - targets).reshape(outputs.shape[0], math.prod(outputs.shape[1:]))
    losses = squares.mean(-1)  # the reshape has no -1: there may be no example
    loss = masked_mean(losses, batch)
    return loss, {"squared_error": loss}


def negative_log_likelihood(outputs: PyTree, batch: Batch) -> tuple[Float[Array, ""], Aux]:
    """Return the negative log density of the targets, in nats, under a predictive distribution.

    It is summed over the numbers of an example and averaged over examples. `aux` has it as
    `negative_log_likelihood`, and the `squared_error` of the mean, averaged as `squared_error` does.

    Args:
      outputs: a distribution of `[examples, ...]` numbers (`jmeta.distributions`).
      batch: its `y` has the distribution's shape.

    Raises:
      ValueError: if `outputs` is no distribution, or its shape differs from that of `batch.y`.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> prediction = jmeta.distributions.Normal(jnp.zeros((2, 1)), jnp.ones((2, 1)))
      >>> batch = jmeta.Batch(x=jnp.zeros((2, 1)), y=jnp.ones((2, 1)))
      >>> loss, aux = negative_log_likelihood(prediction, batch)
      >>> round(float(loss), 4), float(aux["squared_error"])
      (1.4189, 1.0)
    """
    if not isinstance(outputs, Distribution):
        raise ValueError(
            "negative_log_likelihood expects a distribution, such as jmeta.distributions.Normal, but got outputs of "
            f"type {type(outputs).__name__}; use a learner whose `predict` returns one (see models.normal_outputs)"
        )
    _, aux = squared_error(outputs.mean(), batch)
    losses = -outputs.log_prob(batch.y).reshape(batch.y.shape[0], math.prod(batch.y.shape[1:])).sum(-1)
    loss = masked_mean(losses, batch)
    return loss, {"negative_log_likelihood": loss, **aux}


def _checked_labels(outputs: Shaped[Array, "examples ways"], batch: Batch) -> Int[Array, "examples"]:
    labels = batch.y
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != outputs.shape[:1]:
        raise ValueError(
            f"cross_entropy expects one integer label for each of the {outputs.shape[0]} outputs, but batch.y has "
            f"shape {labels.shape} and dtype {labels.dtype}; pass labels in 0..{outputs.shape[-1] - 1}, not one-hot"
        )
    return labels


def check_labels(labels: Any, num_ways: int, of: str) -> None:
    """Look at labels, which are numbers at hand and no tracers.

    Args:
      labels: integers, of any shape, without padding.
      num_ways: how many classes a learner tells apart.
      of: what the message calls them.

    Raises:
      ValueError: if one is not in `0..num_ways-1`.

    Example:
      >>> check_labels([-1, 1], 2, "the support")
      Traceback (most recent call last):
      ...
      ValueError: the support has labels -1, 1, but the learner tells 2 classes apart; pass labels in 0..1
    """
    found = np.unique(np.asarray(labels))
    if found.size and (found[0] < 0 or found[-1] >= num_ways):
        shown = ", ".join(map(str, found[:8])) + (", ..." if found.size > 8 else "")
        raise ValueError(
            f"{of} has labels {shown}, but the learner tells {num_ways} classes apart; pass labels in 0..{num_ways - 1}"
        )
