"""Deep kernel classification: a Gaussian process for each class on learned features, by Laplace's approximation.

Each class k has a latent process fₖ ~ GP(0, k) with one kernel for all classes, and labels have the probabilities
softmax(f). A task is learned by finding the mode of Ψ(f) = Σᵢ log softmax(fᵢ)[yᵢ] − ½ Σₖ fₖᵀ K⁻¹ fₖ with Newton's
method; Ψ is concave. The posterior is taken to be normal, with that mode and with covariance (K⁻¹ + W)⁻¹, where W is
the curvature of the labels' log likelihood. A query's class probabilities are averages of softmax(f) over it.

No matrix that is factorised is close to singular: the eigenvalues of I + D^½ K D^½ are at least 1, and K is not
inverted. The meta-gradient does not go through the iterations: at the mode f = K (y − π(f)), and one step of Newton's
method from there, with the Hessian held fixed, has the derivative that the implicit function theorem gives.

Reference: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 3.5, algorithms 3.3-3.4.
Patacchiola, Turner, Crowley, O'Boyle, Storkey, "Bayesian Meta-Learning for the Few-Shot Setting via Deep Kernels",
2020, arXiv:1910.05199, section 3.2. Differs from the latter, which regresses on labels of ±1: the likelihood is that of
classes, and training maximises the predictive probability of the query instead of the marginal likelihood.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .. import distributions
from ..tasks import kernels
from ..tasks.kernels import Kernel
from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from . import deep_kernels
from .comparison import check_num_ways, embed, embed_support, exclude_absent, one_hot_labels

__all__ = ["LatentProcesses", "deep_kernel_classifier"]

_ABSENT = -1e6  # a logit whose probability is 0 in every precision, and whose derivatives are numbers
_STEP_SIZES = 0.5 ** np.arange(8)


class LatentProcesses(NamedTuple):
    """The adapted state: the latent process of each class given the support.

    Attributes:
      params: parameters of the embedding, with the support's statistics if it stores any.
      logs: logarithms of the kernel's length scale and scale.
      features: the embedded support, `[points, features]`.
      is_real: which points are not padding, `[points]`.
      counts: real examples of each class, `[ways]`.
      weights: K⁻¹ f at the mode, which is y − π(f), `[points, ways]`.
      curvatures: Eₖ = (Dₖ⁻¹ + K)⁻¹, with Dₖ the diagonal matrix of probabilities of class k, `[ways, points, points]`.
      factor: lower Cholesky factor of Σₖ Eₖ, `[points, points]`.
      noise: standard normal numbers, the samples that predictions average over, `[samples, ways]`.
    """

    params: PyTree
    logs: dict[str, Array]
    features: Array
    is_real: Array
    counts: Array
    weights: Array
    curvatures: Array
    factor: Array
    noise: Array


def deep_kernel_classifier(
    embedding: Model,
    *,
    num_ways: int,
    num_steps: int = 10,
    num_pairs: int = 64,
    kernel: Kernel = kernels.rbf(length_scale=1.0),
    initial_length_scale: float = 1.0,
    initial_scale: float = 3.0,
    jitter: float = 1e-5,
) -> Learner:
    """Classify by Gaussian processes on learned features, one for each class.

    Args:
      embedding: embeds inputs; `apply` returns `[examples, features]`.
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf.
      num_steps: steps of Newton's method, at least 1; each takes the best of eight step sizes, 1, ½, ..., 1/128.
      num_pairs: how many pairs (f + ε, f − ε) of samples from the posterior class probabilities are averaged over, at
        least 1. They are drawn when a task is learned, and are the same for all queries.
      kernel, initial_length_scale: as in `deep_kernel_transfer`.
      initial_scale: initial standard deviation s of the latent processes, positive, in units of logits.
      jitter: smallest variance of a latent process at a query, relative to s², positive; 1e-5 keeps the covariance of
        the classes far enough from singular for float32.

    Returns:
      A learner whose predictions are the logarithms of averaged class probabilities, `[examples, ways]`. Its
      meta-parameters are `{"params": ..., "logs": ...}`; its adapted state is `LatentProcesses`.

    Raises:
      ValueError: if a number is not positive or `kernel` draws hyper-parameters; at trace time if the embedding's
        outputs or the labels do not have the form above.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import learners, models
      >>> learner = learners.deep_kernel_classifier(models.mlp([32, 16]), num_ways=5)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = learner.adapt(meta_params, task.support, jax.random.key(2))
      >>> learner.predict(meta_params, adapted, task.query.x, None).shape
      (15, 5)

    Reference:
      Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, algorithms 3.3-3.4.
    """
    check_num_ways(num_ways)
    deep_kernels.check_positive(
        num_steps=num_steps,
        num_pairs=num_pairs,
        initial_length_scale=initial_length_scale,
        initial_scale=initial_scale,
        jitter=jitter,
    )
    covariance = deep_kernels.deep_kernel(kernel, jitter)

    def init(key: RandomKey, task: Task) -> PyTree:
        params = embedding.init(key, task.support.x)
        initial = {"length_scale": initial_length_scale, "scale": initial_scale}
        return {"params": params, "logs": deep_kernels.initial_scales(embedding, params, task.support.x, **initial)}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> LatentProcesses:
        key_embed, key_noise = jax.random.split(key)
        features, params = embed_support(embedding, meta_params["params"], support, key_embed)
        one_hot = one_hot_labels(support, num_ways, features.dtype)
        logs, is_real, counts = meta_params["logs"], one_hot.sum(1) > 0, one_hot.sum(0)
        prior = deep_kernels.gram(covariance, logs, features, features)
        prior = jnp.where(is_real[:, None] & is_real[None], prior, 0.0)
        weights = _mode(prior, one_hot, num_steps)
        curvature = _curvature(prior, jnp.matmul(prior, weights, precision="highest"), one_hot)
        noise = _noise(key_noise, num_pairs, num_ways, features.dtype)
        return LatentProcesses(params, logs, features, is_real, counts, weights, *curvature, noise)

    def predict(
        meta_params: PyTree, adapted: LatentProcesses, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        del meta_params
        features = embed(embedding, adapted.params, x, key)
        across = deep_kernels.gram(covariance, adapted.logs, adapted.features, features)
        across = jnp.where(adapted.is_real[:, None], across, 0.0)
        prior = deep_kernels.variances(covariance, adapted.logs, features)
        means, factors = jax.vmap(_latent, in_axes=(None, 1, 0, None))(adapted, across, prior, jitter)
        samples = means[None] + jnp.einsum("ijk,sk->sij", factors, adapted.noise, precision="highest")
        is_present = _is_present(adapted.counts)
        mixed = distributions.mix(jnp.where(is_present[None, None], samples, _ABSENT))
        return exclude_absent(mixed, adapted.counts)

    return Learner(init, adapt, predict)


def _mode(
    prior: Float[Array, "points points"], one_hot: Float[Array, "points ways"], num_steps: int
) -> Float[Array, "points ways"]:
    """Return a = K⁻¹ f at the mode of Ψ, with the derivative that the implicit function theorem gives."""
    constant = jax.lax.stop_gradient(prior)

    def slope(prior: Array, weights: Array) -> tuple[Array, Array]:
        """Return f and K⁻¹ ∇Ψ, up to K: y − π(f) − a."""
        latent = jnp.matmul(prior, weights, precision="highest")
        return latent, one_hot - _probabilities(latent, one_hot) - weights

    def objective(weights: Array, latent: Array) -> Array:
        return (one_hot * _log_probabilities(latent, one_hot)).sum() - (weights * latent).sum() / 2

    def step(_: Array, weights: Array) -> Array:
        latent, rising = slope(constant, weights)
        change = _newton(constant, latent, one_hot, rising)
        candidates = weights[None] + jnp.asarray(_STEP_SIZES, weights.dtype)[:, None, None] * change[None]
        values = jax.vmap(lambda weights: objective(weights, slope(constant, weights)[0]))(candidates)
        rounding = 10 * jnp.finfo(values.dtype).eps * jnp.abs(values).max()
        return candidates[(values >= values.max() - rounding).argmax()]  # the longest of the steps that are best

    weights = jax.lax.stop_gradient(jax.lax.fori_loop(0, num_steps, step, jnp.zeros_like(one_hot)))
    latent, rising = slope(prior, weights)
    return weights + _newton(constant, jax.lax.stop_gradient(latent), one_hot, rising)


def _newton(
    prior: Float[Array, "points points"],
    latent: Float[Array, "points ways"],
    one_hot: Float[Array, "points ways"],
    rising: Float[Array, "points ways"],
) -> Float[Array, "points ways"]:
    """Return (I + W K)⁻¹ g, Newton's step of the weights: algorithm 3.3 in increments, so that its end is exact."""
    curvatures, factor = _curvature(prior, latent, one_hot)
    spread = jnp.einsum("kij,jl,lk->ik", curvatures, prior, rising, precision="highest")  # E K g
    common = jax.scipy.linalg.cho_solve((factor, True), spread.sum(1))  # the probabilities of a point sum to 1
    return rising - spread + jnp.einsum("kij,j->ik", curvatures, common, precision="highest")


