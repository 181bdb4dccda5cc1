"""The bounds on test workers themselves: a suite that outgrows a laptop is noticed on none with enough memory."""

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
    before = workers.memory()
    for size in range(100, 140):
        jax.jit(lambda x: x @ jnp.cos(x).T)(jnp.ones((size, 3)))
    held = workers.memory()
    assert held > before
    workers.release()
    assert workers.memory() < before + (held - before) / 2
    assert workers.peak_memory() > 0.98 * held  # the system counts the two apart
