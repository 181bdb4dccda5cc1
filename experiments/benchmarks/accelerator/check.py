"""Is the meta-gradient right on this card: W1's beside that in float64 on the CPU, by precision and form."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..with_jax import Way, gradient_of, tasks_of
from ..workloads import Arrays, Workload, arrays
from .period import Period
from .timing import PRECISIONS, compiled_together

FORMS = ("xla", "patches")


def run(period: Period) -> None:
    """Rows of each precision and form: relative error, cosine, and whether two calls give the same bits."""
    workload = Workload("W1", 1, 1) if period.is_tiny else Workload("W1", 4, 5)
    data = arrays(workload)
    cases = [(precision, form) for precision in PRECISIONS for form in FORMS]
    cases = [("float32", "patches")] if period.is_tiny else cases  # the compiler's own form is slow on CPUs
    builds = {" ".join(case): functools.partial(_gradient, workload, data, *case) for case in cases}
    builds["exact"] = functools.partial(_exact_gradient, workload, data)
    done, failed = compiled_together(builds)
    for precision, form in cases:
        name = f"{precision} {form}"
        case = {"workload": workload.name, "precision": precision, "form": form}
        if name in failed or "exact" in failed:
            period.record_failure(case, failed.get(name) or f"nothing to compare with: {failed['exact']}")
            continue
        (first, second, seconds), exact = done[name], done["exact"][0]
        measured = {
            "relative error": float(np.linalg.norm(first - exact) / np.linalg.norm(exact)),
            "cosine": float(first @ exact / np.linalg.norm(first) / np.linalg.norm(exact)),
            "the same bits twice": bool(np.array_equal(first, second)),
            "compile s": seconds,
        }
        period.record(case, measured)


def _gradient(workload: Workload, data: Arrays, precision: str, form: str) -> tuple[np.ndarray, np.ndarray, float]:
    """The meta-gradient, twice, and the seconds of compiling it."""
    dtype = "bfloat16" if precision.startswith("bfloat16") else None
    with jax.default_matmul_precision(PRECISIONS[precision]):
        return _twice(workload, data, Way("unrolled", "vmap", form, dtype=dtype))


def _exact_gradient(workload: Workload, data: Arrays) -> tuple[np.ndarray, np.ndarray, float]:
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return _twice(workload, data, Way("unrolled", "vmap", "patches"), jnp.float64)


def _twice(
    workload: Workload, data: Arrays, way: Way, dtype: Any = jnp.float32
) -> tuple[np.ndarray, np.ndarray, float]:
    grad_fn, params = gradient_of(workload, data, way)
    wide = lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf  # noqa: E731
    arguments = (*jax.tree.map(wide, (params, tasks_of(data))), jax.random.key(0))
    began = time.perf_counter()
    compiled = jax.jit(lambda *arguments: grad_fn(*arguments)[1]).lower(*arguments).compile()
    seconds = time.perf_counter() - began
    first, second = (
        np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(compiled(*arguments))])
        for _ in range(2)
    )
    return first, second, seconds
