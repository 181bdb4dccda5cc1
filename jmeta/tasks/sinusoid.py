"""Sinusoid regression, the smallest problem on which meta-learning works visibly.

A task is one wave y = a sin(x − φ); a few points of it are the support. No data set is involved: waves are drawn.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ..types import Batch, RandomKey, Task
from .class_arrays import check_positive

__all__ = ["sinusoid"]


def sinusoid(
    *,
    num_shots: int,
    num_queries: int,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, jnp.pi),
    inputs: tuple[float, float] = (-5.0, 5.0),
) -> Partial:
    """Build a sampler of sine waves y = a sin(x − φ), each number drawn uniformly from its range.

    Args:
      num_shots: number of points in the support.
      num_queries: number of points in the query.
      amplitude: lowest and highest a.
      phase: lowest and highest φ, in radians.
      inputs: lowest and highest x.

    Returns:
      `sample(key) -> Task`, with float32 `x` and `y` of shape `[points, 1]`.

    Raises:
      ValueError: if a number of points is not positive or a range is empty.

    Example:
      >>> import jax
      >>> task = sinusoid(num_shots=10, num_queries=10)(jax.random.key(0))
      >>> task.support.x.shape, task.query.y.shape
      ((10, 1), (10, 1))

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
      arXiv:1703.03400, section 5.1. The paper gives the ranges, the authors' code the sign of φ.
    """
    check_positive({"num_shots": num_shots, "num_queries": num_queries})
    for name, (low, high) in {"amplitude": amplitude, "phase": phase, "inputs": inputs}.items():
        if not low <= high:
            raise ValueError(f"{name}=({low}, {high}) is an empty range; pass (lowest, highest)")
    return Partial(_Sinusoid(num_shots, num_queries, amplitude, phase, inputs))


@dataclass(frozen=True)
class _Sinusoid:
    num_shots: int
    num_queries: int
    amplitude: tuple[float, float]
    phase: tuple[float, float]
    inputs: tuple[float, float]

    def __call__(self, key: RandomKey) -> Task:
        key_amplitude, key_phase, key_inputs = jax.random.split(key, 3)
        amplitude = jax.random.uniform(key_amplitude, (), jnp.float32, *self.amplitude)
        phase = jax.random.uniform(key_phase, (), jnp.float32, *self.phase)
        x = jax.random.uniform(key_inputs, (self.num_shots + self.num_queries, 1), jnp.float32, *self.inputs)
        y = amplitude * jnp.sin(x - phase)
        return Task(Batch(x[: self.num_shots], y[: self.num_shots]), Batch(x[self.num_shots :], y[self.num_shots :]))
