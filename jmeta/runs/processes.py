"""Several processes as one job, on JAX's own runtime: how they join, and how they stop together.

    run(main) ──► join ──► devices of all processes ──► preemption, checked after every dispatch ──► exit status

The launcher of the processes tells each its place: `jmeta launch` by environment variables, a cluster by its own
variables, which JAX knows. In a script that runs alone, none of this happens, except that SIGTERM lets it save.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..checkpoints.cluster import Operation, SilentProcessError
from ..jax_internals import process_id
from .console import StoppedError
from .launch import EXIT_LOST, EXIT_MISTAKE, EXIT_PREEMPTED

__all__ = [
    "ADDRESS",
    "NUM_PROCESSES",
    "PROCESS_ID",
    "PreemptedError",
    "LostProcessError",
    "join",
    "is_main",
    "meet",
    "agreed",
    "preemption",
    "run",
]

ADDRESS, NUM_PROCESSES, PROCESS_ID = "JAX_COORDINATOR_ADDRESS", "JMETA_NUM_PROCESSES", "JMETA_PROCESS_ID"
"""Environment variables: the address `host:port` of process 0, the number of processes, the number of this one."""

_FOUND_BY_JAX = (
    "Slurm (processes started by srun), Cloud TPU, Kubernetes (pods of an Indexed Job or a JobSet, with `pip install "
    "kubernetes`) and Open MPI (mpirun)"
)
_WORDS_OF_LOSS = (
    "Gloo",
    "NCCL",
    "coordination service",
    "CoordinationService",
)  # these errors have no type of their own

_WORDS_OF_SILENCE = ("all attempts exhausted", "failed for 6 tries")
"""JAX's messages when Kubernetes or the metadata server of a TPU has not answered in time."""

_SECONDS_TO_LINGER = 1.0  # JAX aborts the others when process 0 is gone; they may be about to print the same message

_num_asked = itertools.count(1)  # counts calls over all runs of this process: see `preemption`


class PreemptedError(StoppedError):
    """The run was asked to stop, and has saved."""

    exit_status = EXIT_PREEMPTED


class LostProcessError(StoppedError):
    """Another process of the job was lost, and this one cannot go on without it."""

    exit_status = EXIT_LOST


def join(detect: bool) -> None:
    """Join the other processes of the job, if there are several; call this before anything uses a device.

    Args:
      detect: whether JAX looks for a cluster if no launcher has set the environment variables.

    Raises:
      ValueError: if a launcher has not set all of them, or has set numbers that do not fit.
      StoppedError: if JAX finds no cluster.
      LostProcessError: if this process cannot join, or the cluster does not answer. JAX aborts a process that waits in
        vain for others after five minutes.
    """
    if jax.distributed.is_initialized():
        return
    if {NUM_PROCESSES, PROCESS_ID} & set(os.environ):
        place = _place()
    elif detect:
        place = {}
    else:
        return
    try:
        jax.distributed.initialize(**place)
    except jax.errors.JaxRuntimeError as error:
        raise LostProcessError(f"this process cannot join the others of its job; start all again ({error})") from error
    except Exception as error:  # from JAX, or from Kubernetes or a TPU's metadata server
        if place:
            raise
        if _may_pass(error):
            raise LostProcessError(
                f"the cluster does not say which processes belong together; start again "
                f"({type(error).__name__}: {error})"
            ) from error
        raise StoppedError(
            f"JAX finds no cluster to join. By itself it finds {_FOUND_BY_JAX}; elsewhere set {ADDRESS}, "
            f"{NUM_PROCESSES} and {PROCESS_ID} for each process, or use jmeta launch on one machine "
            f"({type(error).__name__}: {error})"
        ) from error


def _may_pass(error: BaseException) -> bool:
    """Return whether the cluster may answer at another try: there was no connection, or a fault of the server.

    JAX raises its own errors from those of the server it asks; Kubernetes errors carry the HTTP status.
    """
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    is_of_connection = isinstance(error, OSError) or type(error).__module__.startswith("urllib3.")
    is_silence = any(word in str(error) for word in _WORDS_OF_SILENCE)
    if is_of_connection or is_silence or (getattr(error, "status", None) or 0) >= 500:
        return True
    return error.__cause__ is not None and _may_pass(error.__cause__)


def _place() -> dict[str, Any]:
    """Return the launcher's settings as arguments of `jax.distributed.initialize`."""
    said = {name: os.environ.get(name, "") for name in (ADDRESS, NUM_PROCESSES, PROCESS_ID)}
    num_processes, process_id = said[NUM_PROCESSES], said[PROCESS_ID]
    are_numbers = num_processes.isdecimal() and process_id.isdecimal()
    if ":" not in said[ADDRESS] or not are_numbers or int(process_id) >= int(num_processes):
        found = ", ".join(f"{name}={value}" if value else f"no {name}" for name, value in said.items())
        raise ValueError(
            f"expected {ADDRESS}=host:port, {NUM_PROCESSES} of at least 1 and a smaller {PROCESS_ID} in the "
            f"environment, found {found}; set all three for each process, or none"
        )
    return {
        "coordinator_address": said[ADDRESS],
        "num_processes": int(num_processes),
        "process_id": int(process_id),
        "cluster_detection_method": "deactivate",  # else a cluster around the launcher would choose the devices
    }


