"""Prototypical networks: classify by distance to the mean embedding of each class.

The prototype of class k is cₖ = mean of f(x) over its support examples, and the logit of class k for a query x is
−d(f(x), cₖ). There are three distances: squared Euclidean, d = ‖f(x) − cₖ‖² (Snell, Swersky, Zemel, "Prototypical
Networks for Few-shot Learning", 2017, arXiv:1703.05175, eq. 1-2); cosine, −d = τ cos(f(x), cₖ); and Mahalanobis,
d = ½ (f(x) − cₖ)ᵀ Qₖ⁻¹ (f(x) − cₖ) with Qₖ = λₖ Σₖ + (1 − λₖ) Σ + I, λₖ = nₖ / (nₖ + 1), Σₖ the covariance of class k
and Σ that of the whole support (Bateni et al., "Improved Few-Shot Visual Classification", 2020, arXiv:1912.03432,
section 4).

Differences from the papers: the cosine has a learned scale τ, since cosines alone, in [-1, 1], cannot make a softmax
confident; the covariance of a class with one example is 0; and only the metric of Simple CNAPS is here, not its adapted
feature extractor (the authors' code, unlike their equation, leaves out the ½).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..bounds import is_real
from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from .comparison import check_num_ways, class_means, directions, embed, embed_support, exclude_absent, one_hot_labels

__all__ = ["Prototypes", "protonet"]

_DISTANCES = ("euclidean", "cosine", "mahalanobis")


class Prototypes(NamedTuple):
    """The adapted state: everything inferred from a support.

    Attributes:
      params: parameters of the model, with the support's statistics if it stores any.
      means: `[ways, features]`, the prototypes.
      counts: `[ways]`, real examples of each class.
      cholesky: `[ways, features, features]`, the lower factors of Qₖ; `None` for the other distances.
    """

    params: PyTree
    means: Array
    counts: Array
    cholesky: Array | None


def protonet(model: Model, *, num_ways: int, distance: str = "euclidean", initial_scale: float = 10.0) -> Learner:
    """Classify by distance to the mean embedding of each class.

    Args:
      model: embeds inputs; `apply` returns `[examples, features]`.
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf.
      distance: `"euclidean"` (squared), `"cosine"` or `"mahalanobis"`, which solves one system of `features` unknowns
        for each class.
      initial_scale: initial factor of the cosine, positive; its logarithm is a meta-parameter. No effect with the other
        distances.

    Returns:
      A learner whose adapted state is `Prototypes`; its meta-parameters are `{"params": ...}`, for the cosine also
      `"log_scale"`.

    Raises:
      ValueError: if `num_ways` or `initial_scale` is not positive, or `distance` is none of the three; at trace time if
        the model's outputs or the labels do not have the form above.

    Example:
      >>> import jax, jmeta
      >>> learner = protonet(jmeta.models.mlp([32, 16]), num_ways=5)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> learner.adapt(meta_params, task.support, jax.random.key(2)).means.shape
      (5, 16)

    Reference:
      Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175, eq. 1-2.
      Bateni, Goyal, Masrani, Wood, Sigal, "Improved Few-Shot Visual Classification", 2020, arXiv:1912.03432, section
      4.
    """
    check_num_ways(num_ways)
    if distance not in _DISTANCES:
        raise ValueError(f"distance={distance!r}; expected one of {', '.join(map(repr, _DISTANCES))}")
    if not is_real(initial_scale, above=0):
        raise ValueError(f"initial_scale={initial_scale}; expected a positive number, such as 10")

    def init(key: RandomKey, task: Task) -> PyTree:
        meta_params = {"params": model.init(key, task.support.x)}
        return (
            meta_params | {"log_scale": jnp.asarray(math.log(initial_scale), jnp.float32)}
            if distance == "cosine"
            else meta_params
        )

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> Prototypes:
        embeddings, params = embed_support(model, meta_params["params"], support, key)
        one_hot = one_hot_labels(support, num_ways, embeddings.dtype)
        means, counts = class_means(embeddings, one_hot)
        cholesky = _cholesky_of_covariances(embeddings, one_hot) if distance == "mahalanobis" else None
        return Prototypes(params, means, counts, cholesky)

    def predict(
        meta_params: PyTree, adapted: Prototypes, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        embeddings = embed(model, adapted.params, x, key)
        if distance == "cosine":
            cosines = jnp.matmul(directions(embeddings), directions(adapted.means).T, precision="highest")
            return exclude_absent(jnp.exp(meta_params["log_scale"]) * cosines, adapted.counts)
        differences = embeddings[:, None, :] - adapted.means[None, :, :]
        if adapted.cholesky is None:
            return exclude_absent(-jnp.square(differences).sum(-1), adapted.counts)
        return exclude_absent(-0.5 * _whitened_squares(adapted.cholesky, differences), adapted.counts)

    return Learner(init, adapt, predict)


def _cholesky_of_covariances(
    embeddings: Float[Array, "examples features"], one_hot: Float[Array, "examples ways"]
) -> Float[Array, "ways features features"]:
    """Return L with L Lᵀ = λₖ Σₖ + (1 − λₖ) Σ + I for each class: the identity keeps every matrix far from singular."""
    of_classes = jax.vmap(_covariance, in_axes=(None, 1))(embeddings, one_hot)
    of_task = _covariance(embeddings, one_hot.sum(1))
    counts = one_hot.sum(0)[:, None, None]
    share = counts / (counts + 1.0)
    mixed = (
        share * of_classes + (1.0 - share) * of_task[None] + jnp.eye(embeddings.shape[1], dtype=embeddings.dtype)[None]
    )
    return jnp.linalg.cholesky(mixed)


def _covariance(
    embeddings: Float[Array, "examples features"], weights: Float[Array, "examples"]
) -> Float[Array, "features features"]:
    """Return the unbiased covariance of the examples of weight 1, without those of weight 0; 0 for fewer than two."""
    count = weights.sum()
    mean = (weights[:, None] * embeddings).sum(0) / jnp.maximum(count, 1.0)
    centred = weights[:, None] * (embeddings - mean[None])
    return jnp.matmul(centred.T, centred, precision="highest") / jnp.maximum(count - 1.0, 1.0)


def _whitened_squares(
    cholesky: Float[Array, "ways features features"], differences: Float[Array, "examples ways features"]
) -> Float[Array, "examples ways"]:
    """Return ‖L⁻¹ (f(x) − cₖ)‖², which is (f(x) − cₖ)ᵀ Qₖ⁻¹ (f(x) − cₖ)."""

    def of_class(factor: Array, differences: Array) -> Array:
        whitened = jax.scipy.linalg.solve_triangular(factor, differences.T, lower=True)
        return jnp.square(whitened).sum(0)

    return jax.vmap(of_class, in_axes=(0, 1), out_axes=1)(cholesky, differences)
