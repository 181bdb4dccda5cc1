"""Relation networks: a learned comparison instead of a distance.

A comparison network g scores each pair of a class and a query, rₖ(x) = σ(g([cₖ, f(x)])), where cₖ pools the
embeddings of the class's support examples and [·, ·] joins features. Embedding and comparison are trained together so
that r is 1 for the correct class and 0 for the others, by a mean squared error. Paper: Sung, Yang, Zhang, Xiang, Torr,
Hospedales, "Learning to Compare: Relation Network for Few-Shot Learning", 2018, arXiv:1711.06025, eq. 1-2, section
3.2.

Differences from the paper: cₖ is the mean of the class's embeddings, not their sum, so that tasks of unequal shots give
g inputs of one scale; the error is averaged over classes and queries, not summed; and the default comparison is a
multilayer perceptron on embedded vectors. The paper's convolutional one is a `Model` like any other: with a model that
embeds inputs as feature maps, g receives the maps of both joined in depth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..losses import cross_entropy, masked_mean
from ..models import mlp
from ..support import apply_to_support
from ..types import Aux, Batch, Learner, Model, PyTree, RandomKey, Task
from .comparison import check_num_ways, class_means, exclude_absent, one_hot_labels

__all__ = ["ClassEmbeddings", "relation", "relation_loss"]


class ClassEmbeddings(NamedTuple):
    """The adapted state: everything inferred from a support.

    Attributes:
      params: parameters of the model, with the support's statistics if it stores any.
      comparison: parameters of the comparison network, also with the support's statistics.
      means: `[ways, ...]`, the mean embedding of each class.
      counts: `[ways]`, real examples of each class.
    """

    params: PyTree
    comparison: PyTree
    means: Array
    counts: Array


def relation(model: Model, comparison: Model | None = None, *, num_ways: int) -> Learner:
    """Classify by a learned score of the relation between a query and each class.

    Args:
      model: embeds inputs; `apply` returns `[examples, ..., features]`, vectors or feature maps.
      comparison: scores pairs: takes `[pairs, ..., 2 * features]` (the class first) and returns `[pairs, 1]`;
        `models.mlp([64, 8, 1])` by default.
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf.

    Returns:
      A learner whose outputs are logits (the paper's scores are their sigmoid), for `relation_loss` or
      `losses.cross_entropy`. Its meta-parameters are `{"params": ..., "comparison": ...}`, its adapted state is
      `ClassEmbeddings`.

    Raises:
      ValueError: if `num_ways` is not positive; at trace time if the labels or the outputs of `comparison` do not have
        the form above.

    Example:
      >>> import jax, jmeta
      >>> learner = relation(jmeta.models.mlp([32, 16]), num_ways=5)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> loss, aux = jax.jit(jmeta.episode(learner, relation_loss))(meta_params, task, jax.random.key(2))

    Reference:
      Sung, Yang, Zhang, Xiang, Torr, Hospedales, "Learning to Compare: Relation Network for Few-Shot Learning", 2018,
      arXiv:1711.06025, eq. 1.
    """
    check_num_ways(num_ways)
    compare = mlp([64, 8, 1]) if comparison is None else comparison

    def init(key: RandomKey, task: Task) -> PyTree:
        key_model, key_comparison = jax.random.split(key)
        params = model.init(key_model, task.support.x)
        outputs = jax.eval_shape(lambda x: _embed(model, params, x, None), task.support.x)
        pairs = jnp.zeros((1, *outputs.shape[1:-1], 2 * outputs.shape[-1]), outputs.dtype)
        return {"params": params, "comparison": compare.init(key_comparison, pairs)}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> ClassEmbeddings:
        key_embed, key_compare = jax.random.split(key)
        outputs, params = apply_to_support(model, meta_params["params"], support, key_embed)
        embeddings = _as_float(outputs)
        means, counts = class_means(embeddings, one_hot_labels(support, num_ways, embeddings.dtype))
        compare_params = meta_params["comparison"]
        if compare.calibrate is not None:  # its statistics come from the support's own pairs
            _, compare_params = compare.calibrate(compare_params, _join_pairs(means, embeddings), key_compare)
        return ClassEmbeddings(params, compare_params, means, counts)

    def predict(
        meta_params: PyTree, adapted: ClassEmbeddings, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        del meta_params
        key_embed, key_compare = (None, None) if key is None else jax.random.split(key)
        pairs = _join_pairs(adapted.means, _embed(model, adapted.params, x, key_embed))
        scores = compare.apply(adapted.comparison, pairs, key_compare)
        if scores.shape != (pairs.shape[0], 1):
            raise ValueError(
                f"the comparison network returned shape {scores.shape} for {pairs.shape[0]} pairs; expected one score "
                f"a pair, {(pairs.shape[0], 1)}"
            )
        return exclude_absent(scores.reshape(-1, num_ways), adapted.counts)

    return Learner(init, adapt, predict)


def relation_loss(outputs: Float[Array, "examples ways"], batch: Batch) -> tuple[Float[Array, ""], Aux]:
    """Return the mean squared error of the sigmoid of each logit; the target is 1 for the true class, 0 for the others.

    The error is averaged over the task's classes (a logit of -inf marks a missing class) and then over examples; `aux`
    has the `accuracy`, in [0, 1]. The loss of a label out of range is NaN.

    Raises:
      ValueError: if `batch.y` is not one integer label for each row of `outputs`.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.zeros((1, 1)), y=jnp.array([0]))
      >>> float(relation_loss(jnp.array([[0.0, 0.0, -jnp.inf]]), batch)[0])
      0.25

    Reference:
      Sung et al., 2018, arXiv:1711.06025, eq. 2.
    """
    _, aux = cross_entropy(outputs, batch)
    targets = jax.nn.one_hot(batch.y, outputs.shape[1], dtype=outputs.dtype)
    is_present = outputs > -jnp.inf
    errors = jnp.where(is_present, jnp.square(jax.nn.sigmoid(outputs) - targets), 0.0)
    is_label = (batch.y >= 0) & (batch.y < outputs.shape[1])
    means = errors.sum(1) / jnp.maximum(is_present.sum(1), 1)
    return masked_mean(jnp.where(is_label, means, jnp.nan), batch), aux


def _join_pairs(
    means: Float[Array, "ways ... features"], embeddings: Float[Array, "examples ... features"]
) -> Float[Array, "pairs ... joined"]:
    """Join every embedding with every class, the classes of the first embedding first."""
    pairs = (embeddings.shape[0], means.shape[0], *means.shape[1:])
    classes, queries = jnp.broadcast_to(means[None], pairs), jnp.broadcast_to(embeddings[:, None], pairs)
    return jnp.concatenate([classes, queries], axis=-1).reshape(pairs[0] * pairs[1], *means.shape[1:-1], -1)


def _embed(model: Model, params: PyTree, x: PyTree, key: RandomKey | None) -> Float[Array, "examples ... features"]:
    return _as_float(model.apply(params, x, key))


def _as_float(outputs: Array) -> Array:
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
