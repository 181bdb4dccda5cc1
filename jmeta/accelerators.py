"""Settings that `"auto"` takes on each accelerator: the form of convolutions and the number of tasks at once.

Rows are measured by `experiments.benchmarks.accelerator`; a card without a row gets a guess.
"""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Choice", "GUESS", "MEASURED", "choice"]


class Choice(NamedTuple):
    """The settings that `"auto"` takes on one card.

    Attributes:
      conv: form of convolutions, as in `models.primitives.convolution`.
      tasks_at_once: largest number of tasks computed at once; `None` for all.
      measured: date of the measurement, such as `"2030-01-31"`; `None` for a guess.
    """

    conv: str
    tasks_at_once: int | None
    measured: str | None


GUESS = Choice(conv="xla", tasks_at_once=None, measured=None)

MEASURED: Mapping[str, Choice] = {}
"""Measured choices by the name that JAX gives the card, `jax.devices()[0].device_kind`. Empty: no accelerator has been
measured yet."""


def choice(device_kind: str, measured: Mapping[str, Choice] = MEASURED) -> Choice:
    """Return the measured settings of a card, or a guess if there are none.

    Args:
      device_kind: the card's name.
      measured: choices by card name.

    Example:
      >>> choice("a card that nobody measured").conv
      'xla'
      >>> choice("a card", {"a card": Choice("patches", tasks_at_once=32, measured="2030-01-31")}).conv
      'patches'
    """
    return measured.get(device_kind, GUESS)
