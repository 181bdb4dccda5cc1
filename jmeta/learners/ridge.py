"""Ridge regression on embeddings, R2-D2: a task's head in closed form, and differentiable.

With the embedded support X `[examples, features]` and its one-hot labels Y, the head is
W = argmin ‖X W − Y‖² + λ ‖W‖² = Xᵀ (X Xᵀ + λ I)⁻¹ Y = (Xᵀ X + λ I)⁻¹ Xᵀ Y; of the two forms, equal by Woodbury's
identity, the one with the smaller system is solved. The logits of a query are α f(x) W; λ and α are learned with f.
Paper: Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form solvers", 2019,
arXiv:1805.08136, section 3.2.

Differences from the paper: the scalar β added to all logits is left out, since a softmax ignores it; λ is learned
as its logarithm, so it stays positive; the system is solved by Cholesky factors, not by an inverse.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..bounds import is_real
from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from .comparison import check_num_ways, embed, embed_support, exclude_absent, one_hot_labels

__all__ = ["RidgeHead", "ridge"]


class RidgeHead(NamedTuple):
    """The adapted state: everything inferred from a support.

    Attributes:
      params: parameters of the model, with the support's statistics if it stores any.
      weights: `[features, ways]`, W.
      counts: `[ways]`, real examples of each class.
    """

    params: PyTree
    weights: Array
    counts: Array


def ridge(model: Model, *, num_ways: int, initial_lambda: float = 1.0, initial_alpha: float = 10.0) -> Learner:
    """Classify by ridge regression from embeddings to one-hot labels.

    Args:
      model: embeds inputs; `apply` returns `[examples, features]`.
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf.
      initial_lambda: initial λ, positive: the penalty, relative to the squared length of embeddings.
      initial_alpha: initial α, the factor from a regression output, of the order of 1, to a logit.

    Returns:
      A learner whose adapted state is `RidgeHead`; its meta-parameters are
      `{"params": ..., "log_lambda": ..., "alpha": ...}`.

    Raises:
      ValueError: if `num_ways` or `initial_lambda` is not positive; at trace time if the model's outputs or the labels
        do not have the form above.

    Example:
      >>> import jax, jmeta
      >>> learner = ridge(jmeta.models.mlp([32, 16]), num_ways=5)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> learner.adapt(meta_params, task.support, jax.random.key(2)).weights.shape
      (16, 5)

    Reference:
      Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form solvers", 2019,
      arXiv:1805.08136, section 3.2.
    """
    check_num_ways(num_ways)
    if not is_real(initial_lambda, above=0):
        raise ValueError(f"initial_lambda={initial_lambda}; expected a positive penalty, or the system may be singular")
    if not is_real(initial_alpha, above=0):
        raise ValueError(f"initial_alpha={initial_alpha}; expected a positive factor of the logits, such as 10")

    def init(key: RandomKey, task: Task) -> PyTree:
        params = model.init(key, task.support.x)
        log_lambda = jnp.asarray(math.log(initial_lambda), jnp.float32)
        return {"params": params, "log_lambda": log_lambda, "alpha": jnp.asarray(initial_alpha, jnp.float32)}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> RidgeHead:
        embeddings, params = embed_support(model, meta_params["params"], support, key)
        one_hot = one_hot_labels(support, num_ways, embeddings.dtype)
        rows = jnp.where(one_hot.sum(1, keepdims=True) > 0, embeddings, 0.0)  # a row of zeros has no weight
        penalty = jnp.exp(meta_params["log_lambda"])
        solve = _solve_by_examples if rows.shape[0] <= rows.shape[1] else _solve_by_features
        return RidgeHead(params, solve(rows, one_hot, penalty), one_hot.sum(0))

    def predict(
        meta_params: PyTree, adapted: RidgeHead, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        embeddings = embed(model, adapted.params, x, key)
        outputs = jnp.matmul(embeddings, adapted.weights, precision="highest")
        return exclude_absent(meta_params["alpha"] * outputs, adapted.counts)

    return Learner(init, adapt, predict)


def _solve_by_examples(
    rows: Float[Array, "examples features"], targets: Float[Array, "examples ways"], penalty: Float[Array, ""]
) -> Float[Array, "features ways"]:
    """Return W = Xᵀ (X Xᵀ + λ I)⁻¹ Y, the dual form: as many unknowns as examples."""
    return jnp.matmul(rows.T, _solve_penalised(rows, targets, penalty), precision="highest")


def _solve_by_features(
    rows: Float[Array, "examples features"], targets: Float[Array, "examples ways"], penalty: Float[Array, ""]
) -> Float[Array, "features ways"]:
    """Return W = (Xᵀ X + λ I)⁻¹ Xᵀ Y, the primal form: as many unknowns as features."""
    return _solve_penalised(rows.T, jnp.matmul(rows.T, targets, precision="highest"), penalty)


def _solve_penalised(
    factor: Float[Array, "unknowns inner"], right: Float[Array, "unknowns ways"], penalty: Float[Array, ""]
) -> Float[Array, "unknowns ways"]:
    """Return (A Aᵀ + λ I)⁻¹ B by Cholesky factors."""
    gram = jnp.matmul(factor, factor.T, precision="highest")
    system = gram + penalty * jnp.eye(gram.shape[0], dtype=gram.dtype)
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(system, lower=True), right)
