"""ProtoMAML: MAML whose linear head starts each task as the prototypical network of that task.

Squared Euclidean distance to a prototype cₖ is a linear function of an embedding up to a term that all classes share,
so Wₖ = 2cₖ and bₖ = −‖cₖ‖² are a prototypical network written as a head. From there, MAML's inner steps change body and
head, and the meta-gradient flows through the initial head as well.

Reference: Triantafillou, Zhu, Dumoulin, et al., "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few
Examples", 2020, arXiv:1903.03096, section 4. Differs from the paper: nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..models import but_statistics
from ..params import merge, partition
from ..types import Aux, Batch, Learner, LossFn, Model, PyTree, RandomKey, Task
from .comparison import check_num_ways, class_means, embed, embed_support, exclude_absent, one_hot_labels

__all__ = ["proto_maml"]


class _Head(NamedTuple):
    kernel: Float[Array, "features ways"]
    bias: Float[Array, " ways"]


class _Adapted(NamedTuple):
    body: PyTree
    head: _Head
    class_sizes: Float[Array, " ways"]  # a class without a support example gets no probability


class _Context(NamedTuple):
    rest: PyTree  # parameters that inner steps leave unchanged
    class_sizes: Float[Array, " ways"]
    support: Batch


def proto_maml(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_ways: int,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn an embedding; adapt it, and a head that starts from prototypes, by a few steps.

    Args:
      model: embeds inputs; `apply` returns `[examples, features]`.
      loss_fn, inner_optimizer, num_steps, adjoint: as in `maml`.
      num_ways: number of classes in a task; labels are `0..num_ways-1`.
      is_adapted: as in `maml`, for the embedding's parameters; the head is always adapted, so it may select none.

    Returns:
      A learner whose meta-parameters are parameters of `model`; with 0 steps it is `protonet(model, num_ways=num_ways)`
      up to a constant that does not change probabilities.

    Raises:
      ValueError: if `num_ways` is not positive or `num_steps` is negative.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> model = models.mlp([32, 16])
      >>> learner = learners.proto_maml(model, losses.cross_entropy, optax.sgd(0.1), num_ways=5, num_steps=3)

    Reference:
      Triantafillou et al., "Meta-Dataset", 2020, arXiv:1903.03096, section 4.
    """
    check_num_ways(num_ways)

    def is_descended(path: str) -> bool:
        return path.startswith("head/") or but_statistics(is_adapted)(path.removeprefix("body/"))

    def objective(params: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        whole = merge(params, context.rest)
        embeddings, _ = embed_support(model, whole["body"], context.support, key)
        return loss_fn(_logits(embeddings, whole["head"], context.class_sizes), context.support)

    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    inner_loop = descend(objective, inner_optimizer, num_steps=num_steps, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        return model.init(key, task.support.x)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> _Adapted:
        key_prototypes, key_descend, key_statistics = jax.random.split(key, 3)
        embeddings, _ = embed_support(model, meta_params, support, key_prototypes)
        prototypes, class_sizes = class_means(embeddings, one_hot_labels(support, num_ways, embeddings.dtype))
        head = _Head(2 * prototypes.T, -jnp.square(prototypes).sum(-1))
        start, rest = partition({"body": meta_params, "head": head}, is_descended)
        params, _ = inner_loop(start, _Context(rest, class_sizes, support), key_descend)
        whole = merge(params, rest)
        _, body = embed_support(model, whole["body"], support, key_statistics)
        return _Adapted(body, whole["head"], class_sizes)

    def predict(
        meta_params: PyTree, adapted: _Adapted, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        del meta_params
        return _logits(embed(model, adapted.body, x, key), adapted.head, adapted.class_sizes)

    return Learner(init, adapt, predict)


def _logits(
    embeddings: Float[Array, "examples features"], head: _Head, class_sizes: Float[Array, " ways"]
) -> Float[Array, "examples ways"]:
    products = jnp.matmul(
        embeddings, head.kernel, precision="highest"
    )  # nearly cancelled by the bias, as distances are
    return exclude_absent(products + head.bias[None], class_sizes)
