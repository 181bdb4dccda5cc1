"""Regression on samples of Gaussian processes: the tasks that neural processes are judged on, with an exact answer.

A task draws the kernel's hyper-parameters, how many points there are, where they are, and a noisy function at them.
`learners.exact_gaussian_process` is the Bayes-optimal learner of these tasks.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ..bounds import is_real, is_whole
from ..types import Batch, RandomKey, Task
from .kernels import Kernel

__all__ = ["Count", "Points", "gaussian_process", "check_points", "count_ends", "first_points"]

Count = int | tuple[int, int]
"""A number of points, or the smallest and the largest, from which every task draws its own."""


def gaussian_process(
    kernel: Kernel,
    *,
    num_shots: Count,
    num_queries: Count,
    noise: float,
    inputs: tuple[float, float] = (-2.0, 2.0),
    query_inputs: tuple[float, float] | None = None,
    max_points: int | None = None,
) -> Partial:
    """A sampler of noisy functions f(x) + ε, with f a Gaussian process of mean zero and ε normal.

    Args:
      kernel: the covariance of f, from `tasks.kernels`.
      num_shots: points of the support; a range is drawn from uniformly, both ends included, and padded and masked.
      num_queries: points of the query, likewise.
      noise: standard deviation of ε, positive, in support and query. In float32 a covariance of many near points needs
        about 0.01 of the kernel's scale, or it has no Cholesky factor and `y` is NaN.
      inputs: lowest and highest x, drawn uniformly.
      query_inputs: those of the query, where they differ: beyond the support's, to extrapolate.
      max_points: the most points that support and query have together; the range of `num_queries` ends there.

    Returns:
      `sample(key) -> Task`, with `x` and `y` of shape `[points, 1]`, float64 where JAX computes in it, else float32.
      Masks are `None` where the number of points is fixed.

    Raises:
      ValueError: if a range is empty or not positive, or `max_points` leaves no query.

    Example:
      >>> import jax
      >>> from jmeta import tasks
      >>> kernel = tasks.kernels.rbf(length_scale=(0.1, 0.6), scale=(0.1, 1.0))
      >>> sample = tasks.gaussian_process(kernel, num_shots=(3, 46), num_queries=(3, 46), noise=0.02, max_points=49)
      >>> task = sample(jax.random.key(0))
      >>> task.support.x.shape, int(task.support.mask.sum() + task.query.mask.sum()) <= 49
      ((46, 1), True)

    Reference:
      The ranges of the example are those of Nguyen and Grover, "Transformer Neural Processes", 2022, arXiv:2207.04179.
    """
    points = check_points(num_shots, num_queries, noise, inputs, query_inputs, max_points)
    return Partial(_GaussianProcess(kernel, points, noise))


@dataclass(frozen=True)
class Points:
    """How many points the support and the query of a task have, and where; see `gaussian_process`."""

    num_shots: tuple[int, int]
    num_queries: tuple[int, int]
    inputs: tuple[float, float]
    query_inputs: tuple[float, float]
    max_points: int | None

    def draw_counts(self, key_shots: RandomKey, key_queries: RandomKey) -> tuple[jax.Array, jax.Array]:
        num_shots = jax.random.randint(key_shots, (), self.num_shots[0], self.num_shots[1] + 1)
        most = self.num_queries[1]
        if self.max_points is not None:
            most = jnp.minimum(most, self.max_points - num_shots)
        return num_shots, jax.random.randint(key_queries, (), self.num_queries[0], most + 1)

    def draw_inputs(self, key_support: RandomKey, key_query: RandomKey) -> jax.Array:
        dtype = jnp.result_type(float)
        support = jax.random.uniform(key_support, (self.num_shots[1], 1), dtype, *self.inputs)
        query = jax.random.uniform(key_query, (self.num_queries[1], 1), dtype, *self.query_inputs)
        return jnp.concatenate([support, query])

    def task(self, x: jax.Array, y: jax.Array, num_shots: jax.Array, num_queries: jax.Array) -> Task:
        """Divide points, drawn by `draw_inputs`, into a task."""
        most = self.num_shots[1]
        support = first_points(x[:most], y[:most], num_shots, self.num_shots)
        return Task(support, first_points(x[most:], y[most:], num_queries, self.num_queries))


def check_points(
    num_shots: Count,
    num_queries: Count,
    noise: float,
    inputs: tuple[float, float],
    query_inputs: tuple[float, float] | None,
    max_points: int | None,
) -> Points:
    """Return the numbers and places of a task's points, after checking the arguments of `gaussian_process`.

    Example:
      >>> check_points(5, (1, 10), 0.1, (-2.0, 2.0), None, None).num_queries
      (1, 10)
    """
    shots, queries = count_ends("num_shots", num_shots, 0), count_ends("num_queries", num_queries, 1)
    if max_points is not None and max_points < shots[1] + queries[0]:
        raise ValueError(
            f"max_points={max_points} is less than the {shots[1]} support points and {queries[0]} query points that a "
            "task may have; pass more, or lower num_shots"
        )
    if not is_real(noise, above=0):
        raise ValueError(f"noise={noise}; expected a positive standard deviation")
    query_inputs = inputs if query_inputs is None else query_inputs
    for name, (low, high) in {"inputs": inputs, "query_inputs": query_inputs}.items():
        if not low < high:
            raise ValueError(f"{name}=({low}, {high}) is an empty range; pass (lowest, highest)")
    return Points(shots, queries, inputs, query_inputs, max_points)


@dataclass(frozen=True)
class _GaussianProcess:
    kernel: Kernel
    points: Points
    noise: float

    def __call__(self, key: RandomKey) -> Task:
        key_unit, key_shots, key_queries, key_support, key_query, key_y = jax.random.split(key, 6)
        counts = self.points.draw_counts(key_shots, key_queries)
        x = self.points.draw_inputs(key_support, key_query)
        unit = jax.random.uniform(key_unit, (self.kernel.num_drawn,), x.dtype)
        covariance = self.kernel.gram(unit, x, x) + self.noise**2 * jnp.eye(len(x), dtype=x.dtype)
        y = jnp.linalg.cholesky(covariance) @ jax.random.normal(key_y, (len(x), 1), x.dtype)
        return self.points.task(x, y, *counts)


def first_points(x: jax.Array, y: jax.Array, count: jax.Array, ends: tuple[int, int]) -> Batch:
    """Return the first `count` points as a batch, padded and masked unless every task has as many.

    Example:
      >>> import jax.numpy as jnp
      >>> first_points(jnp.ones((3, 1)), jnp.ones((3, 1)), jnp.int32(2), (1, 3)).mask.tolist()
      [True, True, False]
    """
    if ends[0] == ends[1]:
        return Batch(x, y)
    is_real = jnp.arange(len(x)) < count
    blank = lambda values: jnp.where(is_real[:, None], values, 0)  # noqa: E731
    return Batch(blank(x), blank(y), is_real)


def count_ends(name: str, count: Count, least: int) -> tuple[int, int]:
    """Return the smallest and the largest number of points.

    Raises:
      ValueError: if the smallest is less than `least`, or the range is empty.

    Example:
      >>> count_ends("num_shots", 5, 0), count_ends("num_shots", (1, 10), 0)
      ((5, 5), (1, 10))
    """
    low, high = count if isinstance(count, tuple) else (count, count)
    if not (is_whole(low, least=least) and is_whole(high, least=low)):
        raise ValueError(
            f"{name}={count}; expected a number of points, at least {least}, or a range (low, high) of them"
        )
    return low, high
