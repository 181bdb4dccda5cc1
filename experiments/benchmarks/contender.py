"""What every contender of a benchmark offers to the process that times it."""

from collections.abc import Callable
from typing import NamedTuple


class Contender(NamedTuple):
    """A workload, ready to run; compiled and warm.

    Attributes:
      run: `num_calls -> None`: that many calls, finished when it returns.
      meta_steps_per_call: of each call.
      loss: at the first parameters, averaged over tasks.
      grad_norm: of its meta-gradient.
      compile_seconds: tracing and compiling.
      temporary_bytes: what the compiled program allocates for itself; `None` where nothing is compiled.
    """

    run: Callable[[int], None]
    meta_steps_per_call: int
    loss: float
    grad_norm: float
    compile_seconds: float
    temporary_bytes: int | None
