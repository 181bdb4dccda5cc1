"""Gaussian processes on learned features: the algebra that learners of deep kernels share.

With f an embedding and k₀ a base kernel, the covariance is k(x, x') = s² k₀(f(x) / ℓ, f(x') / ℓ). Each number of a
target is a process of its own, all with this kernel and a constant mean m, observed with noise of variance
σ² + jitter s². The second term bounds the condition of a covariance of n points by about n / jitter, whatever is
learned: without it, noise that is learned on tasks without noise becomes so small that float32 has no Cholesky factor.

This module has no learner. Padding is treated as points of variance 1, apart from all others and observed at the mean:
it changes nothing.

Reference: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, algorithm 2.1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..bounds import is_real
from ..distributions import Normal
from ..losses import real_examples, without_padding
from ..tasks.kernels import Kernel
from ..types import Batch, Model, PyTree, RandomKey, Task
from .comparison import embed

__all__ = [
    "ConditionedKernel",
    "DeepKernel",
    "Points",
    "Process",
    "check_positive",
    "condition",
    "deep_kernel",
    "gram",
    "initial_prior",
    "initial_scales",
    "joined",
    "log_densities",
    "marginals",
    "points",
    "variances",
]


class DeepKernel(NamedTuple):
    """The fixed part of a covariance function.

    Attributes:
      base: k₀, without drawn hyper-parameters.
      jitter: variance that is added to the noise, relative to s².
    """

    base: Kernel
    jitter: float


class Points(NamedTuple):
    """Embedded examples.

    Attributes:
      features: `[points, features]`.
      targets: `[points, numbers]`, without padding.
      is_real: which of them are not padding, `[points]`.
    """

    features: Array
    targets: Array
    is_real: Array


class Process(NamedTuple):
    """A process given its noisy values at some points.

    Attributes:
      logs: `log_length_scale`, `log_scale` and `log_noise`: the logarithms of ℓ, s and σ.
      mean: m, `[numbers]`.
      features: embedded points, `[points, features]`.
      is_real: which points are not padding, `[points]`.
      factor: lower Cholesky factor L of the covariance of the observations, `[points, points]`.
      whitened: L⁻¹ (y − m), `[points, numbers]`.
      weights: (L Lᵀ)⁻¹ (y − m), `[points, numbers]`.
    """

    logs: dict[str, Array]
    mean: Array
    features: Array
    is_real: Array
    factor: Array
    whitened: Array
    weights: Array


class ConditionedKernel(NamedTuple):
    """The adapted state of a regression learner: an embedding, and a process given the support.

    Attributes:
      params: parameters of the embedding, with the support's statistics if it stores any.
      process: the posterior.
    """

    params: PyTree
    process: Process


def check_positive(**numbers: float | int) -> None:
    """Raise `ValueError` unless every number is positive and finite."""
    for name, number in numbers.items():
        if not is_real(number, above=0):
            raise ValueError(f"{name}={number}; expected a positive number")


def deep_kernel(base: Kernel, jitter: float) -> DeepKernel:
    """Check a base kernel and a jitter.

    Raises:
      ValueError: if the kernel has hyper-parameters that are drawn, or `jitter` is negative.
    """
    if base.num_drawn:
        raise ValueError(
            f"the kernel draws {base.num_drawn} hyper-parameters for every task; pass numbers, not ranges, such as "
            "kernels.matern52(length_scale=1.0): its scales are learned, or adapted"
        )
    if not is_real(jitter, least=0):
        raise ValueError(f"jitter={jitter}; expected a number of at least 0, such as 1e-4")
    return DeepKernel(base, jitter)


def initial_scales(model: Model, params: PyTree, x: PyTree, *, length_scale: float, scale: float) -> dict[str, Array]:
    """Return log ℓ and log s; the length scale is given in units of the square root of the number of features."""
    num_features = jax.eval_shape(lambda params, x: embed(model, params, x, None), params, x).shape[1]
    numbers = {"log_length_scale": length_scale * math.sqrt(num_features), "log_scale": scale}
    return {name: jnp.asarray(math.log(number), jnp.float32) for name, number in numbers.items()}


def initial_prior(
    model: Model, key: RandomKey, task: Task, *, length_scale: float, scale: float, noise: float
) -> dict[str, PyTree]:
    """Return the meta-parameters of a regression learner: embedding, logarithms and mean."""
    _check_targets(task.support)
    params = model.init(key, task.support.x)
    logs = initial_scales(model, params, task.support.x, length_scale=length_scale, scale=scale)
    logs |= {"log_noise": jnp.asarray(math.log(noise), jnp.float32)}
    return {"params": params, "logs": logs, "mean": jnp.zeros(task.support.y.shape[1], jnp.float32)}


def gram(
    kernel: DeepKernel, logs: dict[str, Array], a: Float[Array, "a features"], b: Float[Array, "b features"]
) -> Float[Array, "a b"]:
    """Return the covariances k(a, b) of embedded points, where `logs` has `log_length_scale` and `log_scale`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.tasks import kernels
      >>> kernel = deep_kernel(kernels.rbf(length_scale=1.0), 1e-4)
      >>> logs = {"log_length_scale": jnp.zeros(()), "log_scale": jnp.log(2.0)}
      >>> gram(kernel, logs, jnp.zeros((1, 3)), jnp.zeros((1, 3))).round(3).tolist()
      [[4.0]]
    """
    inverse = jnp.exp(-logs["log_length_scale"])
    return jnp.exp(2 * logs["log_scale"]) * kernel.base.gram(jnp.zeros(0, a.dtype), a * inverse, b * inverse)


def variances(
    kernel: DeepKernel, logs: dict[str, Array], features: Float[Array, "points features"]
) -> Float[Array, "points"]:
    """Return k(x, x) at each point."""
    return jax.vmap(lambda point: gram(kernel, logs, point[None], point[None])[0, 0])(features)


def points(features: Float[Array, "points features"], batch: Batch) -> Points:
    """Pair the embedding of a batch with its targets.

    Raises:
      ValueError: if the targets are not floating-point numbers `[points, numbers]`.
    """
    _check_targets(batch)
    return Points(features, without_padding(batch).y, real_examples(batch))


def _check_targets(batch: Batch) -> None:
    """Raise `ValueError` unless the targets are floating-point numbers `[points, numbers]`."""
    if batch.y.ndim != 2 or not jnp.issubdtype(batch.y.dtype, jnp.floating):
        raise ValueError(
            f"a Gaussian process expects targets [examples, numbers] in floating point, but y has shape "
            f"{batch.y.shape} and dtype {batch.y.dtype}; give single numbers a trailing axis of 1"
        )


def joined(first: Points, second: Points) -> Points:
    """Return the points of both, in this order."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, second)


