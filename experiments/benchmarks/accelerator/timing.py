"""Ways of doing the same in turns in one process: compiled beside one another, and timed in rounds."""

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
"""How products of float32 are computed, as `jax.default_matmul_precision`; those of bfloat16 are what they are."""


def compiled_together(builds: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """What each `build()` returns, by name, and of those that failed the reason; several threads compile at once."""
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
    """Seconds of a call, for each round, by name; and of those that failed, such as for want of memory, the reason.

    Args:
      runs: each makes so many calls, finished when it returns.
      rounds: how often each is timed.
      least_seconds: of a round of each.
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
    """Seconds of so many calls."""
    start = time.perf_counter()
    run(num_calls)
    return time.perf_counter() - start


def products(size: int) -> dict[str, Callable[[int], None]]:
    """A large product of matrices in each precision: the most that the card does, in `2 size³` FLOP."""
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
    """The median of the ratios of rounds."""
    return statistics.median(a / b for a, b in zip(seconds, others, strict=True))
