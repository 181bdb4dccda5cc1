"""The memory planner: bytes that are those of the run, a choice that fits, and reasons."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import autotune

SIZE = 4_000_000


def one_temporary(x):
    return jnp.sort(x).sum()


def several(x):
    return jnp.sort(jnp.stack([jnp.sort(x + i) for i in range(4)]), 0).sum()


def test_the_fastest_that_fits_is_chosen_and_no_other_is_run():
    ran = []

    def counted(name, fn):
        def candidate(x):
            jax.debug.callback(lambda: ran.append(name))
            return fn(x)

        return candidate

    candidates = {"small": counted("small", one_temporary), "large": counted("large", several)}
    x = jnp.arange(10_000.0)
    sizes = {trial.name: trial.peak_bytes for trial in autotune.plan(candidates, (x,), memory_bytes=1e9).trials}
    assert sizes["small"] < sizes["large"]
    jax.effects_barrier()
    ran.clear()
    plan = autotune.plan(candidates, (x,), memory_bytes=sizes["large"] - 1)
    jax.effects_barrier()
    assert plan.chosen == "small"
    assert set(ran) == {"small"}
    assert [trial.step_seconds is None for trial in plan.trials] == [False, True]
    assert "large: does not fit" in autotune.describe(plan)


def test_the_faster_of_two_is_chosen():
    """By a factor of hundreds, so that no machine can turn it round."""
    slow = lambda x: jax.lax.fori_loop(0, 300, lambda i, y: jnp.sort(y + i), x)
    plan = autotune.plan({"slow": slow, "fast": lambda x: x + 1}, (jnp.arange(20_000.0),), memory_bytes=1e9)
    assert plan.chosen == "fast"
    assert autotune.describe(plan).startswith("fast: the fastest of the 2 of 2 ways that fit into 1.00 GB")


def test_a_budget_that_nothing_fits_into_is_refused():
    with pytest.raises(ValueError, match=r"nothing fits into 0 MB: the smallest of 1 ways, only, takes"):
        autotune.plan({"only": one_temporary}, (jnp.arange(10_000.0),), memory_bytes=10)


def test_arguments_that_are_donated_are_still_there_afterwards():
    x = jnp.arange(1000.0)
    autotune.plan({"only": lambda x: x + 1}, (x,), memory_bytes=1e9, donate_argnums=0)
    np.testing.assert_array_equal(x, np.arange(1000.0))


def test_donated_buffers_count_once():
    x = jnp.arange(10_000.0)
    given, kept = (
        autotune.plan({"only": lambda x: x + 1}, (x,), memory_bytes=1e9, donate_argnums=donated).trials[0].peak_bytes
        for donated in (0, ())
    )
    assert kept - given == x.nbytes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"candidates": {}}, "no candidates"),
        ({"memory_bytes": 0}, "expected positive numbers"),
        ({"num_steps": 0}, "expected positive numbers"),
    ],
)
def test_what_cannot_be_planned_is_refused(changed, message):
    arguments = {"candidates": {"only": lambda x: x}, "arguments": (jnp.ones(2),), "memory_bytes": 1e9, **changed}
    with pytest.raises(ValueError, match=message):
        autotune.plan(arguments.pop("candidates"), arguments.pop("arguments"), **arguments)


MEASURES = """
import ctypes, pathlib, time
import jax, jax.numpy as jnp, optax
import jmeta
from jmeta import adjoints, autotune, learners, losses, models, tasks

def status(name):
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith(name)))

learner = learners.maml(
    models.mlp([1024, 5]), losses.cross_entropy, optax.sgd(0.1), num_steps=8, adjoint=adjoints.{adjoint}()
)
grad_fn = jmeta.over_tasks(jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True), {batching!r})
sample = tasks.stacked(tasks.gaussian_blobs(num_ways=5, num_shots=200, num_queries=200, num_features=512), 8)
drawn = jax.block_until_ready(sample(jax.random.key(0)))
params = learner.init(jax.random.key(1), jax.tree.map(lambda leaf: leaf[0], drawn))
arguments = (params, drawn, jax.random.key(2))
(trial,) = autotune.plan({{"only": grad_fn}}, arguments, memory_bytes=8e9).trials
compiled = jax.jit(grad_fn).lower(*arguments).compile()
jax.block_until_ready(compiled(*arguments))  # once, so that all code and all threads are there
time.sleep(1)  # its buffers are given back after the result is there
ctypes.CDLL("libc.so.6").malloc_trim(0)
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
result = jax.block_until_ready(compiled(*arguments))
held = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[:2]))
print(trial.temporary_bytes, trial.peak_bytes - held, status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process's memory")
@pytest.mark.parametrize(("adjoint", "batching"), [("unrolled", "scan"), ("mixed_mode", "vmap")])
def test_the_predicted_bytes_are_what_a_run_allocates(adjoint, batching):
    """Within 15 %, in a process of its own: the plan's peak without the arguments, and the growth of the process."""
    code = MEASURES.format(adjoint=adjoint, batching=batching)
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # so that what is freed is given back
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    output = result.stdout
    temporary, predicted, grown = map(int, output.split())
    assert temporary > 30e6
    np.testing.assert_allclose(grown, predicted, rtol=0.15)
