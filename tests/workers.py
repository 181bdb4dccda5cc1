"""Bounds what a test worker needs: how many run at once, what each compiles with, and how much memory it keeps.

A compiled program of any size keeps 1 to 3 MB, mostly in pages that the allocator does not return unasked, and JAX's
caches keep every program for good. A suite compiles thousands, so a worker that never lets go grows past 4 GB.
"""

import contextlib
import ctypes
import functools
import gc
import itertools
import os
import pathlib
import resource
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jax._src import compiler  # private: no public option reaches the programs that JAX compiles for single operations
from jax._src.interpreters import mlir  # private, too: a context of MLIR costs more than to lower a small program to it

LIMIT = 2.0e9
"""Bytes that a worker may take at its peak; a run in which one took more fails."""

RESERVED = 3.0e9
"""Bytes that must be free for each worker: its own, and those of the processes that its tests start."""

RELEASED_ABOVE = 1.3e9
"""Bytes from which on a worker lets go of what it has compiled."""

PROGRAMS_PER_CONTEXT = 200
"""Programs that are lowered in one MLIR context: it keeps the constants of all of them."""


def memory() -> float:
    """Bytes that this process holds now; its peak where the system does not tell."""
    statm = pathlib.Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else peak_memory()


def peak_memory() -> float:
    """Bytes that this process held at most."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # `getrusage` may count the process that started this one
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def available_memory() -> float:
    """Bytes that new processes can take: of the machine, or of the container if it allows less."""
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    available = float(lines["MemAvailable"].split()[0]) * 1024
    group = pathlib.Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: the container has no limit of its own
        used = float((group / "memory.current").read_text())
        available = min(available, float((group / "memory.max").read_text()) - used)
    return available


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_workers(num_cores: int, available: float) -> int:
    """As many as there are cores, but no more than the memory holds, and at least one."""
    return max(1, min(num_cores, int(available / RESERVED)))


def release() -> None:
    """Let go of everything compiled, and return the memory to the system."""
    jax.clear_caches()
    _contexts.cache_clear()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc does not keep the pages
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@functools.cache
def quick_options() -> dict[str, Any]:
    """Compiler options that halve the time for a small program, those of them that this jaxlib has.

    XLA's newer emitters for fusions on CPUs pay in long runs; jaxlib 0.12 has no others. A program that
    is compiled in parts, by several threads, costs more than one that is not.
    """
    return {
        name: value
        for name, value in (("xla_cpu_use_fusion_emitters", False), ("xla_cpu_parallel_codegen_split_count", 1))
        if _is_option(name, value)
    }


def _is_option(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def quick_environment() -> dict[str, str]:
    """Variables with which a process that a test starts compiles quickly, too."""
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in quick_options().items())
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Compile with few optimizations: a test's program runs once, and compiling takes most of the suite's time."""
    original, quick = compiler.get_compile_options, quick_options()

    def options(*args, **kwargs):
        chosen = original(*args, **kwargs)
        chosen.env_option_overrides = [*chosen.env_option_overrides, *quick.items()]
        return chosen

    has_shardy = getattr(jax.config, "jax_use_shardy_partitioner", False)
    jax.config.update("jax_disable_most_optimizations", True)
    if has_shardy:  # a worker has one device: to look at what may be divided takes a tenth of the time
        jax.config.update("jax_use_shardy_partitioner", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", options)
        patch.setattr(mlir, "make_ir_context", _shared_context)
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    if has_shardy:
        jax.config.update("jax_use_shardy_partitioner", True)


_make_context = mlir.make_ir_context


@functools.cache
def _contexts() -> Iterator[Any]:
    """MLIR contexts, each many times in a row."""
    repeated = (itertools.repeat(_make_context(), PROGRAMS_PER_CONTEXT) for _ in itertools.count())
    return itertools.chain.from_iterable(repeated)


def _shared_context() -> Any:
    """The MLIR context of the next program: JAX would make one for each, which loads all dialects in 6 ms."""
    is_main = threading.current_thread() is threading.main_thread()  # others may lower at the same time
    return next(_contexts()) if is_main else _make_context()
