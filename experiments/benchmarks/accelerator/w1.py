"""W1, second-order MAML on images: forms of convolution, precisions and batchings, compared with a large product.

Ways of one size are compiled together and timed in turns with the product, so that their ratios and shares of the peak
come from the same minutes. The most valuable groups run first; the section ends when it would not finish another.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import with_jax
from ..workloads import Arrays, Workload, arrays
from .period import Period
from .timing import PRECISIONS, compiled_together, in_turns, products, ratio

FORMS = ("xla", "patches", "first layer shared")
"""Forms of convolution: the compiler's grouped convolution; patches and a batched product; the same by hand, where the
first layer's patches are extracted once for all inner steps."""


class Point(NamedTuple):
    """A way of computing a workload; `batching` is `"vmap"` or a number of tasks at once."""

    form: str
    precision: str
    batching: str


def run(period: Period) -> None:
    """Record rows of all groups that fit into the time."""
    longest, rounds, least = 0.0, (1 if period.is_tiny else 5), (0.01 if period.is_tiny else 0.2)
    size = 256 if period.is_tiny else 8192
    peaks = products(size)
    for i, (workload, batching) in enumerate(_groups(period.is_tiny)):
        if period.seconds_left() < 1.2 * longest:
            period.record_failure({"workload": workload.name, "batching": batching}, "no time was left")
            continue
        began, data = time.time(), arrays(workload)
        points = [Point(form, precision, batching) for form in FORMS for precision in PRECISIONS]
        points = [point for point in points if _is_there(point)]
        points = [Point("patches", "float32", batching)] if period.is_tiny else points
        _measure(period, workload, data, points, peaks, size, rounds, least)
        if i == 0 and not period.is_tiny:
            _shared_and_own_weights(period, workload, data, rounds, least)
        longest = max(longest, time.time() - began)


def _groups(is_tiny: bool) -> list[tuple[Workload, str]]:
    if is_tiny:
        return [(Workload("W1", 1, 1), "vmap")]
    sizes = [(32, 5, "vmap"), (256, 5, "vmap"), (256, 5, "32"), (32, 1, "vmap"), (256, 1, "vmap"), (4, 5, "vmap")]
    sizes += [(4, 1, "vmap"), (32, 5, "8"), (256, 1, "32"), (256, 5, "64")]
    return [(Workload("W1", tasks, steps), batching) for tasks, steps, batching in sizes]


def _is_there(point: Point) -> bool:
    """Return whether a way exists: code by hand has only float32 activations and all tasks at once."""
    by_library = point.form != "first layer shared"
    return by_library or (point.batching == "vmap" and not point.precision.startswith("bfloat16"))


def _measure(
    period: Period,
    workload: Workload,
    data: Arrays,
    points: list[Point],
    peaks: dict[str, Callable[[int], None]],
    size: int,
    rounds: int,
    least_seconds: float,
) -> None:
    done, failed = compiled_together(
        {", ".join(point): functools.partial(_built, workload, data, point) for point in points}
    )
    runs = {**{name: built[1] for name, built in done.items()}, **{f"peak {name}": run for name, run in peaks.items()}}
    seconds, failed_to_run = in_turns(runs, rounds=rounds, least_seconds=least_seconds)
    failed |= failed_to_run
    for precision in dict.fromkeys(point.precision for point in points):
        rate = 2 * size**3 / statistics.median(seconds[f"peak {precision}"])
        case = {"workload": f"product of {size} x {size}", "form": "", "precision": precision, "batching": ""}
        period.record(case, {"TFLOP/s": rate / 1e12})
    for point in points:
        name = ", ".join(point)
        case = {"workload": workload.name, **point._asdict()}
        if name in failed:
            period.record_failure(case, failed[name])
            continue
        compiled, _, compile_seconds = done[name]
        median, peak = statistics.median(seconds[name]), seconds[f"peak {point.precision}"]
        measured = {
            "TFLOP/s": workload.useful_flops / median / 1e12,
            "share of the product's": workload.useful_flops / (2 * size**3) / ratio(seconds[name], peak),
            "ms a meta-step": median * 1e3,
            "tasks a second": workload.tasks / median,
            "temporary MB": compiled.memory_analysis().temp_size_in_bytes / 1e6,
            "compile s": compile_seconds,
        }
        period.record(case, measured)


def _built(workload: Workload, data: Arrays, point: Point) -> tuple[Any, Callable[[int], None], float]:
    """Return the compiled program, a function that runs it, and the seconds of compiling it along with the others."""
    began = time.perf_counter()
    with jax.default_matmul_precision(PRECISIONS[point.precision]):
        if point.form == "first layer shared":
            made = with_jax.lowered_by_hand(workload, data, point.batching, shares_first_layer=True)
        else:
            dtype = "bfloat16" if point.precision.startswith("bfloat16") else None
            made = with_jax.lowered(workload, data, with_jax.Way("unrolled", point.batching, point.form, dtype=dtype))
    return *made, time.perf_counter() - began


def _shared_and_own_weights(
    period: Period, workload: Workload, data: Arrays, rounds: int, least_seconds: float
) -> None:
    """Time a gradient of all queries with weights shared by all tasks and with own weights: the same arithmetic."""
    tasks = with_jax.tasks_of(data)
    for form in ("xla", "patches"):
        loss, params = with_jax.query_loss(workload, data, form)
        own = jax.tree.map(lambda leaf: jnp.stack([leaf] * workload.tasks), params)
        shared_grad = jax.grad(lambda params, tasks, loss=loss: jax.vmap(loss, (None, 0))(params, tasks).mean())
        fns = {"shared": (shared_grad, (params, tasks)), "own": (jax.vmap(jax.grad(loss)), (own, tasks))}
        builds = {name: functools.partial(_compiled, *each) for name, each in fns.items()}
        done, failed = compiled_together(builds)
        runs = {name: _calls(compiled, fns[name][1]) for name, compiled in done.items()}
        seconds, failed_to_run = in_turns(runs, rounds=rounds, least_seconds=least_seconds)
        failed |= failed_to_run
        case = {"workload": f"gradient of the query, {workload.name}", "form": form, "precision": "JAX's default"}
        if failed:
            period.record_failure(case, "; ".join(f"{name} weights: {reason}" for name, reason in failed.items()))
            continue
        medians = {f"ms with {name} weights": statistics.median(each) * 1e3 for name, each in seconds.items()}
        period.record(case, {**medians, "own over shared": ratio(seconds["own"], seconds["shared"])})


def _compiled(fn: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return jax.jit(fn).lower(*arguments).compile()


def _calls(compiled: Any, arguments: tuple[Any, ...]) -> Callable[[int], None]:
    return lambda num_calls: jax.block_until_ready([compiled(*arguments) for _ in range(num_calls)][-1])
