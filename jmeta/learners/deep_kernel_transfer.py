"""Deep kernel transfer: a Gaussian process on learned features, whose prior is all that is meta-learned.

Embedding, scales of the kernel, noise and mean are shared by all tasks and trained on the marginal likelihood of whole
tasks, max Σ log p(y | x), support and query together. A task is learned in closed form, by conditioning the process on
the support; no inner loop, and predictions whose uncertainty is that of an exact posterior.

Reference: Patacchiola, Turner, Crowley, O'Boyle, Storkey, "Bayesian Meta-Learning for the Few-Shot Setting via Deep
Kernels", 2020, arXiv:1910.05199, section 3, algorithm 1. Differs from the paper: the marginal likelihood is divided by
the number of examples; noise has a floor (see `deep_kernels`); of its kernels, the spectral mixture is missing.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..distributions import Normal
from ..losses import checked_loss
from ..tasks import kernels
from ..tasks.kernels import Kernel
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from . import deep_kernels
from .comparison import embed, embed_support
from .deep_kernels import ConditionedKernel

__all__ = ["deep_kernel_transfer"]


def deep_kernel_transfer(
    embedding: Model,
    *,
    kernel: Kernel = kernels.rbf(length_scale=1.0),
    initial_length_scale: float = 1.0,
    initial_scale: float = 1.0,
    initial_noise: float = 0.1,
    jitter: float = 1e-4,
) -> Learner:
    """Predict numbers by a Gaussian process on learned features.

    Args:
      embedding: embeds inputs; `apply` returns `[examples, features]`.
      kernel: the base kernel k₀ (`tasks.kernels`), its hyper-parameters numbers; the learned length scale divides the
        features, and the learned scale multiplies the process.
      initial_length_scale: initial ℓ, positive, in units of the square root of the number of features.
      initial_scale: initial standard deviation s of the process, positive, in units of the targets.
      initial_noise: initial standard deviation σ of the noise, positive, in units of the targets.
      jitter: variance added to the noise, relative to s², at least 0; 1e-4 is enough for some hundred examples in
        float32. Predictions include it.

    Returns:
      A learner whose predictions are `Normal` of `[examples, numbers]`, noise included, for targets of that shape. Its
      meta-parameters are `{"params": ..., "logs": ..., "mean": ...}`, its adapted state is a `ConditionedKernel`. Its
      training episode is the negative log marginal likelihood of support and query, summed over the numbers of an
      example and averaged over examples; the `aux` is that of `loss_fn` on the query's predictions.

    Raises:
      ValueError: if an initial number is not positive, `jitter` is negative or `kernel` draws hyper-parameters; at
        trace time if the targets or the embedding's outputs do not have the form above.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import learners, models
      >>> learner = learners.deep_kernel_transfer(models.mlp([40, 40, 16]))
      >>> task = jmeta.tasks.sinusoid(num_shots=10, num_queries=5)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = learner.adapt(meta_params, task.support, jax.random.key(2))
      >>> learner.predict(meta_params, adapted, task.query.x, None).mean().shape
      (5, 1)

    Reference:
      Patacchiola et al., 2020, arXiv:1910.05199, algorithm 1.
    """
    covariance = deep_kernels.deep_kernel(kernel, jitter)
    initial = {"length_scale": initial_length_scale, "scale": initial_scale, "noise": initial_noise}
    deep_kernels.check_positive(**{f"initial_{name}": number for name, number in initial.items()})

    def init(key: RandomKey, task: Task) -> PyTree:
        return deep_kernels.initial_prior(embedding, key, task, **initial)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> ConditionedKernel:
        features, params = embed_support(embedding, meta_params["params"], support, key)
        observed = deep_kernels.points(features, support)
        process = deep_kernels.condition(covariance, meta_params["logs"], meta_params["mean"], observed)
        return ConditionedKernel(params, process)

    def predict(meta_params: PyTree, adapted: ConditionedKernel, x: PyTree, key: RandomKey | None) -> Normal:
        del meta_params
        return deep_kernels.marginals(covariance, adapted.process, embed(embedding, adapted.params, x, key))

    def episode(loss_fn: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Any, Aux]:
            key_support, key_query = jax.random.split(key)
            features, params = embed_support(embedding, meta_params["params"], task.support, key_support)
            of_support = deep_kernels.points(features, task.support)
            of_query = deep_kernels.points(embed(embedding, params, task.query.x, key_query), task.query)
            condition = partial(deep_kernels.condition, covariance, meta_params["logs"], meta_params["mean"])
            everything = deep_kernels.joined(of_support, of_query)
            num_real = jnp.maximum(everything.is_real.sum(), 1)
            densities = deep_kernels.log_densities(condition(everything))
            outputs = deep_kernels.marginals(covariance, condition(of_support), of_query.features)
            _, aux = checked_loss(loss_fn(outputs, task.query), "what loss_fn returns")
            return -densities.sum() / num_real.astype(densities.dtype), jax.lax.stop_gradient(aux)

        return episode_fn

    return Learner(init, adapt, predict, episode)
