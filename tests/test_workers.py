"""The bounds on test workers themselves: a suite that outgrows a laptop is noticed on none with enough memory."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest

from . import workers


@pytest.mark.parametrize(
    ("num_cores", "gigabytes", "expected"), [(8, 35.0, 8), (8, 16.0, 5), (2, 23.0, 2), (4, 2.0, 1), (1, 100.0, 1)]
)
def test_workers_are_as_many_as_cores_and_memory_allow(num_cores, gigabytes, expected):
    assert workers.num_workers(num_cores, gigabytes * 1e9) == expected


def test_the_memory_of_compiled_programs_returns_to_the_system():
    def share_that_stays(first):
        before = workers.memory()
        for size in range(first, first + 40):
            jax.jit(lambda x: x @ jnp.cos(x).T)(jnp.ones((size, 3)))
        held = workers.memory()
        assert held > before
        workers.release()
        assert workers.peak_memory() > 0.98 * held  # the system counts the two apart
        return (workers.memory() - before) / (held - before)

    # the first program that a process compiles leaves the compiler itself in memory
    assert min(share_that_stays(first) for first in (100, 200, 300)) < 0.5


def test_a_shared_context_lowers_the_program_that_one_of_its_own_does():
    lower = lambda: jax.jit(lambda x: x @ jnp.cos(x).T).lower(jnp.ones((3, 2)))
    shared, again = lower(), lower()
    assert shared.compiler_ir().context is again.compiler_ir().context
    with ThreadPoolExecutor(1) as threads:  # another thread may lower at the same time
        alone = threads.submit(lower).result()
    assert alone.compiler_ir().context is not shared.compiler_ir().context
    assert alone.as_text() == shared.as_text()
