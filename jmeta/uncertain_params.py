"""Uncertain parameters: an independent normal distribution for each, and particles drawn from them.

Bayesian learners draw the parameters of a network, pay for moving their distribution by a Kullback-Leibler divergence,
and average the predictions of several draws. Scales are logarithms, so a gradient step keeps them positive.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .distributions import Distribution, mix
from .losses import checked_loss
from .types import Aux, Batch, LossFn, Model, PyTree, RandomKey

__all__ = ["NormalParams", "sample", "kl_divergence", "logs_like", "likelihood", "predict_with_particles"]


class NormalParams(NamedTuple):
    """Independent normal distributions of parameters, N(mean, exp(log_scale)²).

    Attributes:
      mean: parameters, a tree of floating-point arrays.
      log_scale: logarithms of standard deviations, a tree like `mean`.
    """

    mean: PyTree
    log_scale: PyTree


def logs_like(params: PyTree, value: float) -> PyTree:
    """Return a tree like `params` that holds the logarithm of one positive number everywhere.

    Example:
      >>> import jax.numpy as jnp
      >>> logs_like({"w": jnp.ones(2)}, 1.0)["w"].tolist()
      [0.0, 0.0]
    """
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, math.log(value)), params)


def sample(normal: NormalParams, key: RandomKey) -> PyTree:
    """Draw parameters, as mean + exp(log_scale) ε with ε ~ N(0, 1): differentiable in both.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> certain = NormalParams({"w": jnp.ones(2)}, {"w": jnp.full(2, -jnp.inf)})
      >>> sample(certain, jax.random.key(0))["w"].tolist()
      [1.0, 1.0]
    """
    leaves, structure = jax.tree.flatten(normal.mean)
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))
    dtype = max((leaf.dtype for leaf in leaves), key=lambda dtype: dtype.itemsize)
    noise = jax.random.normal(key, (ends[-1],), dtype)  # all at once: to draw for every leaf takes long to compile
    parts = [noise[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.map(
        lambda mean, log_scale, noise: mean + jnp.exp(log_scale) * noise.astype(mean.dtype),
        normal.mean,
        normal.log_scale,
        jax.tree.unflatten(structure, parts),
    )


def kl_divergence(q: NormalParams, p: NormalParams) -> Float[Array, ""]:
    """Return KL(q ‖ p) = Σ log σₚ − log σ_q + (σ_q² + (μ_q − μₚ)²) / 2σₚ² − ½ over all parameters, in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> q, p = (NormalParams({"w": jnp.full(2, mean)}, {"w": jnp.zeros(2)}) for mean in (0.0, 3.0))
      >>> float(kl_divergence(q, p))
      9.0
    """

    def of_leaf(mean: Array, log_scale: Array, prior_mean: Array, prior_log_scale: Array) -> Array:
        log_ratio = log_scale - prior_log_scale
        away = (mean - prior_mean) * jnp.exp(-prior_log_scale)
        return (0.5 * (jnp.expm1(2 * log_ratio) + jnp.square(away)) - log_ratio).sum()

    return jnp.asarray(optax.tree.sum(jax.tree.map(of_leaf, *q, *p)))


def likelihood(loss_fn: LossFn) -> LossFn:
    """Return the loss, which refuses outputs that have no average over particles.

    Numbers are not distinguishable from logits when they are averaged, but here the targets are at hand.

    Raises:
      ValueError: at trace time, if the outputs are no distribution and the targets no labels of classes, or `loss_fn`
        does not return a loss and a dictionary.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(jnp.ones((3, 1)), jnp.ones((3, 2)))
      >>> likelihood(jmeta.losses.squared_error)(jnp.ones((3, 2)), batch)
      Traceback (most recent call last):
      ...
      ValueError: particles are averaged as distributions, but ... wrap it with models.normal_outputs
    """

    def checked(outputs: PyTree, batch: Batch) -> tuple[Any, Aux]:
        is_of_classes = isinstance(batch.y, jax.Array) and jnp.issubdtype(batch.y.dtype, jnp.integer)
        if not isinstance(outputs, Distribution) and not is_of_classes:
            raise ValueError(
                f"particles are averaged as distributions, but the model's outputs are a {type(outputs).__name__} for "
                "targets that are no labels of classes; wrap it with models.normal_outputs"
            )
        return checked_loss(loss_fn(outputs, batch), "what loss_fn returns")

    return checked


def predict_with_particles(model: Model, particles: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
    """Return the average of the predictions of several networks, as `distributions.mix` makes it.

    Args:
      model: predicts distributions of numbers (`models.normal_outputs`) or logits of classes.
      particles: parameters of `model`, stacked along a first axis as `jax.vmap` stacks them.
      x: inputs.
      key: for the networks' dropout, another draw for each of them; `None` for none.

    Raises:
      ValueError: at trace time, if the outputs are neither distributions nor logits.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> model, x = models.mlp([8, 3]), jnp.ones((5, 2))
      >>> particles = jax.vmap(lambda key: model.init(key, x))(jax.random.split(jax.random.key(0), 4))
      >>> predict_with_particles(model, particles, x, None).shape
      (5, 3)
    """
    num_particles = jax.tree.leaves(particles)[0].shape[0]
    keys = None if key is None else jax.random.split(key, num_particles)
    return mix(jax.vmap(lambda params, key: model.apply(params, x, key))(particles, keys))
