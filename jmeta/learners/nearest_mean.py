"""Nearest mean: the honest baseline of few-shot classification, which learns nothing.

This is a prototypical network without a network: the logit of class k for an input x is −‖x − cₖ‖², where cₖ is the
mean of the raw inputs of class k in the support. A meta-learner's gain over this number is the gain from meta-learning.

Differences from the literature: none; this is the nearest-centroid classifier (Tibshirani et al., "Diagnosis of
multiple cancer types by shrunken centroids of gene expression", 2002, without the shrinkage).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..models.inputs import check_array
from ..types import Batch, Learner, PyTree, RandomKey, Task
from .comparison import check_num_ways, class_means, exclude_absent, one_hot_labels

__all__ = ["ClassMeans", "nearest_mean"]


class ClassMeans(NamedTuple):
    """The adapted state: `means`, `[ways, pixels]`, and `counts`, `[ways]`, the real examples of each class."""

    means: Array
    counts: Array


def nearest_mean(*, num_ways: int) -> Learner:
    """Classify by squared distance to the mean of the raw inputs of each class.

    Args:
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf.

    Returns:
      A learner for inputs `[examples, ...]`, which it flattens. Its meta-parameters are `{}`: there is nothing to
      train.

    Raises:
      ValueError: if `num_ways` is not positive; at trace time if the labels are not a vector of integers.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> support = jmeta.Batch(x=jnp.array([[0.0], [4.0]]), y=jnp.array([0, 1]))
      >>> learner = nearest_mean(num_ways=2)
      >>> adapted = learner.adapt({}, support, None)
      >>> learner.predict({}, adapted, jnp.array([[1.0]]), None).tolist()
      [[-1.0, -9.0]]

    Reference:
      Tibshirani, Hastie, Narasimhan, Chu, "Diagnosis of multiple cancer types by shrunken centroids of gene
      expression", 2002, without the shrinkage.
    """
    check_num_ways(num_ways)

    def init(key: RandomKey, task: Task) -> PyTree:
        del key, task
        return {}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey | None) -> ClassMeans:
        del meta_params, key
        pixels = _flatten(support.x)
        one_hot = one_hot_labels(support, num_ways, pixels.dtype)
        if support.mask is not None:
            pixels = jnp.where(support.mask[:, None], pixels, 0.0)  # padding may hold NaN
        return ClassMeans(*class_means(pixels, one_hot))

    def predict(
        meta_params: PyTree, adapted: ClassMeans, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        del meta_params, key
        pixels = _flatten(x)
        if pixels.shape[1] != adapted.means.shape[1]:
            raise ValueError(
                f"inputs have {pixels.shape[1]} numbers, but those of the support have {adapted.means.shape[1]}; pass "
                "inputs of one shape"
            )
        differences = pixels[:, None, :] - adapted.means[None, :, :]
        return exclude_absent(-jnp.square(differences).sum(-1), adapted.counts)

    return Learner(init, adapt, predict)


def _flatten(x: PyTree) -> Float[Array, "examples pixels"]:
    check_array(x)
    x = jnp.asarray(x)
    return x.reshape(x.shape[0], math.prod(x.shape[1:])).astype(jnp.promote_types(x.dtype, jnp.float32))
