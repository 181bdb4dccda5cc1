"""Adaptive deep kernel fitting: kernel scales and noise are fitted to each task, on features that are meta-learned.

A task is learned by maximising the marginal likelihood of its support over θ = (log ℓ, log s, log σ) near a centre θ₀,
θ* = argmin −log p(support | θ) + ‖θ − θ₀‖² / 2τ². The embedding is trained so that the query is probable given the
support, −log p(query | support, θ*). Its gradient goes through θ* by the implicit function theorem, so neither memory
nor accuracy depends on how the minimum was reached. The limit τ → 0 shares the kernel among tasks, as
`deep_kernel_transfer` does; τ → ∞ fits it to each of them alone.

Reference: Chen, Tripp, Hernández-Lobato, "Meta-learning Adaptive Deep Kernel Gaussian Processes for Molecular Property
Prediction", 2022, arXiv:2205.02708, section 3, algorithm 1. Differs from the paper: the centre θ₀ and the constant mean
are meta-learned, where the authors start from a heuristic; the prior of θ is normal with that centre, for all three;
any optax transformation and any adjoint may be given; noise has a floor (see `deep_kernels`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..distributions import Normal
from ..losses import checked_loss, masked_mean
from ..tasks import kernels
from ..tasks.kernels import Kernel
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from . import deep_kernels
from .comparison import embed, embed_support
from .deep_kernels import ConditionedKernel, DeepKernel, Points

__all__ = ["adkf_ift"]

_THREE_UNKNOWNS = adjoints.implicit(adjoints.conjugate_gradient(num_steps=6))  # three would do, but for rounding


def adkf_ift(
    embedding: Model,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    prior_scale: float = 0.5,
    adjoint: Adjoint = _THREE_UNKNOWNS,
    kernel: Kernel = kernels.matern52(length_scale=1.0),
    initial_length_scale: float = 1.0,
    initial_scale: float = 1.0,
    initial_noise: float = 0.1,
    jitter: float = 1e-4,
) -> Learner:
    """Predict numbers by a Gaussian process whose kernel is fitted to each support, on learned features.

    Args:
      embedding: embeds inputs; `apply` returns `[examples, features]`.
      inner_optimizer: any optax transformation; it moves three numbers. The objective is averaged over examples: near
        the minimum its curvature is a few units, so `optax.sgd(0.2)`, clipped for where it is steep, converges in some
        fifty steps. Adam at a constant rate comes close much later.
      num_steps: inner steps; enough to come close to the minimum, or the meta-gradient is wrong. At least 2 with an
        implicit adjoint.
      prior_scale: τ, positive: the standard deviation of the logarithms of a task's scales and noise around the
        meta-learned ones.
      adjoint: how the inner loop is differentiated; if not given, implicitly, with six steps of conjugate gradients.
      kernel, initial_length_scale, initial_scale, initial_noise, jitter: as in `deep_kernel_transfer`.

    Returns:
      A learner with meta-parameters, adapted state and predictions as in `deep_kernel_transfer`. Its training episode
      is the negative log density of the query given the support, of all queries jointly, summed over the numbers of an
      example and averaged over examples. The `aux` is that of `loss_fn` on the query's predictions, with the
      certificate of `adjoints.implicit`. Watch `implicit_is_valid`: its mean over tasks is the fraction of tasks whose
      meta-gradient can be trusted.

    Raises:
      ValueError: if `prior_scale` or an initial number is not positive, `jitter` is negative, `num_steps` is too small
        for the adjoint or `kernel` draws hyper-parameters; at trace time if the targets or the embedding's outputs do
        not have the form above.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.2))
      >>> learner = learners.adkf_ift(models.mlp([40, 16]), clipped, num_steps=20)
      >>> task = jmeta.tasks.sinusoid(num_shots=10, num_queries=5)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> jax.jit(learner.predict)(meta_params, adapted, task.query.x, None).mean().shape
      (5, 1)

    Reference:
      Chen, Tripp, Hernández-Lobato, 2022, arXiv:2205.02708, algorithm 1.
    """
    covariance = deep_kernels.deep_kernel(kernel, jitter)
    initial = {"length_scale": initial_length_scale, "scale": initial_scale, "noise": initial_noise}
    deep_kernels.check_positive(
        prior_scale=prior_scale, **{f"initial_{name}": number for name, number in initial.items()}
    )
    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    objective = partial(_negative_log_posterior, covariance, prior_scale)
    fit = descend(objective, inner_optimizer, num_steps=num_steps, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        return deep_kernels.initial_prior(embedding, key, task, **initial)

    def embed_and_fit(
        meta_params: PyTree, support: Batch, key: RandomKey
    ) -> tuple[PyTree, Points, dict[str, Array], Aux]:
        key_embed, key_fit = jax.random.split(key)
        features, params = embed_support(embedding, meta_params["params"], support, key_embed)
        observed = deep_kernels.points(features, support)
        logs, aux = fit(meta_params["logs"], (meta_params["logs"], meta_params["mean"], observed), key_fit)
        return params, observed, logs, aux

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> ConditionedKernel:
        params, observed, logs, _ = embed_and_fit(meta_params, support, key)
        return ConditionedKernel(params, deep_kernels.condition(covariance, logs, meta_params["mean"], observed))

    def predict(meta_params: PyTree, adapted: ConditionedKernel, x: PyTree, key: RandomKey | None) -> Normal:
        del meta_params
        return deep_kernels.marginals(covariance, adapted.process, embed(embedding, adapted.params, x, key))

    def episode(loss_fn: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Any, Aux]:
            key_adapt, key_predict = jax.random.split(key)
            params, of_support, logs, inner_aux = embed_and_fit(meta_params, task.support, key_adapt)
            of_query = deep_kernels.points(embed(embedding, params, task.query.x, key_predict), task.query)
            condition = partial(deep_kernels.condition, covariance, logs, meta_params["mean"])
            densities = deep_kernels.log_densities(condition(deep_kernels.joined(of_support, of_query)))
            of_queries = densities[of_support.is_real.shape[0] :]  # given the whole support, which comes first
            outputs = deep_kernels.marginals(covariance, condition(of_support), of_query.features)
            _, aux = checked_loss(loss_fn(outputs, task.query), "what loss_fn returns")
            certificate = {name: value for name, value in inner_aux.items() if name.startswith("implicit_")}
            return -masked_mean(of_queries, task.query), jax.lax.stop_gradient({**aux, **certificate})

        return episode_fn

    return Learner(init, adapt, predict, episode)


def _negative_log_posterior(
    kernel: DeepKernel,
    prior_scale: float,
    logs: dict[str, Array],
    context: tuple[dict[str, Array], Array, Points],
    step: Any,
    key: RandomKey,
) -> tuple[Any, Aux]:
    """Return −log p(support | θ) − log p(θ), up to a constant, over the number of examples."""
    del step, key
    centre, mean, observed = context
    log_likelihood = deep_kernels.log_densities(deep_kernels.condition(kernel, logs, mean, observed)).sum()
    away = optax.tree.norm(jax.tree.map(jnp.subtract, logs, centre), squared=True) / (2 * prior_scale**2)
    num_real = jnp.maximum(observed.is_real.sum(), 1).astype(log_likelihood.dtype)
    return (away - log_likelihood) / num_real, {}
