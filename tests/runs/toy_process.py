"""A script for several processes with no more in it than what starts, steps, stops and fails.

    python -m tests.runs.toy_process NUM_DISPATCHES [RANK FAILURE]

The process of that rank, or all for -1, fails at step 30: by a `mistake` that it tells of, or by an `exception`.
"""

import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jmeta.runs import console, processes


def sum_over_devices() -> float:
    """1 + 2 + 3 + ..., of which each device of each process has one."""
    mesh = jax.make_mesh((jax.device_count(),), ("tasks",))
    numbers = jnp.arange(1.0, jax.device_count() + 1)
    sharding = NamedSharding(mesh, PartitionSpec("tasks"))
    shared = jax.make_array_from_callback(numbers.shape, sharding, lambda index: numbers[index])
    return float(jax.jit(jnp.sum)(shared))


def step_and_save(num_dispatches: int, failing_rank: int | None, failure: str) -> None:
    with processes.preemption() as preempted:
        for step in range(10, 10 * num_dispatches + 1, 10):
            if step == 30 and failing_rank in (-1, jax.process_index()):
                raise console.StoppedError("no such data") if failure == "mistake" else KeyError(failure)
            print(f"step {step} sum {sum_over_devices():g}", flush=True)
            time.sleep(0.02)
            if preempted():
                print(f"saved step {step}", flush=True)
                raise processes.PreemptedError("asked to leave")


def main(arguments: list[str]) -> int:
    try:
        processes.join(detect=True)
        num_dispatches, rank, failure = [*arguments, "-2", ""][:3]
        step_and_save(int(num_dispatches), int(rank), failure)
    except console.StoppedError as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    return 0


if __name__ == "__main__":
    sys.exit(processes.run(main, sys.argv[1:]))
