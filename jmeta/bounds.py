"""Numbers that a caller passes: whether one is a whole number, or a finite one, within bounds.

A comparison alone takes NaN for any number and 1.5 for a count, so every factory asks here before it says what it
expected.
"""

import math
from typing import Any

import numpy as np
from jax.core import Tracer

__all__ = ["is_whole", "is_real"]

Bound = float | int | np.number


def is_whole(number: Any, *, least: int | np.integer = 1) -> bool:
    """Return whether this is an integer, of Python or NumPy and no bool, of at least `least`.

    Example:
      >>> [is_whole(number) for number in (3, np.int64(3), 0, 3.0, True, None)]
      [True, True, False, False, False, False]
    """
    return isinstance(number, int | np.integer) and not isinstance(number, bool) and bool(number >= least)


def is_real(number: Any, *, least: Bound = -math.inf, above: Bound = -math.inf, most: Bound = math.inf) -> bool:
    """Return whether this is one finite number within bounds; of a traced one nothing is known, so it is taken.

    Args:
      number: a number of Python, NumPy or JAX.
      least: lower bound, included.
      above: lower bound, excluded.
      most: upper bound, included.

    Example:
      >>> [is_real(number, above=0) for number in (3, 0.5, 0, math.nan, math.inf, "3", None)]
      [True, True, False, False, False, False, False]
    """
    if isinstance(number, Tracer):
        return True
    if isinstance(number, str | bytes) or np.ndim(number):
        return False
    try:
        value = float(number)
    except (TypeError, ValueError, OverflowError):
        return False
    return math.isfinite(value) and bool(above < value and least <= value <= most)
