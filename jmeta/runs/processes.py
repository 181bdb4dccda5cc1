"""Several processes as one job, on JAX's own runtime: how they find each other, and how they leave together.

    run(main) ──► join ──► devices of all processes ──► preemption, asked after every dispatch ──► exit status

Whoever starts the processes says where they belong: `jmeta launch` in environment variables, a cluster in its
own, which JAX knows. In a script that runs alone nothing of this happens, but that SIGTERM lets it save.
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
"""Environment variables: where process 0 listens, as `host:port`; how many processes there are; which of them it is."""

_FOUND_BY_JAX = (
    "Slurm (processes started by srun), Cloud TPU, Kubernetes (pods of an Indexed Job or a JobSet, with `pip install "
    "kubernetes`) and Open MPI (mpirun)"
)
_WORDS_OF_LOSS = (
    "Gloo",
    "NCCL",
    "coordination service",
    "CoordinationService",
)  # such errors have no type of their own

_WORDS_OF_SILENCE = ("all attempts exhausted", "failed for 6 tries")
"""What JAX says when Kubernetes or the metadata server of a TPU has not answered in time."""

_SECONDS_TO_LINGER = 1.0  # when process 0 is gone, JAX aborts those that may be about to say the same as it did

_num_asked = itertools.count(1)  # of this process, over all its runs: see `preemption`


class PreemptedError(StoppedError):
    """The run was asked to leave, and has saved."""

    exit_status = EXIT_PREEMPTED


class LostProcessError(StoppedError):
    """Another process of the job is gone, and this one cannot go on without it."""

    exit_status = EXIT_LOST


def join(detect: bool) -> None:
    """Join the other processes of the job, if it has several; before anything touches a device.

    Args:
      detect: let JAX look for a cluster, if no launcher has set the environment variables.

    Raises:
      ValueError: if a launcher has not set all of them, or not to numbers that fit.
      StoppedError: if JAX finds no cluster.
      LostProcessError: if this process cannot join, or the cluster does not answer. One that waits in vain for others
        is aborted by JAX after five minutes.
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
    except Exception as error:  # JAX's, or of what it asks: Kubernetes, the metadata server of a TPU
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
    """Whether a cluster that was asked may answer another time: no connection, or a fault of the server.

    JAX raises errors of its own from those of whom it asks; Kubernetes' have HTTP's status.
    """
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    is_of_connection = isinstance(error, OSError) or type(error).__module__.startswith("urllib3.")
    is_silence = any(word in str(error) for word in _WORDS_OF_SILENCE)
    if is_of_connection or is_silence or (getattr(error, "status", None) or 0) >= 500:
        return True
    return error.__cause__ is not None and _may_pass(error.__cause__)


def _place() -> dict[str, Any]:
    """What a launcher has said, as arguments of `jax.distributed.initialize`."""
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
    """Whether this process writes and prints for all; to be asked after `join`, since it starts JAX's devices."""
    return jax.process_index() == 0


def meet(mesh: jax.sharding.Mesh | None) -> None:
    """Open the connections between all devices of the job, when all processes are there to do it.

    On CPUs the first collective of each group of devices opens them, and Gloo, which does it, waits for 30 seconds
    alone. Processes that have compiled a whole meta-step before may be further apart, as on a busy core. So they wait
    for each other here, for as long as it takes, with something compiled that is next to nothing.

    Args:
      mesh: whose groups of devices will compute together, beside all of them; `None` for none.
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
    """All processes enter, whichever does the work inside; if it fails in any, it is a mistake in all of them.

    Else one would end with its own error, and the others, who wait for it, as those who have lost a process: then
    whoever starts jobs again would do so for nothing.

    Args:
      what: is done, in words; the same in all processes.

    Raises:
      StoppedError: in the others, with what the one said.
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
    """Inside the block SIGTERM does not end this process; instead the function that it yields tells of it.

    All processes call that function equally often, after every dispatch. It answers True in the same call of all of
    them, once SIGTERM has reached any; what they save then is of one step. JAX chooses the call: the one after the
    last that any process has made when all have heard of the signal. It numbers them without gaps, so they are counted
    here, where steps come in tens.

    A process that is alone ends at once at the second SIGTERM.

    Raises:
      LostProcessError: in place of an error that says that the connection to another process is gone, or that no word
        came from it.
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
    if threading.current_thread() is not threading.main_thread():  # where Python sets no handlers
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
    """`main(arguments)`, as the last thing that a process does; returns its exit status.

    When a process of several exits, JAX makes it wait, for minutes, until the others exit too. That is how they leave
    together; but one that has failed would wait for others who wait for it, in the middle of a step. So it does not
    return from here: it is gone at once, and the others notice.
    """
    try:
        status = main(arguments)
    except SystemExit as stop:  # of a parser of command lines
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
