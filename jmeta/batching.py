"""Functions of one task, applied to a batch of tasks: means, keys, and how many tasks to compute at once.

An accelerator is kept busy by all tasks at once, unless fewer were measured to be faster (`jmeta.accelerators`). A CPU
needs only a few, and each further one only takes more memory: tasks of a convolutional network are best computed one by
one, those of a small multilayer perceptron by the hundred. The size of the values that one task computes tells the two
cases apart.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array, Key

from .accelerators import choice
from .chunks import largest_divisor
from .types import PyTree, RandomKey

__all__ = [
    "CACHE_BYTES",
    "over_tasks",
    "task_keys",
    "count_tasks",
    "tasks_at_once",
    "chunk_size",
    "computed_bytes",
]

CACHE_BYTES = 32 * 2**20
"""Largest size of the intermediate values computed at once on a CPU. Measured on two cores with 32 MB of cache: for a
meta-step of MAML on a thousand sinusoids it gives 125 tasks at once, which takes half the time of all at once. Any
number from 10 to 250 takes as long; 500 at once take a third longer."""


def over_tasks(
    fn: Callable[[PyTree, PyTree, RandomKey], Any], batching: str | int = "auto"
) -> Callable[[PyTree, PyTree, RandomKey], Any]:
    """Average an episode function, or its gradient function, over stacked tasks.

    Averaging the *gradient function* with `"scan"` holds one task's residuals at a time. The gradient of an averaged
    episode function holds those of all tasks, unless `jax.checkpoint(episode_fn)` is averaged, which recomputes each
    task on the backward pass. The results agree up to rounding.

    Args:
      fn: `(meta_params, task, key) -> result`; every leaf of the result is averaged over tasks, as floating point.
      batching: `"vmap"`: all tasks at once; `"scan"`: one after another; a number: chunks of that many tasks, one chunk
        after another; `"auto"`, decided when the function is traced: on accelerators all at once, unless fewer were
        measured to be faster on the card, and on a CPU as many as its caches hold (`CACHE_BYTES`).

    Returns:
      `(meta_params, tasks, key) -> mean result`, where every leaf of `tasks` has the tasks on its first axis. Task i
      gets key i of `jax.random.split(key, num_tasks)`, whatever the batching; or `key[i]` if `key` holds one key for
      each task, as it does where the tasks are sharded (see `jmeta.sharding`).

    Raises:
      ValueError: if `batching` is none of these; at trace time, if it does not divide the number of tasks, or if
        `tasks` is not stacked.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> mean = jmeta.over_tasks(lambda meta_params, task, key: meta_params * task, batching="scan")
      >>> float(mean(2.0, jnp.array([1.0, 3.0]), jax.random.key(0)))
      4.0
    """
    is_chunk = isinstance(batching, int) and not isinstance(batching, bool) and batching > 0
    if batching not in ("auto", "vmap", "scan") and not is_chunk:
        raise ValueError(
            f"batching={batching!r}; expected 'auto', 'vmap', 'scan' or a positive number of tasks at once"
        )

    def mean_over_tasks(meta_params: PyTree, tasks: PyTree, key: Key[Array, "..."]) -> Any:
        num_tasks = count_tasks(tasks)
        keys = task_keys(key, num_tasks)
        chunk = chunk_size(batching, lambda task, key: fn(meta_params, task, key), (tasks, keys), num_tasks)
        if num_tasks % chunk:
            raise ValueError(f"batching={batching} does not divide the {num_tasks} tasks; pass a divisor, or 'vmap'")
        at_once = jax.vmap(fn, in_axes=(None, 0, 0))
        if chunk == num_tasks:
            return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), at_once(meta_params, tasks, keys))
        if chunk == 1:
            return _mean_of_scan(lambda task_and_key: fn(meta_params, *task_and_key), (tasks, keys), num_tasks)
        chunks = jax.tree.map(lambda leaf: leaf.reshape(num_tasks // chunk, chunk, *leaf.shape[1:]), (tasks, keys))
        sum_of_chunk = lambda chunk: jax.tree.map(lambda leaf: leaf.sum(0), at_once(meta_params, *chunk))  # noqa: E731
        return _mean_of_scan(sum_of_chunk, chunks, num_tasks)

    return mean_over_tasks


def task_keys(key: Key[Array, "..."], num_tasks: int) -> Key[Array, "tasks"]:
    """Return one key for each task: split a single key, or pass on keys that already are one for each task.

    Raises:
      ValueError: if there are several keys, but not one for each task.

    Example:
      >>> import jax
      >>> keys = task_keys(jax.random.key(0), 4)
      >>> keys.shape, bool((task_keys(keys, 4) == keys).all())
      ((4,), True)
    """
    if not (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim):
        return jax.random.split(key, num_tasks)
    if key.shape != (num_tasks,):
        raise ValueError(f"{num_tasks} tasks and keys of shape {key.shape}; pass one key, or one for each task")
    return key


def count_tasks(tasks: PyTree) -> int:
    """Count stacked tasks: the length of the first axis that all leaves share.

    Raises:
      ValueError: if there is no leaf, or the leaves disagree.

    Example:
      >>> import jax, jmeta
      >>> sample = jmeta.tasks.stacked(jmeta.tasks.sinusoid(num_shots=5, num_queries=5), 4)
      >>> count_tasks(sample(jax.random.key(0)))
      4
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tasks)]
    counts = {shape[0] for shape in shapes if shape}
    if len(counts) != 1 or () in shapes:
        raise ValueError(
            f"expected stacked tasks, the tasks on the first axis of every leaf, but the leaves have shapes {shapes}; "
            "stack tasks with `jax.vmap(sample)(jax.random.split(key, num_tasks))`"
        )
    (count,) = counts
    return count


