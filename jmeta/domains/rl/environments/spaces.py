"""Spaces of observations and actions: their values, and how these become numbers that a network can read.

A space is a `Discrete`, a `Box`, or a dictionary or tuple of spaces. Gymnax's spaces have the same attributes and may
replace ours. `as_numbers` turns pixels into [0, 1] and choices into one-hot vectors, for every policy alike.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jmeta.types import PyTree, RandomKey

__all__ = [
    "Discrete",
    "Box",
    "Space",
    "parts_of",
    "part_of",
    "as_numbers",
    "as_vector",
    "num_features",
    "vector_bounds",
    "sample",
    "contains",
    "flat_action_space",
    "shaped_action",
    "described",
]

_MOST = 2**30
"""Bound of drawn integers where a box of integers has none."""


class Discrete(NamedTuple):
    """A space of the numbers 0 .. n-1.

    Example:
      >>> import jax
      >>> space = Discrete(5)
      >>> bool(space.contains(space.sample(jax.random.key(0))))
      True
    """

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one element: a scalar's."""
        return ()

    @property
    def dtype(self) -> Any:
        """int32."""
        return jnp.int32

    def sample(self, key: RandomKey) -> Int[Array, ""]:
        """Draw an element uniformly."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def contains(self, x: Array) -> Bool[Array, ""]:
        """Return whether `x` is an element."""
        return (x >= 0) & (x < self.n)


class Box(NamedTuple):
    """A space of arrays of one shape whose numbers lie between `low` and `high`; either may be infinite.

    Attributes:
      low, high: numbers, or arrays that broadcast to `shape`; they may depend on the task.
      shape: shape of an element.
      dtype: dtype of an element. Elements of uint8 with bounds 0 and 255 are pixels.

    Example:
      >>> import jax
      >>> space = Box(-1.0, 1.0, (2,))
      >>> space.sample(jax.random.key(0)).shape
      (2,)
    """

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any = jnp.float32

    def sample(self, key: RandomKey) -> Array:
        """Draw uniformly where both bounds are finite, and else from a normal distribution, clipped."""
        if not jnp.issubdtype(self.dtype, jnp.floating):
            low, high = (jnp.clip(jnp.asarray(bound, jnp.float32), -_MOST, _MOST) for bound in (self.low, self.high))
            low, high = (jnp.broadcast_to(bound.astype(jnp.int32), self.shape) for bound in (low, high))
            return jax.random.randint(key, self.shape, low, high + 1, jnp.int32).astype(self.dtype)
        if _is_number(self.low) and _is_number(self.high):
            if math.isfinite(self.low) and math.isfinite(self.high):
                return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)
            return jnp.clip(jax.random.normal(key, self.shape, self.dtype), self.low, self.high)
        low, high = (jnp.broadcast_to(jnp.asarray(bound, self.dtype), self.shape) for bound in (self.low, self.high))
        is_bounded = jnp.isfinite(low) & jnp.isfinite(high)
        uniform = jax.random.uniform(
            key, self.shape, self.dtype, jnp.where(is_bounded, low, 0), jnp.where(is_bounded, high, 1)
        )
        normal = jnp.clip(jax.scipy.special.ndtri(jnp.clip(uniform, 1e-6, 1 - 1e-6)), low, high)
        return jnp.where(is_bounded, uniform, normal)

    def contains(self, x: Array) -> Bool[Array, ""]:
        """Return whether all numbers of `x` are within the bounds."""
        x = jnp.asarray(x)
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
        low, high = (
            bound if _is_number(bound) else jnp.broadcast_to(jnp.asarray(bound, x.dtype), x.shape)
            for bound in (self.low, self.high)
        )
        return jnp.all((x >= low) & (x <= high))


Space = Discrete | Box


def parts_of(space: Any) -> dict[Any, Any] | None:
    """Return the parts of a dictionary or tuple of spaces, by name or position; `None` for a simple space.

    Raises:
      ValueError: if it is not a space.

    Example:
      >>> list(parts_of({"b": Discrete(2), "a": Discrete(3)}))
      ['a', 'b']
    """
    parts = getattr(space, "spaces", None if callable(getattr(space, "contains", None)) else space)
    if isinstance(parts, Mapping):
        return {name: parts[name] for name in sorted(parts)}
    if isinstance(parts, tuple | list):
        return dict(enumerate(parts))
    if parts is None and (hasattr(space, "n") or all(hasattr(space, name) for name in ("low", "high", "shape"))):
        return None
    raise ValueError(f"{space!r} is no space; pass a Discrete, a Box, or a dictionary or tuple of these")


def part_of(value: PyTree, name: Any, space: Any) -> PyTree:
    """Return one part of an element of a dictionary or tuple of spaces.

    Raises:
      ValueError: if there is none.

    Example:
      >>> part_of({"a": 1, "b": 2}, "b", {"a": Discrete(2), "b": Discrete(3)})
      2
    """
    if isinstance(name, str) and hasattr(value, name) and not isinstance(value, Mapping):
        return getattr(value, name)
    try:
        return value[name]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{described(value)} has no part {name!r}, but its space is {space}") from error


def as_numbers(value: PyTree, space: Any) -> PyTree:
    """Convert an element of a space to floating-point numbers in its own shape, for a network; steps come first.

    Choices become one-hot on a last axis, and pixels (uint8 with the bounds 0 and 255) are divided by 255, as images
    are elsewhere. All other numbers stay as they are. A dictionary or tuple of spaces is taken part by part.

    Raises:
      ValueError: if `space` is not a space, or `value` does not have its shape.

    Example:
      >>> import jax.numpy as jnp
      >>> pixels = Box(0, 255, (1, 2), jnp.uint8)
      >>> numbers = as_numbers({"seen": jnp.array([[0, 51]], jnp.uint8)}, {"seen": pixels})
      >>> [round(number, 3) for number in numbers["seen"].ravel().tolist()]
      [0.0, 0.2]
    """
    if (parts := parts_of(space)) is not None:
        numbers = {name: as_numbers(part_of(value, name, space), part) for name, part in parts.items()}
        return numbers if all(isinstance(name, str) for name in parts) else tuple(numbers.values())
    if hasattr(space, "n"):
        return jax.nn.one_hot(value, int(space.n), dtype=jnp.float32)
    value = jnp.asarray(value)
    if value.shape[value.ndim - len(space.shape) :] != tuple(space.shape):
        raise ValueError(f"a value of shape {value.shape} is no element of {space}, whose elements are {space.shape}")
    if value.dtype == jnp.uint8 and _are_pixels(space):
        return value.astype(jnp.float32) / 255
    return value.astype(jnp.float32)


def as_vector(value: PyTree, space: Any) -> Float[Array, "*steps features"]:
    """Convert an element of a space to one vector: the numbers of `as_numbers` in a row; steps come first.

    Parts of a dictionary come in the order of their names.

    Raises:
      ValueError: as for `as_numbers`.

    Example:
      >>> import jax.numpy as jnp
      >>> as_vector(jnp.array([2, -1]), Discrete(3)).tolist()
      [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    if (parts := parts_of(space)) is not None:
        return jnp.concatenate([as_vector(part_of(value, name, space), part) for name, part in parts.items()], -1)
    numbers = as_numbers(value, space)
    if hasattr(space, "n"):
        return numbers
    steps = numbers.shape[: numbers.ndim - len(space.shape)]
    return numbers.reshape(*steps, math.prod(space.shape))


def num_features(space: Any) -> int:
    """Return how many numbers `as_vector` returns for an element of a space.

    Example:
      >>> num_features(Box(0.0, 1.0, (2, 3))), num_features({"a": Discrete(5), "b": Box(0.0, 1.0, ())})
      (6, 6)
    """
    if (parts := parts_of(space)) is not None:
        return sum(num_features(part) for part in parts.values())
    return int(space.n) if hasattr(space, "n") else math.prod(space.shape)


def vector_bounds(space: Any) -> tuple[float, float]:
    """Return the bounds of the numbers that `as_vector` returns for a space with concrete bounds.

    Example:
      >>> vector_bounds({"a": Discrete(5), "b": Box(-2.0, 0.5, ())})
      (-2.0, 1.0)
    """
    if (parts := parts_of(space)) is not None:
        lows, highs = zip(*[vector_bounds(part) for part in parts.values()], strict=True)
        return min(lows), max(highs)
    if hasattr(space, "n") or (space.dtype == jnp.uint8 and _are_pixels(space)):
        return 0.0, 1.0
    return float(np.min(space.low)), float(np.max(space.high))


def sample(space: Any, key: RandomKey) -> PyTree:
    """Draw an element of a space.

    Example:
      >>> import jax
      >>> sorted(sample({"a": Discrete(5), "b": Box(0.0, 1.0, ())}, jax.random.key(0)))
      ['a', 'b']
    """
    if (parts := parts_of(space)) is None:
        return space.sample(key)
    keys = jax.random.split(key, max(len(parts), 1))
    return _like(space, {name: sample(part, each) for (name, part), each in zip(parts.items(), keys, strict=False)})


def contains(space: Any, value: PyTree) -> Bool[Array, ""]:
    """Return whether a value is an element of a space.

    Example:
      >>> import jax.numpy as jnp
      >>> bool(contains({"a": Discrete(5)}, {"a": jnp.array(5)}))
      False
    """
    if (parts := parts_of(space)) is None:
        return jnp.all(space.contains(value))
    inside = [contains(part, part_of(value, name, space)) for name, part in parts.items()]
    return jnp.stack(inside).all() if inside else jnp.array(True)


def flat_action_space(space: Any, name: str) -> Any:
    """Return the space of actions in the form of policies: choices unchanged, numbers of any shape as one vector.

    Args:
      space: space of an environment's actions.
      name: name of the environment, for the error.

    Raises:
      ValueError: if it is neither a `Discrete` nor a `Box` of floating-point numbers.

    Example:
      >>> flat_action_space(Box(-1.0, 1.0, (2, 3)), "robot").shape
      (6,)
    """
    is_box = all(hasattr(space, attribute) for attribute in ("low", "high", "shape", "dtype"))
    if hasattr(space, "n") and getattr(space, "shape", None) == ():
        return space
    if not is_box or not jnp.issubdtype(space.dtype, jnp.floating):
        raise ValueError(
            f"{name} has the action space {space}, but policies act in a Discrete or a Box of floating-point numbers; "
            "wrap the environment so that it takes one of these"
        )
    if len(space.shape) == 1:
        return space
    count = math.prod(space.shape)
    low, high = (
        bound if _is_number(bound) else jnp.broadcast_to(jnp.asarray(bound), space.shape).reshape(count)
        for bound in (space.low, space.high)
    )
    return Box(low, high, (count,), space.dtype)


def shaped_action(action: Array, space: Any, name: str) -> Array:
    """Convert a policy's action to its environment's form: a vector in the shape of the space; choices unchanged.

    Args:
      action: a policy's action, without steps.
      space: space of the environment's actions.
      name: name of the environment, for the error.

    Raises:
      ValueError: if it does not have as many numbers as the space.

    Example:
      >>> import jax.numpy as jnp
      >>> shaped_action(jnp.zeros(6), Box(-1.0, 1.0, (2, 3)), "robot").shape
      (2, 3)
    """
    if action.size != math.prod(space.shape):
        raise ValueError(f"the policy's action has shape {action.shape}, but {name} takes actions of {space.shape}")
    return action if action.shape == tuple(space.shape) else action.reshape(space.shape)


def described(value: Any) -> str:
    """Describe a value in a few words, for an error.

    Example:
      >>> described((1, 2)), described(None)
      ('a tuple of 2', 'a value of type NoneType')
    """
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an array of shape {value.shape}" if hasattr(value, "shape") else f"a value of type {type(value).__name__}"


def _is_number(bound: Any) -> bool:
    return isinstance(bound, int | float)


def _are_pixels(space: Any) -> bool:
    return bool(np.all(np.asarray(space.low) == 0) and np.all(np.asarray(space.high) == 255))


def _like(space: Any, parts: dict[Any, PyTree]) -> PyTree:
    """Put parts into the structure of their space."""
    if isinstance(getattr(space, "spaces", space), Mapping):
        return parts
    values = tuple(parts.values())
    return type(space)(*values) if hasattr(space, "_fields") else values
