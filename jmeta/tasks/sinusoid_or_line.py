"""Ambiguous regression: half of the tasks are sinusoids, half are lines, and a few noisy points may not tell which.

A learner that adapts to one curve is wrong about what it does not know; `learners.exact_sinusoid_or_line` knows it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ..bounds import is_real
from ..types import Batch, RandomKey, Task
from .class_arrays import check_positive
from .gaussian_process import Count, count_ends, first_points
from .source import Source

__all__ = ["SINUSOIDS", "LINES", "sinusoid_or_line", "sinusoid_or_line_source"]

SINUSOIDS = ((0.1, 5.0), (0.0, float(jnp.pi)))
"""The lowest and the highest amplitude a and phase φ of the sinusoids a sin(x − φ)."""
LINES = ((-3.0, 3.0), (-3.0, 3.0))
"""The lowest and the highest slope b and intercept c of the lines b x + c."""


def sinusoid_or_line(
    *, num_shots: Count, num_queries: int, noise: float = 0.3, inputs: tuple[float, float] = (-5.0, 5.0)
) -> Partial:
    """Build a sampler of noisy sinusoids and lines, of equal probability; their numbers are drawn uniformly.

    Args:
      num_shots: number of points in the support; a range is drawn from uniformly, both ends included, and padded and
        masked.
      num_queries: number of points in the query.
      noise: standard deviation of the normal noise of every y, not negative.
      inputs: lowest and highest x.

    Returns:
      `sample(key) -> Task`, with `x` and `y` of shape `[points, 1]`, float64 where JAX computes in it, else float32.

    Raises:
      ValueError: if a number of points is not positive, `noise` is negative or `inputs` is empty.

    Example:
      >>> import jax
      >>> task = sinusoid_or_line(num_shots=5, num_queries=10)(jax.random.key(0))
      >>> task.support.x.shape, task.query.y.shape
      ((5, 1), (10, 1))

    Reference:
      Finn, Xu, Levine, "Probabilistic Model-Agnostic Meta-Learning", 2018, arXiv:1806.02817, section 6. The sign of φ
      is that of `sinusoid`.
    """
    shots = count_ends("num_shots", num_shots, 1)
    check_positive({"num_queries": num_queries})
    if not is_real(noise, least=0):
        raise ValueError(f"noise={noise}; expected a standard deviation of at least 0")
    if not (is_real(inputs[0]) and is_real(inputs[1], above=inputs[0])):
        raise ValueError(f"inputs={inputs} is an empty range; pass (lowest, highest)")
    return Partial(_SinusoidOrLine(shots, num_queries, noise, inputs))


def sinusoid_or_line_source(
    *, train_shots: tuple[int, int], train_queries: int, num_shots: int, num_queries: int
) -> Source:
    """Return the tasks of an experiment: a range of shots in training and validation, one number of them at test.

    Raises:
      ValueError: as `sinusoid_or_line`.

    Example:
      >>> source = sinusoid_or_line_source(train_shots=(1, 10), train_queries=20, num_shots=5, num_queries=20)
      >>> source.describe(1000)
      'sine or line, 5-shot, 20 queries, 1000 tasks'
    """
    trained = sinusoid_or_line(num_shots=train_shots, num_queries=train_queries)
    few, many = train_shots
    return Source(
        meta_train=lambda: trained,
        meta_valid=trained,
        meta_test=sinusoid_or_line(num_shots=num_shots, num_queries=num_queries),
        name="sine or line",
        describe=lambda num_tasks: f"sine or line, {num_shots}-shot, {num_queries} queries, {num_tasks} tasks",
        describe_valid=lambda num_tasks: f"sine or line, {few} to {many} shots, {num_tasks} tasks",
    )


@dataclass(frozen=True)
class _SinusoidOrLine:
    num_shots: tuple[int, int]
    num_queries: int
    noise: float
    inputs: tuple[float, float]

    def __call__(self, key: RandomKey) -> Task:
        keys, dtype, most_shots = jax.random.split(key, 8), jnp.result_type(float), self.num_shots[1]
        draw = lambda key, ends: jax.random.uniform(key, (), dtype, *ends)  # noqa: E731
        amplitude, phase, slope, intercept = map(draw, keys[:4], (*SINUSOIDS, *LINES))
        x = jax.random.uniform(keys[4], (most_shots + self.num_queries, 1), dtype, *self.inputs)
        curve = jnp.where(jax.random.bernoulli(keys[5]), amplitude * jnp.sin(x - phase), slope * x + intercept)
        y = curve + self.noise * jax.random.normal(keys[6], x.shape, dtype)
        num_shots = jax.random.randint(keys[7], (), self.num_shots[0], most_shots + 1)
        support = first_points(x[:most_shots], y[:most_shots], num_shots, self.num_shots)
        return Task(support, Batch(x[most_shots:], y[most_shots:]))