def _mean_of_scan(fn: Callable[[Any], Any], xs: PyTree, count: int) -> Any:
    """Sum `fn(x)` over the leading axis of `xs` and divide by `count`, holding one result at a time.

    Sums are at least float32; means have the dtypes that `jnp.mean` gives.
    """
    # indexed inside, or `jax_debug_key_reuse` counts the first key as used twice
    first = jax.eval_shape(lambda xs: fn(jax.tree.map(lambda leaf: leaf[0], xs)), xs)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.result_type(leaf.dtype, jnp.float32)), first)

    def add(total: PyTree, x: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, fn(x)), None

    total, _ = jax.lax.scan(add, zeros, xs)
    return jax.tree.map(lambda leaf, like: (leaf / count).astype(_mean_dtype(like.dtype)), total, first)


def _mean_dtype(dtype: jnp.dtype) -> jnp.dtype:
    return jax.eval_shape(jnp.mean, jax.ShapeDtypeStruct((), dtype)).dtype


def tasks_at_once(fn: Callable[..., Any], stacked: tuple[Any, ...], num_tasks: int) -> int:
    """Choose how many tasks to compute at once: the largest divisor of `num_tasks` that fits.

    On a CPU that many tasks compute no more than `CACHE_BYTES`; on an accelerator `choice` sets the limit. If all such
    divisors are far below the limit, all tasks are taken at once. On a CPU this traces the function once more.

    Args:
      fn: function of one task.
      stacked: its arguments for all tasks, with the tasks on the first axis of every leaf.
      num_tasks: number of all tasks, at least 1.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jax.ShapeDtypeStruct((9, 2**21), jnp.float32)  # 8 MB of sines each
      >>> tasks_at_once(lambda row: jnp.sin(row).sum(), (rows,), 9) in (3, 9)  # a CPU fits 4, which do not divide 9
      True
    """
    if jax.default_backend() != "cpu":
        return largest_divisor(num_tasks, choice(jax.devices()[0].device_kind).tasks_at_once or num_tasks)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
    return largest_divisor(num_tasks, max(CACHE_BYTES // max(computed_bytes(fn, one), 1), 1))


def chunk_size(batching: str | int, fn: Callable[..., Any], stacked: tuple[Any, ...], num_tasks: int) -> int:
    """Return the number of tasks that a `batching` computes at once.

    Args:
      batching: as in `over_tasks`.
      fn, stacked, num_tasks: as in `tasks_at_once`; `fn` and `stacked` are used by `"auto"` only.

    Example:
      >>> import jax.numpy as jnp
      >>> [chunk_size(batching, jnp.sin, (jnp.zeros(6),), 6) for batching in ("vmap", "scan", 3)]
      [6, 1, 3]
    """
    if batching == "auto":
        return tasks_at_once(fn, stacked, num_tasks)
    return {"vmap": num_tasks, "scan": 1}.get(str(batching)) or int(batching)


def computed_bytes(fn: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """Return the size in bytes of all values that a function computes; a loop counts its body once, and its results.

    Example:
      >>> import jax.numpy as jnp
      >>> computed_bytes(lambda x: jnp.sin(x) + 1, (jnp.zeros(10),))
      80
    """
    return sum(
        output.aval.size * output.aval.dtype.itemsize
        for equation in _equations(jax.make_jaxpr(fn)(*arguments).jaxpr)
        for output in equation.outvars
        if hasattr(output.aval, "dtype")
    )


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """Yield the equations that compute something: those inside calls, not the calls; loops and their bodies."""
    for equation in jaxpr.eqns:
        inner = [part for value in equation.params.values() for part in _jaxprs(value)]
        yield from (each for part in inner for each in _equations(part))
        if not inner or equation.primitive.name == "scan":  # a scan also computes its stacked results
            yield equation


def _jaxprs(value: Any) -> list[Jaxpr]:
    values = value if isinstance(value, tuple | list) else [value]
    found = [each for each in values if isinstance(each, Jaxpr | ClosedJaxpr)]
    return [each if isinstance(each, Jaxpr) else each.jaxpr for each in found]  # newer versions of JAX have one class
