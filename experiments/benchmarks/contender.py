"""The interface of a benchmark's contenders, which the process that times them uses."""

from collections.abc import Callable
from typing import NamedTuple


class Contender(NamedTuple):
    """A workload, ready to run: compiled and warm.

    Attributes:
      run: `num_calls -> None`: makes that many calls, all finished when it returns.
      meta_steps_per_call: number of meta-steps of each call.
      loss: loss at the initial parameters, averaged over tasks.
      grad_norm: norm of the meta-gradient of that loss.
      compile_seconds: time of tracing and compiling.
      temporary_bytes: memory that the compiled program allocates for itself; `None` where nothing is compiled.
    """

    run: Callable[[int], None]
    meta_steps_per_call: int
    loss: float
    grad_norm: float
    compile_seconds: float
    temporary_bytes: int | None
