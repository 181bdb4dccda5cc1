"""Neural processes: infer a global latent variable from the context; each of its values is a function.

The context C is encoded point by point and averaged, r = (1/n) Σᵢ h([xᵢ, yᵢ]), from which follows q(z | C) = N(μ(r),
σ(r)²); given z, a decoder predicts p(y | x, z) at every x. One z serves all points, so predictions at several points
are correlated. It is trained by a lower bound of log p(targets | C), in which q(z | C) is the prior:
ELBO = E_q(z | C, T)[Σ_T log p(y | x, z)] − KL(q(z | C, T) ‖ q(z | C)), for targets T.

Reference: Garnelo, Schwarz, Rosenbaum, Viola, Rezende, Eslami, Teh, "Neural Processes", 2018, arXiv:1807.01622, eq.
8-9. Differs from the authors' code: the deviation of z is the softplus of the posterior's network, not bounded by 1;
and the bound is divided by the number of targets, so that its size does not depend on theirs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from .latent_path import (
    LatentPath,
    Latents,
    check_latent_path,
    infer_latents,
    init_latent_path,
    latent_loss,
    mix_over_latents,
)
from .point_sets import check_no_statistics, with_each

__all__ = ["neural_process"]


def neural_process(
    encoder: Model, posterior: Model, decoder: Model, *, num_samples: int = 16, num_elbo_samples: int = 1
) -> Learner:
    """Infer a latent variable from the context; mix the predictions of several samples of it.

    Args:
      encoder: maps rows [x, y], `[points, features + numbers]`, to `[points, width]`, which are averaged.
      posterior: maps the average `[1, width]` to a `distributions.Normal` of `[1, latents]`, such as
        `models.normal_outputs(models.mlp([64, 2 * latents]), min_scale=0.1)`.
      decoder: maps rows [z, x], `[points, latents + features]`, to predictions for each point, such as
        `models.normal_outputs(models.mlp([64, 64, 2]))` for one number.
      num_samples: samples of z that `adapt` draws.
      num_elbo_samples: samples of z for the expectation in the training bound.

    Returns:
      A learner whose meta-parameters are `{"latent": {"encoder": ..., "posterior": ...}, "decoder": ...}`, and whose
      adapted state is `Latents`. Predictions are mixtures over the samples: the marginal of every number. Its training
      episode is −ELBO per query point, with `losses.negative_log_likelihood`; `aux` adds the `kl`, in nats.

    Raises:
      ValueError: if a network stores statistics of norm layers, or a number of samples is not positive; at trace time
        if inputs and targets are not `[points, features]` and `[points, numbers]` in floating point, or a network's
        outputs are not those above.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import learners, losses, models, tasks
      >>> posterior, decoder = (models.normal_outputs(models.mlp([32, 2 * numbers])) for numbers in (4, 1))
      >>> learner = learners.neural_process(models.mlp([32, 32]), posterior, decoder, num_samples=6)
      >>> sample = tasks.gaussian_process(tasks.kernels.rbf(length_scale=0.5), num_shots=8, num_queries=5, noise=0.1)
      >>> task = sample(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> adapted.samples.shape, jax.jit(learner.predict)(meta_params, adapted, task.query.x, None).mean().shape
      ((6, 4), (5, 1))
      >>> episode_fn = jax.jit(jmeta.episode(learner, losses.negative_log_likelihood))
      >>> _, aux = episode_fn(meta_params, task, jax.random.key(3))
      >>> sorted(aux)
      ['kl', 'negative_log_likelihood', 'squared_error']

    Reference:
      Garnelo et al., "Neural Processes", 2018, arXiv:1807.01622, eq. 8-9.
    """
    latent = LatentPath(encoder, posterior, num_samples, num_elbo_samples)
    check_latent_path(latent)
    check_no_statistics(decoder=decoder)

    def init(key: RandomKey, task: Task) -> PyTree:
        key_latent, key_decoder = jax.random.split(key)
        params, sample = init_latent_path(latent, key_latent, task)
        given = with_each(jnp.zeros(sample.shape, sample.dtype), task.query.x)
        return {"latent": params, "decoder": decoder.init(key_decoder, given)}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> Latents:
        return infer_latents(latent, meta_params["latent"], support, key)

    def decode(meta_params: PyTree, sample: Array, x: Array, key: RandomKey | None) -> PyTree:
        return decoder.apply(meta_params["decoder"], with_each(sample, x), key)

    def predict(meta_params: PyTree, adapted: Latents, x: PyTree, key: RandomKey | None) -> PyTree:
        return mix_over_latents(lambda sample, key: decode(meta_params, sample, x, key), adapted.samples, key)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
            of_query = lambda sample, key: decode(meta_params, sample, task.query.x, key)  # noqa: E731
            return latent_loss(latent, meta_params["latent"], task, key, of_query, outer_loss)

        return episode_fn

    return Learner(init, adapt, predict, episode)
