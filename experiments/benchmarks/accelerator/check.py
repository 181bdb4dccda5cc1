"""Correctness of W1's meta-gradient on this card, against float64 on the CPU, by precision and form of convolution."""

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
    """Record a row for each precision and form: relative error, cosine, and whether two calls give the same bits."""
    workload = Workload("W2", 3, 2) if period.is_tiny else Workload("W1", 4, 5)
    data = arrays(workload)
    exact = _exact_gradient(workload, data)[0]
    for precision in list(PRECISIONS)[:1] if period.is_tiny else PRECISIONS:
        forms = FORMS[:1] if period.is_tiny else FORMS
        done, failed = compiled_together(
            {form: functools.partial(_gradient, workload, data, precision, form) for form in forms}
        )
        case = {"workload": workload.name, "precision": precision}
        for form, reason in failed.items():
            period.record_failure({**case, "form": form}, reason)
        for form, (first, second, seconds) in done.items():
            measured = {
                "relative error": float(np.linalg.norm(first - exact) / np.linalg.norm(exact)),
                "cosine": float(first @ exact / np.linalg.norm(first) / np.linalg.norm(exact)),
                "the same bits twice": bool(np.array_equal(first, second)),
                "compile s": seconds,
            }
            period.record({**case, "form": form}, measured)


def _gradient(workload: Workload, data: Arrays, precision: str, form: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Compute the meta-gradient twice; return both and the seconds of compiling it."""
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
