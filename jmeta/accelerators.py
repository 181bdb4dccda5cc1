"""What was measured to be fastest on which accelerator, for what `"auto"` decides there: convolutions, tasks at once.

Rows come from `experiments.benchmarks.accelerator`; a card that has none gets a guess.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Choice(NamedTuple):
    """What `"auto"` means on a card.

    Attributes:
      conv: form of convolutions, as for `models.primitives.convolution`.
      tasks_at_once: at most; `None` for all.
      measured: date of the measurement, such as `"2030-01-31"`; `None` for a guess.
    """

    conv: str
    tasks_at_once: int | None
    measured: str | None


GUESS = Choice(conv="xla", tasks_at_once=None, measured=None)

MEASURED: Mapping[str, Choice] = {}
"""By the name that JAX gives the card, `jax.devices()[0].device_kind`. Empty: no accelerator has been measured yet."""


def choice(device_kind: str, measured: Mapping[str, Choice] = MEASURED) -> Choice:
    """What to do on a card: as measured on it, or else a guess.

    Args:
      device_kind: the card's name.
      measured: by name.

    Example:
      >>> choice("a card that nobody measured").conv
      'xla'
      >>> choice("a card", {"a card": Choice("patches", tasks_at_once=32, measured="2030-01-31")}).conv
      'patches'
    """
    return measured.get(device_kind, GUESS)
