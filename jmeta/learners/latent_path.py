"""The latent path of neural processes: a global random vector z, inferred from a set of points, and its training bound.

This module has no learner; `neural_process` and `attentive_neural_process` have this path.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..distributions import Normal, mix, normal_kl
from ..losses import checked_loss, num_real
from ..tasks.class_arrays import check_positive
from ..types import Aux, Batch, LossFn, Model, PyTree, RandomKey, Task
from .point_sets import Representation, check_no_statistics, encode, pairs, represent

__all__ = [
    "LatentPath",
    "Latents",
    "check_latent_path",
    "init_latent_path",
    "infer_latents",
    "mix_over_latents",
    "latent_loss",
]

Decode = Callable[[Array, RandomKey | None], PyTree]
"""`(z, key | None) -> outputs`, the predictions of one sample of z."""


class LatentPath(NamedTuple):
    """How a neural process infers z, and how many samples of it are decoded.

    Attributes:
      encoder: maps rows [x, y], `[points, features + numbers]`, to `[points, width]`, which are averaged.
      posterior: maps the average `[1, width]` to a `distributions.Normal` of `[1, latents]`:
        `models.normal_outputs(models.mlp([64, 2 * latents]), min_scale=0.1)`.
      num_samples: samples of z that `adapt` draws, whose predictions are mixed.
      num_elbo_samples: samples of z for the expectation in the training bound.

    Example:
      >>> from jmeta import learners, models
      >>> encoder, decoder = models.mlp([32, 16]), models.normal_outputs(models.mlp([32, 2]))
      >>> posterior = models.normal_outputs(models.mlp([32, 2 * 4]), min_scale=0.1)
      >>> path = learners.LatentPath(encoder, posterior, num_samples=8)
      >>> learner = learners.attentive_neural_process(encoder, models.mlp([32, 16]), decoder, latent=path)
    """

    encoder: Model
    posterior: Model
    num_samples: int = 16
    num_elbo_samples: int = 1


class Latents(NamedTuple):
    """What a context says about z.

    Attributes:
      posterior: q(z | context), a `Normal` of `[latents]`.
      samples: `[samples, latents]`, drawn from it.
    """

    posterior: Normal
    samples: Array


def check_latent_path(path: LatentPath) -> None:
    """Raise `ValueError` if a network stores statistics or a number of samples is not positive."""
    check_no_statistics(**{"encoder of latents": path.encoder, "posterior": path.posterior})
    check_positive({"num_samples": path.num_samples, "num_elbo_samples": path.num_elbo_samples})


def init_latent_path(path: LatentPath, key: RandomKey, task: Task) -> tuple[PyTree, jax.ShapeDtypeStruct]:
    """Return the parameters `{"encoder": ..., "posterior": ...}`, and the shape and dtype of z."""
    key_encoder, key_posterior = jax.random.split(key)
    inputs = pairs(task.support)
    params = path.encoder.init(key_encoder, inputs)
    rows = jax.eval_shape(lambda params: encode(path.encoder, params, inputs, None), params)
    mean = jnp.zeros(rows.shape[1], rows.dtype)
    params = {"encoder": params, "posterior": path.posterior.init(key_posterior, mean[None])}
    nothing = Representation(mean, jnp.zeros((), mean.dtype))
    return params, jax.eval_shape(lambda params: _posterior(path, params, nothing, None).loc, params)


def infer_latents(path: LatentPath, params: PyTree, support: Batch, key: RandomKey) -> Latents:
    """Infer z from a context, and draw samples of it."""
    key_encoder, key_posterior, key_samples = jax.random.split(key, 3)
    context = represent(path.encoder, params["encoder"], support, key_encoder)
    posterior = _posterior(path, params, context, key_posterior)
    return Latents(posterior, _draw(posterior, path.num_samples, key_samples))


def mix_over_latents(decode: Decode, samples: Float[Array, "samples latents"], key: RandomKey | None) -> PyTree:
    """Return the equally weighted mixture of the predictions of all samples of z."""
    if key is None:
        return mix(jax.vmap(lambda latent: decode(latent, None))(samples))
    return mix(jax.vmap(decode)(samples, jax.random.split(key, samples.shape[0])))


def latent_loss(
    path: LatentPath, params: PyTree, task: Task, key: RandomKey, decode: Decode, loss_fn: LossFn
) -> tuple[Float[Array, ""], Aux]:
    """Return −ELBO of the query given the support, divided by the number of query points.

    ELBO = E_q(z | support, query)[log p(y | x, z)] − KL(q(z | support, query) ‖ q(z | support)), a lower bound of the
    joint log density of the query's targets under z ~ q(z | support).

    Args:
      path: infers z.
      params: of the path.
      task: its query is explained.
      key: draws z.
      decode: `(z, key) -> outputs` for the query.
      loss_fn: the bound is one for `losses.negative_log_likelihood`, an average over the points.

    Returns:
      `(loss, aux)`: `aux` has what `loss_fn` reports, averaged over samples of z, and the `kl`, in nats.
    """
    key_support, key_query, key_prior, key_posterior, key_samples, key_decode = jax.random.split(key, 6)
    context = represent(path.encoder, params["encoder"], task.support, key_support)
    target = represent(path.encoder, params["encoder"], task.query, key_query)
    prior = _posterior(path, params, context, key_prior)
    posterior = _posterior(path, params, context.joined(target), key_posterior)

    def of_sample(latent: Array, key: RandomKey) -> tuple[Array, Aux]:
        return checked_loss(loss_fn(decode(latent, key), task.query), "what loss_fn returns")

    samples = _draw(posterior, path.num_elbo_samples, key_samples)
    losses, aux = jax.vmap(of_sample)(samples, jax.random.split(key_decode, path.num_elbo_samples))
    kl = normal_kl(posterior, prior).sum()
    num_queries = num_real(task.query, kl.dtype)
    loss = losses.mean() + kl / jnp.maximum(num_queries, 1.0)
    return loss, {**jax.tree.map(lambda leaf: leaf.mean(0), aux), "kl": kl}


def _posterior(path: LatentPath, params: PyTree, points: Representation, key: RandomKey | None) -> Normal:
    """Return q(z | points), of `[latents]`."""
    outputs = path.posterior.apply(params["posterior"], points.mean[None], key)
    if not isinstance(outputs, Normal) or outputs.loc.ndim != 2:
        raise ValueError(
            f"the posterior of z must predict normal distributions [1, latents], but it predicts a "
            f"{type(outputs).__name__}; wrap its network in models.normal_outputs"
        )
    return Normal(outputs.loc[0], outputs.scale[0])


def _draw(posterior: Normal, num_samples: int, key: RandomKey) -> Float[Array, "samples latents"]:
    noise = jax.random.normal(key, (num_samples, *posterior.loc.shape), posterior.loc.dtype)
    return posterior.loc[None] + posterior.scale[None] * noise
