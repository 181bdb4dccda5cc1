"""Losses of one task, as `(outputs, batch) -> (loss, aux)`.

They are what an inner loop descends on the support and what an episode is judged by on the query. Each averages over
the real examples of the batch: padding, where `batch.mask` is False, changes neither value nor gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from .distributions import Distribution
from .types import Aux, Batch


def checked_loss(result: Any, of: str) -> tuple[Any, Aux]:
    """What a loss function returned, if it is `(loss, aux)`: a scalar and a dictionary.

    Args:
      result: of the function.
      of: what the result is called in the message.

    Raises:
      ValueError: if it is anything else, at trace time.

    Example:
      >>> loss, aux = checked_loss((0.5, {}), "what loss_fn returns")
      >>> checked_loss(0.5, "what loss_fn returns")
      Traceback (most recent call last):
      ...
      ValueError: what loss_fn returns must be (loss, aux), a scalar and a dictionary, but it is a float
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


def masked_mean(values: Float[Array, "examples"], batch: Batch) -> Float[Array, ""]:
    """The mean of `values` over the real examples of `batch`; 0 if there are none.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.zeros(3), y=jnp.zeros(3), mask=jnp.array([True, True, False]))
      >>> float(masked_mean(jnp.array([1.0, 3.0, 100.0]), batch))
      2.0
    """
    if batch.mask is None:
        return values.mean()
    kept = jnp.where(batch.mask, values, 0.0)  # `where`, not a product: padding may hold NaN
    return kept.sum() / jnp.maximum(batch.mask.sum(), 1).astype(values.dtype)


def cross_entropy(outputs: Shaped[Array, "examples ways"], batch: Batch) -> tuple[Float[Array, ""], Aux]:
    """Softmax cross-entropy with integer labels, in nats; `aux` has the `accuracy`, in [0, 1].

    A logit of -inf says that the task has no such class.

    Raises:
      ValueError: if `batch.y` is not one integer label for each row of `outputs`.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.zeros((2, 1)), y=jnp.array([0, 1]))
      >>> loss, aux = cross_entropy(jnp.array([[0.0, 0.0], [5.0, 0.0]]), batch)
      >>> float(aux["accuracy"])
      0.5
    """
    labels = _checked_labels(outputs, batch)
    log_probs = jax.nn.log_softmax(outputs)
    losses = -jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    correct = (outputs.argmax(-1) == labels).astype(losses.dtype)
    return masked_mean(losses, batch), {"accuracy": masked_mean(correct, batch)}


def squared_error(outputs: Shaped[Array, "examples ..."], batch: Batch) -> tuple[Float[Array, ""], Aux]:
    """The mean squared error, averaged over the features of an example and then over examples; `aux` repeats it.

    Raises:
      ValueError: if `outputs` and `batch.y` differ in shape (broadcasting here is a well-known silent fault).

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
    losses = jnp.square(outputs - batch.y).reshape(outputs.shape[0], -1).mean(-1)
    loss = masked_mean(losses, batch)
    return loss, {"squared_error": loss}


def negative_log_likelihood(outputs: Distribution, batch: Batch) -> tuple[Float[Array, ""], Aux]:
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
            f"negative_log_likelihood expects a distribution, such as jmeta.distributions.Normal, but got outputs that "
            f"are a {type(outputs).__name__}; use a learner whose `predict` returns one"
        )
    _, aux = squared_error(outputs.mean(), batch)
    losses = -outputs.log_prob(batch.y).reshape(batch.y.shape[0], -1).sum(-1)
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
