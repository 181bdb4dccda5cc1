"""How many tasks to compute at once: on a CPU as many as stay in its caches.

On accelerators all tasks at once keep the device busy, unless fewer were measured to (`jmeta.accelerators`). On a CPU a
few are enough for that, and each further one only adds to what is in memory at a time; tasks of a convolutional network
are best taken singly, those of a small multilayer perceptron by the hundred. What tells the two apart is the size of
what one task computes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from .accelerators import choice

CACHE_BYTES = 32 * 2**20
"""Of intermediate values, at most, that are computed at once on a CPU. Measured on two cores with 32 MB of cache: a
meta-step of MAML on a thousand sinusoids, where this gives 125 at once, takes half the time of all at once, and as long
with any number from 10 to 250, while 500 at once take a third longer."""


def tasks_at_once(fn: Callable[..., Any], stacked: tuple[Any, ...], num_tasks: int) -> int:
    """The largest divisor of `num_tasks` whose tasks compute no more than `CACHE_BYTES`, or as `choice` says of a card.

    All, if the only divisors are far smaller than what would fit. On a CPU the function is traced once more for this.

    Args:
      fn: of one task.
      stacked: its arguments for all tasks, which are on the first axis of every leaf.
      num_tasks: in all, at least 1.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jax.ShapeDtypeStruct((9, 2**21), jnp.float32)  # 8 MB of sines each
      >>> tasks_at_once(lambda row: jnp.sin(row).sum(), (rows,), 9) in (3, 9)  # on a CPU four, which do not divide nine
      True
    """
    if jax.default_backend() != "cpu":
        return largest_divisor(num_tasks, choice(jax.devices()[0].device_kind).tasks_at_once or num_tasks)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
    return largest_divisor(num_tasks, max(CACHE_BYTES // max(computed_bytes(fn, one), 1), 1))


def largest_divisor(num_tasks: int, at_most: int) -> int:
    """The largest divisor of a number of tasks that is no larger than `at_most`; all if it is far smaller than that.

    Example:
      >>> largest_divisor(32, 20), largest_divisor(31, 20), largest_divisor(32, 100)
      (16, 31, 32)
    """
    at_most = min(at_most, num_tasks)
    best = max(count for count in range(1, at_most + 1) if num_tasks % count == 0)
    return best if 4 * best >= at_most else num_tasks  # such as a prime number of small tasks


def chunk_size(batching: str | int, fn: Callable[..., Any], stacked: tuple[Any, ...], num_tasks: int) -> int:
    """How many tasks a `batching` computes at once: `"vmap"` all, `"scan"` one, a number so many, `"auto"` see above.

    Args:
      batching: as given to `over_tasks`.
      fn, stacked, num_tasks: as for `tasks_at_once`; looked at for `"auto"` alone.

    Example:
      >>> import jax.numpy as jnp
      >>> [chunk_size(batching, jnp.sin, (jnp.zeros(6),), 6) for batching in ("vmap", "scan", 3)]
      [6, 1, 3]
    """
    if batching == "auto":
        return tasks_at_once(fn, stacked, num_tasks)
    return {"vmap": num_tasks, "scan": 1}.get(str(batching)) or int(batching)


def computed_bytes(fn: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """The size of all values that a function computes on the way: of a loop, its body once, and its results.

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
    """Those that compute something: not calls but what is in them, and loops with it."""
    for equation in jaxpr.eqns:
        inner = [part for value in equation.params.values() for part in _jaxprs(value)]
        yield from (each for part in inner for each in _equations(part))
        if not inner or equation.primitive.name == "scan":  # whose stacked results are computed beside its body's
            yield equation


def _jaxprs(value: Any) -> list[Jaxpr]:
    values = value if isinstance(value, tuple | list) else [value]
    found = [each for each in values if isinstance(each, Jaxpr | ClosedJaxpr)]
    return [each if isinstance(each, Jaxpr) else each.jaxpr for each in found]  # one class, in newer versions of JAX