def condition(kernel: DeepKernel, logs: dict[str, Array], mean: Float[Array, "numbers"], observed: Points) -> Process:
    """Condition a process of known scales, noise and mean on observations."""
    among = gram(kernel, logs, observed.features, observed.features)
    among = jnp.where(observed.is_real[:, None] & observed.is_real[None], among, 0.0)
    noise = jnp.where(observed.is_real, _noise_variance(kernel, logs), 1.0)
    factor = jnp.linalg.cholesky(among + jnp.diag(noise))
    away = jnp.where(observed.is_real[:, None], observed.targets - mean[None], 0.0)
    whitened = jax.scipy.linalg.solve_triangular(factor, away, lower=True)
    weights = jax.scipy.linalg.solve_triangular(factor, whitened, lower=True, trans=1)
    return Process(logs, mean, observed.features, observed.is_real, factor, whitened, weights)


def log_densities(process: Process) -> Float[Array, "points"]:
    """Return the log density of each observation given those before it, in nats; 0 for padding.

    A row of the Cholesky factor for each term of log p(y₁ … yₙ) = Σᵢ log p(yᵢ | y₁ … yᵢ₋₁). The sum is the log marginal
    likelihood; the sum over the last points is the joint log density of these given the others.
    """
    num_numbers = process.whitened.shape[1]
    log_norms = num_numbers * (2 * jnp.log(jnp.diagonal(process.factor)) + math.log(2 * math.pi))
    return jnp.where(process.is_real, -(jnp.square(process.whitened).sum(1) + log_norms) / 2, 0.0)


def marginals(kernel: DeepKernel, process: Process, features: Float[Array, "points features"]) -> Normal:
    """Return the predictive distribution `[points, numbers]` of each noisy target at new points."""
    across = gram(kernel, process.logs, process.features, features)
    across = jnp.where(process.is_real[:, None], across, 0.0)
    explained = jnp.square(jax.scipy.linalg.solve_triangular(process.factor, across, lower=True)).sum(0)
    left = jnp.maximum(variances(kernel, process.logs, features) - explained, 0.0)  # rounding may make it negative
    scale = jnp.sqrt(left + _noise_variance(kernel, process.logs))
    loc = process.mean[None] + jnp.matmul(across.T, process.weights, precision="highest")
    return Normal(loc, jnp.broadcast_to(scale[:, None], loc.shape))


def _noise_variance(kernel: DeepKernel, logs: dict[str, Array]) -> Float[Array, ""]:
    return jnp.exp(2 * logs["log_noise"]) + kernel.jitter * jnp.exp(2 * logs["log_scale"])