def _curvature(
    prior: Float[Array, "points points"], latent: Float[Array, "points ways"], one_hot: Float[Array, "points ways"]
) -> tuple[Float[Array, "ways points points"], Float[Array, "points points"]]:
    """Return Eₖ = Dₖ^½ (I + Dₖ^½ K Dₖ^½)⁻¹ Dₖ^½ for each class, and the Cholesky factor of their sum.

    The roots are computed from log probabilities, so a probability that underflows has derivatives of 0. The sum has
    eigenvalues of at most 1; ten units of rounding are added to them.
    """
    is_real = one_hot.sum(1) > 0
    roots = jnp.where(is_real[:, None], jnp.exp(_log_probabilities(latent, one_hot) / 2), 0.0)

    def of_class(root: Array) -> Array:
        factor = jnp.linalg.cholesky(jnp.eye(root.size, dtype=root.dtype) + root[:, None] * prior * root[None])
        half = jax.scipy.linalg.solve_triangular(factor, jnp.diag(root), lower=True)
        return jnp.matmul(half.T, half, precision="highest")

    curvatures = jax.vmap(of_class, in_axes=1)(roots)
    rounding = jnp.where(is_real, 10 * jnp.finfo(roots.dtype).eps, 1.0).astype(roots.dtype)
    return curvatures, jnp.linalg.cholesky(curvatures.sum(0) + jnp.diag(rounding))


