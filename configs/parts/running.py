"""How long to train, how fast, what to watch, and which tasks to choose and judge by."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Training:
    """The outer loop. All numbers of steps but `halve_lr_every` are multiples of `steps_per_dispatch`."""

    num_steps: int
    tasks_per_step: int
    steps_per_dispatch: int
    """Meta-steps that run in one compiled call, between two lines of the log."""
    evaluate_every: int
    """Meta-steps between two evaluations on meta_valid, which choose the model (by all queries together, for a learner
    to which that makes a difference); also the longest way between two checkpoints."""
    checkpoint_every: int | None = None
    """Meta-steps between checkpoints; at every evaluation if not given."""
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    schedule: Literal["constant", "halved", "linear"] = "constant"
    """Rate of the meta-optimizer: as it is, halved every `halve_lr_every` steps, or going linearly to zero."""
    halve_lr_every: int = 2000
    clip_norm: float | None = None
    """Largest norm of a meta-gradient, beyond which it is scaled down."""
    batching: Literal["auto", "vmap", "scan"] | int = "auto"
    """Tasks of a meta-step at once: all (`vmap`), one (`scan`), this many, or (`auto`) all on accelerators and on a CPU
    as many as its caches hold."""
    mesh: str | None = None
    """Devices that share the tasks of a meta-step, such as `tasks=8`; with `tasks=4,model=2` large parameters are
    divided between two. All of a job of several processes, and else one, if not given. Says where and not what: a run
    may go on with another."""
    num_blocks: int | None = None
    """Blocks that tasks are divided into, a power of two, for the same bits on any number of devices that divides it;
    one for each device, and sums in the order that is fastest, if not given."""
    num_valid_tasks: int = 200
    patience: int | None = None
    """Evaluations without a better score on meta_valid after which training stops; never if not given."""
    max_skipped_in_a_row: int = 20
    """Meta-steps in a row with a loss, gradient or result that is not finite, after which the run is given up; looked
    at after every dispatch."""
    keep_last: int = 3
    """Checkpoints kept beside the best."""
    seed: int = 0


@dataclass(frozen=True)
class Testing:
    """The tasks that a model is chosen by (of meta_valid) and judged by (of meta_test)."""

    num_ways: int = 5
    num_shots: int = 1
    num_tasks: int | None = None
    """Tasks of meta_test; the protocol's number, or else 1000, if not given."""
    tasks_at_once: int = 4
    """A matter of speed and memory only."""