def is_main() -> bool:
    """Return whether this process writes and prints for all; call it after `join`, since it starts JAX's devices."""
    return jax.process_index() == 0


def meet(mesh: jax.sharding.Mesh | None) -> None:
    """Open the connections between all devices of the job, once all processes are ready.

    On CPUs the first collective of each group of devices opens them, through Gloo, which waits for only 30 seconds.
    Processes that first compile a whole meta-step may be further apart than that, as on a busy core. So they wait for
    each other here, for as long as it takes, with a tiny compiled program.

    Args:
      mesh: the mesh whose groups of devices will compute together, besides all devices; `None` for none.
    """
    if jax.process_count() == 1:
        return
    everything = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
    for each in [everything] if mesh is None else [everything, mesh]:
        for axes in dict.fromkeys([*((name,) for name in each.axis_names), each.axis_names]):
            _connect(each, axes)


def _connect(mesh: jax.sharding.Mesh, axes: tuple[str, ...]) -> None:
    spec, ones = jax.sharding.PartitionSpec(mesh.axis_names), np.ones(mesh.size)
    total = jax.shard_map(lambda x: jax.lax.psum(x, axes), mesh=mesh, in_specs=spec, out_specs=spec)
    there = jax.make_array_from_callback(ones.shape, jax.sharding.NamedSharding(mesh, spec), lambda i: ones[i])
    compiled = jax.jit(total).lower(there).compile()
    Operation(f"connect the devices along {axes}").gather(None)
    compiled(there).block_until_ready()


@contextlib.contextmanager
def agreed(what: str) -> Iterator[None]:
    """Run a block that all processes enter, whichever does the work; if it fails in one, all raise the mistake.

    Otherwise one process would end with its own error, and the others, which wait for it, as if they had lost a
    process; a scheduler would then restart the job for nothing.

    Args:
      what: the work in words; the same in all processes.

    Raises:
      StoppedError: in the other processes, with the message of the one that failed.
    """
    operation, mine = Operation(what), None
    try:
        yield
    except Exception as error:
        mine = error
    for said in operation.gather(None if mine is None else str(mine) or type(mine).__name__):
        if said is not None:
            raise mine or StoppedError(said)


@contextlib.contextmanager
def preemption() -> Iterator[Callable[[], bool]]:
    """Keep SIGTERM from ending this process inside the block; yield a function that reports it instead.

    All processes call that function equally often, after every dispatch. It returns True in the same call of all of
    them once SIGTERM has reached any, so they all save the same step. JAX chooses the call: the one after the last call
    that any process has made when all have learnt of the signal. JAX expects call numbers without gaps, so calls are
    counted here: step numbers may grow by tens.

    A single process ends at once at the second SIGTERM.

    Raises:
      LostProcessError: in place of an error that reports a lost connection to another process, or no message from it.
    """
    if not jax.distributed.is_initialized():
        with _noting_sigterm() as is_noted:
            yield is_noted
        return
    try:
        yield lambda: multihost_utils.reached_preemption_sync_point(next(_num_asked))
    except (ValueError, RuntimeError, SilentProcessError) as error:
        if not isinstance(error, SilentProcessError) and not any(word in str(error) for word in _WORDS_OF_LOSS):
            raise
        raise LostProcessError(
            "another process of this job is gone, or too slow to answer, as on a machine with fewer cores than "
            "processes, and this one cannot go on without it; start all of them again, and "
            f"they go on from the last checkpoint ({str(error).splitlines()[0]})"
        ) from error


@contextlib.contextmanager
def _noting_sigterm() -> Iterator[Callable[[], bool]]:
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # other threads cannot set handlers
        yield noted.is_set
        return

    def note(*_: object) -> None:
        noted.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def run(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run `main(arguments)` as the last action of a process, and return its exit status.

    When one of several processes exits, JAX makes it wait, for minutes, until the others exit too. So they stop
    together. But a process that has failed would wait for others that wait for it, in the middle of a step. So it does
    not return from here: it exits at once, and the others notice.
    """
    try:
        status = main(arguments)
    except SystemExit as stop:  # from a parser of command lines
        if not isinstance(stop.code, int):
            raise
        status = stop.code
    except BaseException:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        status = EXIT_MISTAKE
    if jax.distributed.is_initialized() and status not in (0, EXIT_PREEMPTED):
        if process_id() == 0:
            time.sleep(_SECONDS_TO_LINGER)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