def _latent(
    adapted: LatentProcesses, across: Float[Array, "points"], prior: Float[Array, ""], jitter: float
) -> tuple[Float[Array, "ways"], Float[Array, "ways ways"]]:
    """Return the mean of the latent values of one query and the Cholesky factor of their covariance."""
    seen = jnp.einsum("kij,j->ik", adapted.curvatures, across, precision="highest")  # Eₖ k(X, x)
    left = jnp.maximum(prior - jnp.einsum("i,ik->k", across, seen, precision="highest"), jitter * prior)
    common = jax.scipy.linalg.solve_triangular(adapted.factor, seen, lower=True)
    mean = jnp.einsum("i,ik->k", across, adapted.weights, precision="highest")
    return mean, jnp.linalg.cholesky(jnp.diag(left) + jnp.matmul(common.T, common, precision="highest"))


def _probabilities(latent: Float[Array, "points ways"], one_hot: Float[Array, "points ways"]) -> Array:
    """Return π(f) of real points, and zeros for padding."""
    return jnp.where((one_hot.sum(1) > 0)[:, None], jnp.exp(_log_probabilities(latent, one_hot)), 0.0)


def _log_probabilities(latent: Float[Array, "points ways"], one_hot: Float[Array, "points ways"]) -> Array:
    return jax.nn.log_softmax(jnp.where(_is_present(one_hot.sum(0))[None], latent, _ABSENT))


def _is_present(counts: Float[Array, "ways"]) -> Bool[Array, "ways"]:
    return (counts > 0) | (counts.sum() == 0)


def _noise(key: RandomKey, num_pairs: int, num_ways: int, dtype: jnp.dtype) -> Float[Array, "samples ways"]:
    """Draw pairs of opposite numbers, those of a class whatever the number of classes."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_ways))
    numbers = jax.vmap(lambda key: jax.random.normal(key, (num_pairs,), dtype), out_axes=1)(keys)
    return jnp.concatenate([numbers, -numbers])
