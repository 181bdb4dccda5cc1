"""Deep kernel classification: a Gaussian process for each class on learned features, in closed-form iterations.

Class k against the rest is a logistic regression on a latent process fₖ ~ GP(m, k), with one kernel and one mean for
all classes. Its posterior given a support is approximated by the normal distribution of highest evidence bound, with
Pólya-Gamma variables ω that make the likelihood Gaussian. With labels y in {0, 1} and K the kernel's matrix, each
iteration sets

    ωᵢ = tanh(ξᵢ / 2) / 2ξᵢ,  ξᵢ² = E[fᵢ²],  and  f ~ N(m + K a, (K⁻¹ + Ω)⁻¹),  a = (I + ΩK)⁻¹ (y − ½ − Ωm),

which never lowers the bound. A query's probabilities are proportional to the E[σ(fₖ)], computed by quadrature. All
matrices to factorise have eigenvalues of at least 1, so float32 needs no jitter.

Laplace's approximation is no alternative for few shots: it takes the curvature where the posterior is highest, and
there it is nearly flat. Given one example and m = 0, and whatever the kernel's scale, it averages to a probability of
less than 0.75 at that very example, where the exact posterior and this one come close to 1 as the scale grows.

Reference: Patacchiola, Turner, Crowley, O'Boyle, Storkey, "Bayesian Meta-Learning for the Few-Shot Setting via Deep
Kernels", 2020, arXiv:1910.05199, section 3.2 (one kernel, one process for each class against the rest). Snell, Zemel,
"Bayesian Few-Shot Classification with One-vs-Each Pólya-Gamma Augmented Gaussian Processes", 2021, arXiv:2007.10417
(Pólya-Gamma variables; training on the predictive likelihood). Wenzel, Galy-Fajou, Donner, Kloft, Opper, "Efficient
Gaussian Process Classification Using Pólya-Gamma Data Augmentation", 2019, arXiv:1802.06383 (the iteration). Differs
from the first, which regresses on labels of ±1, and from the second, which samples the ω.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..bounds import is_whole
from ..tasks import kernels
from ..tasks.kernels import Kernel
from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from . import deep_kernels
from .comparison import check_num_ways, embed, embed_support, exclude_absent, one_hot_labels

__all__ = ["LatentProcesses", "deep_kernel_classifier"]

_HERMITE, _HERMITE_WEIGHTS = np.polynomial.hermite_e.hermegauss(32)  # for a normal distribution
_LEGENDRE, _LEGENDRE_WEIGHTS = np.polynomial.legendre.leggauss(32)  # for a uniform one on [-1, 1]


class LatentProcesses(NamedTuple):
    """The adapted state: the latent process of each class given the support.

    Attributes:
      params: parameters of the embedding, with the support's statistics if it stores any.
      logs: logarithms of the kernel's length scale and scale.
      mean: m, the prior mean.
      features: the embedded support, `[points, features]`.
      is_real: which points are not padding, `[points]`.
      counts: real examples of each class, `[ways]`.
      weights: a for each class, `[ways, points]`.
      roots: Ω^½ for each class, `[ways, points]`; 1 for padding.
      factors: lower Cholesky factor of I + Ω^½ K Ω^½ for each class, `[ways, points, points]`.
    """

    params: PyTree
    logs: dict[str, Array]
    mean: Array
    features: Array
    is_real: Array
    counts: Array
    weights: Array
    roots: Array
    factors: Array


def deep_kernel_classifier(
    embedding: Model,
    *,
    num_ways: int,
    num_steps: int = 10,
    kernel: Kernel = kernels.rbf(length_scale=1.0),
    initial_length_scale: float = 1.0,
    initial_scale: float = 3.0,
) -> Learner:
    """Classify by Gaussian processes on learned features, one for each class.

    Args:
      embedding: embeds inputs; `apply` returns `[examples, features]`.
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf.
      num_steps: iterations, at least 1; the meta-gradient goes through all of them, and stores ω for each.
      kernel, initial_length_scale: as in `deep_kernel_transfer`.
      initial_scale: initial standard deviation s of the latent processes, positive, in units of logits.

    Returns:
      A learner whose predictions are the logarithms of averaged class probabilities, `[examples, ways]`. Its
      meta-parameters are `{"params": ..., "logs": ..., "mean": ...}`; its adapted state is `LatentProcesses`.

    Raises:
      ValueError: if a number is not positive or `kernel` draws hyper-parameters; at trace time if the embedding's
        outputs or the labels do not have the form above.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import learners, models
      >>> learner = learners.deep_kernel_classifier(models.mlp([32, 16]), num_ways=5)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> jax.jit(learner.predict)(meta_params, adapted, task.query.x, None).shape
      (15, 5)

    Reference:
      Patacchiola et al., 2020, arXiv:1910.05199; Snell, Zemel, 2021, arXiv:2007.10417; Wenzel et al., 2019,
      arXiv:1802.06383, section 3.
    """
    check_num_ways(num_ways)
    initial = {"length_scale": initial_length_scale, "scale": initial_scale}
    if not is_whole(num_steps):
        raise ValueError(f"num_steps={num_steps}; expected an integer of at least 1")
    deep_kernels.check_positive(**{f"initial_{name}": number for name, number in initial.items()})
    covariance = deep_kernels.deep_kernel(kernel, 0.0)

    def init(key: RandomKey, task: Task) -> PyTree:
        params = embedding.init(key, task.support.x)
        logs = deep_kernels.initial_scales(embedding, params, task.support.x, **initial)
        mean = jnp.asarray(-math.log(max(num_ways - 1, 1)), jnp.float32)  # log odds of a class
        return {"params": params, "logs": logs, "mean": mean}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> LatentProcesses:
        features, params = embed_support(embedding, meta_params["params"], support, key)
        one_hot = one_hot_labels(support, num_ways, features.dtype)
        logs, mean, is_real = meta_params["logs"], meta_params["mean"], one_hot.sum(1) > 0
        prior = deep_kernels.gram(covariance, logs, features, features)
        prior = jnp.where(is_real[:, None] & is_real[None], prior, 0.0)
        of_class = jax.vmap(lambda labels: _fit(prior, labels, is_real, mean, num_steps), in_axes=1)
        return LatentProcesses(params, logs, mean, features, is_real, one_hot.sum(0), *of_class(one_hot))

    def predict(
        meta_params: PyTree, adapted: LatentProcesses, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        del meta_params
        features = embed(embedding, adapted.params, x, key)
        across = deep_kernels.gram(covariance, adapted.logs, adapted.features, features)
        across = jnp.where(adapted.is_real[:, None], across, 0.0)
        prior = deep_kernels.variances(covariance, adapted.logs, features)

        def of_class(weights: Array, roots: Array, factor: Array) -> Array:
            seen = jax.scipy.linalg.solve_triangular(factor, roots[:, None] * across, lower=True)
            variance = _at_least_rounding(prior - jnp.square(seen).sum(0), prior)
            return _log_probability(adapted.mean + jnp.matmul(across.T, weights, precision="highest"), variance)

        log_odds = jax.vmap(of_class, out_axes=1)(adapted.weights, adapted.roots, adapted.factors)
        return jax.nn.log_softmax(exclude_absent(log_odds, adapted.counts))

    return Learner(init, adapt, predict)


def _fit(
    prior: Float[Array, "points points"],
    labels: Float[Array, "points"],
    is_real: Array,
    mean: Float[Array, ""],
    num_steps: int,
) -> tuple[Float[Array, "points"], Float[Array, "points"], Float[Array, "points points"]]:
    """Return the weights a, Ω^½ and the Cholesky factor of I + Ω^½ K Ω^½ of one class."""

    def posterior(omega: Array) -> tuple[Array, Array, Array]:
        roots = jnp.where(is_real, jnp.sqrt(omega), 1.0)
        factor = jnp.linalg.cholesky(jnp.eye(roots.size, dtype=roots.dtype) + roots[:, None] * prior * roots[None])
        towards = jnp.where(is_real, labels - 0.5 - omega * mean, 0.0)
        weights = roots * jax.scipy.linalg.cho_solve((factor, True), towards / roots)
        return weights, roots, factor

    @jax.checkpoint
    def step(omega: Array, _: None) -> tuple[Array, None]:
        weights, roots, factor = posterior(omega)
        seen = jax.scipy.linalg.solve_triangular(factor, roots[:, None] * prior, lower=True)
        variances = _at_least_rounding(jnp.diagonal(prior) - jnp.square(seen).sum(0), jnp.diagonal(prior))
        means = mean + jnp.matmul(prior, weights, precision="highest")
        return _expected_omega(jnp.square(means) + variances), None

    start = _expected_omega(jnp.square(mean) + jnp.diagonal(prior))
    return posterior(jax.lax.scan(step, start, None, length=num_steps)[0])


def _expected_omega(squares: Float[Array, "points"]) -> Float[Array, "points"]:
    """Return tanh(ξ / 2) / 2ξ, the mean of the Pólya-Gamma variable, from ξ²; ¼ at zero."""
    is_small = squares < 1e-3
    xi = jnp.sqrt(jnp.where(is_small, 1.0, squares))
    return jnp.where(is_small, 0.25 - squares / 48 + jnp.square(squares) / 480, jnp.tanh(xi / 2) / (2 * xi))


def _log_probability(means: Float[Array, "points"], variances: Float[Array, "points"]) -> Float[Array, "points"]:
    """Return log E[σ(f)] of normal distributions, by quadrature with an error of at most 1e-4 in E[σ(f)].

    For small variances over f; for large ones, where σ is nearly a step, over the threshold u in σ(f) = P(u < f), the
    logit of a uniform number: E[σ(f)] = E[Φ((m − u) / √v)].
    """
    narrow, wide = jnp.sqrt(jnp.minimum(variances, 9.0))[None], jnp.sqrt(jnp.maximum(variances, 9.0))[None]
    column = lambda numbers: jnp.asarray(numbers, means.dtype)[:, None]  # noqa: E731
    at_nodes = jax.nn.log_sigmoid(means[None] + narrow * column(_HERMITE))
    over_values = jax.nn.logsumexp(at_nodes + column(np.log(_HERMITE_WEIGHTS / _HERMITE_WEIGHTS.sum())), axis=0)
    thresholds = column(np.log((1 + _LEGENDRE) / (1 - _LEGENDRE)))
    at_nodes = jax.scipy.special.log_ndtr((means[None] - thresholds) / wide)
    over_thresholds = jax.nn.logsumexp(at_nodes + column(np.log(_LEGENDRE_WEIGHTS / 2)), axis=0)
    return jnp.where(variances < 9.0, over_values, over_thresholds)


def _at_least_rounding(variances: Float[Array, "points"], prior: Float[Array, "points"]) -> Float[Array, "points"]:
    """Keep a difference of variances positive, as it is but for rounding."""
    return jnp.maximum(variances, 10 * jnp.finfo(prior.dtype).eps * prior)
