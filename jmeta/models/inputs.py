"""Inputs of networks, refused in one sentence where they are no array or do not go with the parameters."""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.errors
import jax
import numpy as np

from ..types import PyTree

__all__ = ["check_array", "of_init"]


def check_array(x: PyTree) -> None:
    """Raise `ValueError` unless inputs are one array with the examples on its first axis.

    Example:
      >>> check_array({"a": np.zeros(3)})
      Traceback (most recent call last):
      ...
      ValueError: the network takes one array of inputs [examples, ...], but got a dict; join its arrays, or write a \
model that takes it
    """
    if not hasattr(x, "shape") or not hasattr(x, "reshape"):
        raise ValueError(
            f"the network takes one array of inputs [examples, ...], but got a {type(x).__name__}; join its arrays, or "
            "write a model that takes it"
        )
    if not x.shape:
        raise ValueError("the network takes inputs [examples, ...], but got a single number; add the axis of examples")


@contextlib.contextmanager
def of_init(x: PyTree) -> Iterator[None]:
    """Apply a Flax module in this block; inputs of another shape than `init` got are a `ValueError`.

    Args:
      x: the inputs, for the message.
    """
    try:
        yield
    except flax.errors.ScopeParamShapeError as error:
        shapes: Any = jax.tree.map(np.shape, x)
        raise ValueError(
            f"inputs of shape {shapes} do not go with the network's parameters ({str(error).split('. (http')[0]}); "
            "pass inputs of the shape that `init` was given"
        ) from error
