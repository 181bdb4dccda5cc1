"""Time several ways of the same computation in one process: compile them in parallel, and time them in rounds."""

import concurrent.futures
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .period import reason_of

PRECISIONS = {"float32": "float32", "TF32": "tensorfloat32", "bfloat16 activations": "tensorfloat32"}
"""Precision of float32 products, as for `jax.default_matmul_precision`; it does not affect bfloat16 products."""


def compiled_together(builds: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Call all `build()`s in several threads; return the results, and the reasons of failures, by name."""
    done, failed = {}, {}
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        futures = {name: pool.submit(build) for name, build in builds.items()}
        for name, future in futures.items():
            try:
                done[name] = future.result()
            except Exception as error:
                failed[name] = reason_of(error)
    return done, failed


def in_turns(
    runs: Mapping[str, Callable[[int], None]], *, rounds: int, least_seconds: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the seconds of a call, for each round, by name; and the reasons of failures, such as too little memory.

    Args:
      runs: functions `num_calls -> None`, by name; the calls are finished when one returns.
      rounds: number of times that each is timed.
      least_seconds: shortest time of a round of each.
    """
    num_calls, failed = {}, {}
    for name, run in runs.items():
        try:
            run(1)
            num_calls[name] = max(1, round(least_seconds / timed(run, 1)))
        except Exception as error:
            failed[name] = reason_of(error)
    seconds: dict[str, list[float]] = {name: [] for name in num_calls}
    for _ in range(rounds):
        for name in list(seconds):
            try:
                seconds[name].append(timed(runs[name], num_calls[name]) / num_calls[name])
            except Exception as error:
                failed[name] = reason_of(error)
                del seconds[name]
    return seconds, failed


def timed(run: Callable[[int], None], num_calls: int) -> float:
    """Return the seconds of that many calls."""
    start = time.perf_counter()
    run(num_calls)
    return time.perf_counter() - start


def products(size: int) -> dict[str, Callable[[int], None]]:
    """Build a large matrix product in each precision, the card's practical peak: `2 size³` FLOP each."""
    key_a, key_b = jax.random.split(jax.random.key(0))
    found = {}
    for name, precision in PRECISIONS.items():
        dtype = jnp.bfloat16 if name.startswith("bfloat16") else jnp.float32
        a, b = (jax.random.normal(key, (size, size), dtype) for key in (key_a, key_b))
        with jax.default_matmul_precision(precision):
            product = jax.jit(jnp.matmul).lower(a, b).compile()

        def run(num_calls: int, product: Any = product, a: jax.Array = a, b: jax.Array = b) -> None:
            jax.block_until_ready([product(a, b) for _ in range(num_calls)][-1])

        found[name] = run
    return found


def ratio(seconds: list[float], others: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(seconds, others, strict=True))
