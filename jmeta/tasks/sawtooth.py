"""Regression on sawtooth waves, which are periodic and jump: no Gaussian process describes them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ..types import RandomKey, Task
from .gaussian_process import Count, Points, check_points

__all__ = ["sawtooth"]


def sawtooth(
    *,
    num_shots: Count,
    num_queries: Count,
    noise: float,
    frequency: tuple[float, float] = (2.0, 4.0),
    inputs: tuple[float, float] = (-2.0, 2.0),
    query_inputs: tuple[float, float] | None = None,
    max_points: int | None = None,
) -> Partial:
    """Build a sampler of noisy sawtooth waves, (±ω x − u) mod 1 + ε, that rise or fall with equal probability.

    The frequency ω and the offset u, in [0, 1), are drawn uniformly; ε is normal.

    Args:
      frequency: lowest and highest ω, in periods per unit of x; positive.

    The other arguments, and what is returned, are those of `gaussian_process`.

    Raises:
      ValueError: as `gaussian_process`, or if the range of frequencies is empty or not positive.

    Example:
      >>> import jax
      >>> task = sawtooth(num_shots=(0, 30), num_queries=50, noise=0.1)(jax.random.key(0))
      >>> task.support.x.shape, task.query.y.shape
      ((30, 1), (50, 1))

    Reference:
      Bruinsma, Markou, Requeima, Foong, Andersson, Vaughan, Buonomo, Hosking, Turner, "Autoregressive Conditional
      Neural Processes", 2023, arXiv:2303.14468, and its library neuralprocesses.
    """
    points = check_points(num_shots, num_queries, noise, inputs, query_inputs, max_points)
    if not 0 < frequency[0] <= frequency[1] < float("inf"):
        raise ValueError(f"frequency={frequency}; expected a range (low, high) of positive numbers")
    return Partial(_Sawtooth(points, noise, frequency))


@dataclass(frozen=True)
class _Sawtooth:
    points: Points
    noise: float
    frequency: tuple[float, float]

    def __call__(self, key: RandomKey) -> Task:
        keys = jax.random.split(key, 8)
        counts = self.points.draw_counts(keys[0], keys[1])
        x = self.points.draw_inputs(keys[2], keys[3])
        frequency = jax.random.uniform(keys[4], (), x.dtype, *self.frequency)
        slope = jnp.where(jax.random.bernoulli(keys[5]), frequency, -frequency)
        wave = (slope * x - jax.random.uniform(keys[6], (), x.dtype)) % 1
        y = wave + self.noise * jax.random.normal(keys[7], x.shape, x.dtype)
        return self.points.task(x, y, *counts)
