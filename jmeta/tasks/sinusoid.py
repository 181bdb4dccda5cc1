"""Sinusoid regression, the smallest problem on which meta-learning works visibly.

A task is one wave y = a sin(ω x − φ), usually with ω = 1; a few points of it are the support. No data set is involved:
waves are drawn.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ..bounds import is_real
from ..types import Batch, RandomKey, Task
from .class_arrays import check_positive
from .finite import finite
from .source import Source

__all__ = ["sinusoid", "finite_sinusoid_source"]


def sinusoid(
    *,
    num_shots: int,
    num_queries: int,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, jnp.pi),
    inputs: tuple[float, float] = (-5.0, 5.0),
    frequency: tuple[float, float] = (1.0, 1.0),
    noise: float = 0.0,
) -> Partial:
    """Build a sampler of sine waves y = a (sin(ω x − φ) + ε), each number drawn uniformly from its range.

    Args:
      num_shots: number of points in the support.
      num_queries: number of points in the query.
      amplitude: lowest and highest a.
      phase: lowest and highest φ, in radians.
      inputs: lowest and highest x.
      frequency: lowest and highest ω, in radians per unit of x.
      noise: standard deviation of the normal noise ε of every point, relative to the amplitude.

    Returns:
      `sample(key) -> Task`, with float32 `x` and `y` of shape `[points, 1]`.

    Raises:
      ValueError: if a number of points is not positive, a range is empty, or `noise` is negative.

    Example:
      >>> import jax
      >>> task = sinusoid(num_shots=10, num_queries=10)(jax.random.key(0))
      >>> task.support.x.shape, task.query.y.shape
      ((10, 1), (10, 1))

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
      arXiv:1703.03400, section 5.1. The paper gives the ranges, the authors' code the sign of φ. Kim, Yoon et al.,
      "Bayesian Model-Agnostic Meta-Learning", 2018, arXiv:1806.03836, section 5.1, draw `frequency=(0.5, 2.0)` and
      `phase=(0.0, 2 * jnp.pi)`, with `noise=0.01`.
    """
    check_positive({"num_shots": num_shots, "num_queries": num_queries})
    ranges = {"amplitude": amplitude, "phase": phase, "inputs": inputs, "frequency": frequency}
    for name, (low, high) in ranges.items():
        if not (is_real(low) and is_real(high, least=low)):
            raise ValueError(f"{name}=({low}, {high}) is an empty range; pass (lowest, highest)")
    if not is_real(noise, least=0):
        raise ValueError(f"noise={noise}; expected a standard deviation of at least 0")
    return Partial(_Sinusoid(num_shots, num_queries, amplitude, phase, inputs, frequency, noise))


def finite_sinusoid_source(
    *, num_train_tasks: int, train_shots: int, train_queries: int, num_shots: int, num_queries: int
) -> Source:
    """Return the tasks of an experiment on noisy waves of unknown frequency, of which training sees a finite set.

    Tasks of validation and test are new. Amplitudes are in [0.1, 5], frequencies in [0.5, 2], phases on the whole
    circle, and the noise has a hundredth of the amplitude.

    Args:
      num_train_tasks: size of the set; a task's support and query are fixed with it.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> source = finite_sinusoid_source(
      ...     num_train_tasks=100, train_shots=10, train_queries=10, num_shots=5, num_queries=20)
      >>> source.describe(1000)
      'sinusoids of unknown frequency, 5-shot, 20 queries, 1000 tasks'

    Reference:
      Kim, Yoon, Dia, Kim, Bengio, Ahn, "Bayesian Model-Agnostic Meta-Learning", 2018, arXiv:1806.03836, section 5.1.
    """
    draw = functools.partial(sinusoid, frequency=(0.5, 2.0), phase=(0.0, 2 * math.pi), noise=0.01)
    trained = draw(num_shots=train_shots, num_queries=train_queries)
    tested = draw(num_shots=num_shots, num_queries=num_queries)
    name = "sinusoids of unknown frequency"
    of_set = finite(trained, num_train_tasks, jax.random.key(0))

    def described(num_shots: int, num_queries: int) -> Callable[[int], str]:
        return lambda num_tasks: f"{name}, {num_shots}-shot, {num_queries} queries, {num_tasks} tasks"

    return Source(
        meta_train=lambda: of_set,
        meta_valid=trained,
        meta_test=tested,
        name=name,
        describe=described(num_shots, num_queries),
        describe_valid=described(train_shots, train_queries),
    )


@dataclass(frozen=True)
class _Sinusoid:
    num_shots: int
    num_queries: int
    amplitude: tuple[float, float]
    phase: tuple[float, float]
    inputs: tuple[float, float]
    frequency: tuple[float, float]
    noise: float

    def __call__(self, key: RandomKey) -> Task:
        is_plain = self.frequency == (1.0, 1.0) and self.noise == 0
        key_amplitude, key_phase, key_inputs, *others = jax.random.split(key, 3 if is_plain else 5)
        amplitude = jax.random.uniform(key_amplitude, (), jnp.float32, *self.amplitude)
        phase = jax.random.uniform(key_phase, (), jnp.float32, *self.phase)
        x = jax.random.uniform(key_inputs, (self.num_shots + self.num_queries, 1), jnp.float32, *self.inputs)
        if is_plain:
            y = amplitude * jnp.sin(x - phase)
        else:
            frequency = jax.random.uniform(others[0], (), jnp.float32, *self.frequency)
            noise = self.noise * jax.random.normal(others[1], x.shape, jnp.float32)
            y = amplitude * (jnp.sin(frequency * x - phase) + noise)
        return Task(Batch(x[: self.num_shots], y[: self.num_shots]), Batch(x[self.num_shots :], y[self.num_shots :]))
