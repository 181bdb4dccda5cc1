"""Baseline++ and Baseline: pre-train on all classes at once, then fine-tune a new head for each task.

A body f and a head are trained as an ordinary classifier of all meta_train classes: the learner's training episode. A
task freezes f and fits a fresh head to the embedded support by a few optimizer steps on the cross-entropy. The cosine
head of Baseline++ has logits s cos(f(x), wₖ), the linear one of Baseline wₖ · f(x) + bₖ. Training adapts nothing, and
yet many meta-learners do not beat this baseline. Paper: Chen, Liu, Kira, Wang, Huang, "A Closer Look at Few-shot
Classification", 2019, arXiv:1904.04232, section 3.2.

Differences from the paper: each step uses the whole support instead of a random part of it; the optimizer is the
caller's; cosine weights start as unit vectors in random directions, and have no learned length.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Shaped

from .. import adjoints
from ..adaptation import descend
from ..bounds import is_real, is_whole
from ..losses import checked_loss, cross_entropy
from ..models import but_statistics
from ..params import merge, partition
from ..support import support_loss
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from .comparison import check_num_ways, directions, embed, embed_support, exclude_absent, one_hot_labels

__all__ = ["FineTuned", "fine_tune"]

_HEADS = ("cosine", "linear")


class FineTuned(NamedTuple):
    """The adapted state: everything inferred from a support.

    Attributes:
      body: parameters of the body, with the support's statistics if it stores any.
      head: parameters of the task's own head.
      counts: `[ways]`, real examples of each class.
    """

    body: PyTree
    head: PyTree
    counts: Array


class _Context(NamedTuple):
    rest: PyTree  # parameters that the steps leave unchanged
    features: Float[Array, "examples features"]  # features of the body before any step
    support: Batch


def fine_tune(
    body: Model,
    optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    num_ways: int,
    num_steps: int,
    head: str = "cosine",
    scale: float = 10.0,
    is_adapted: Callable[[str], bool] = lambda _: False,
) -> Learner:
    """Freeze a pre-trained body, or most of it, and fit a fresh head to the support.

    Its training episode pre-trains body and head. The loss is that of the classifier over all classes on a task's
    query, a batch with labels in `0..num_classes-1`, such as `tasks.supervised` draws; the support is ignored.

    Args:
      body: embeds inputs; `apply` returns `[examples, features]`. It sees the support without dropout.
      optimizer: takes the steps of a task's head.
      num_classes: number of classes that the body is pre-trained on.
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf.
      num_steps: steps of the head, at least 0; the paper uses 100.
      head: `"cosine"` (Baseline++) or `"linear"` (Baseline).
      scale: factor from a cosine to a logit, positive. The linear head ignores it.
      is_adapted: whether a task's steps change the body's parameter with this path, along with the head. The papers'
        method selects none, and embeds the support once; `lambda _: True` fine-tunes the whole network.

    Returns:
      A learner whose meta-parameters are `{"body": ..., "head": ...}`; `adapt` uses the body alone, and its adapted
      state is `FineTuned`. It is differentiable, so `jmeta.plain_episode` would train the body, too.

    Raises:
      ValueError: if a number is out of range or `head` is neither of the two; at trace time if the body's outputs or
        the labels do not have the form above.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta, optax
      >>> body = jmeta.models.mlp([32, 16])
      >>> learner = fine_tune(body, optax.sgd(0.1), num_classes=64, num_ways=5, num_steps=10)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> batch = jmeta.Batch(task.query.x, jnp.arange(15))  # labels of all classes
      >>> pretrain_fn = jmeta.episode(learner, jmeta.losses.cross_entropy)
      >>> loss, aux = pretrain_fn(meta_params, jmeta.Task(batch, batch), jax.random.key(2))

    Reference:
      Chen, Liu, Kira, Wang, Huang, "A Closer Look at Few-shot Classification", 2019, arXiv:1904.04232, section 3.2.
    """
    check_num_ways(num_ways)
    head_of_all, head_of_task = _make_head(head, num_classes, scale), _make_head(head, num_ways, scale)
    head_loss = support_loss(head_of_task, _cross_entropy_of_present)

    def is_descended(path: str) -> bool:
        return path.startswith("head/") or but_statistics(is_adapted)(path.removeprefix("body/"))

    def objective(params: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        whole, features = merge(params, context.rest), context.features
        if jax.tree.leaves(params["body"]):
            features, _ = embed_support(body, whole["body"], context.support, None)
        return head_loss(whole["head"], context.support._replace(x=features), key)

    optimizer = adjoints.checked_optimizer(optimizer, "an inner optimizer")
    inner_loop = descend(objective, optimizer, num_steps=num_steps)

    def init(key: RandomKey, task: Task) -> PyTree:
        key_body, key_head = jax.random.split(key)
        params = body.init(key_body, task.support.x)
        features = jax.eval_shape(lambda x: embed(body, params, x, None), task.support.x)
        return {"body": params, "head": head_of_all.init(key_head, jnp.zeros(features.shape, features.dtype))}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> FineTuned:
        key_head, key_descend = jax.random.split(key)
        features, body_params = embed_support(body, meta_params["body"], support, None)
        fresh = {"body": meta_params["body"], "head": head_of_task.init(key_head, features)}
        start, rest = partition(fresh, is_descended)
        params, _ = inner_loop(start, _Context(rest, features, support), key_descend)
        whole = merge(params, rest)
        if jax.tree.leaves(params["body"]):
            _, body_params = embed_support(body, whole["body"], support, None)
        return FineTuned(body_params, whole["head"], one_hot_labels(support, num_ways, features.dtype).sum(0))

    def predict(
        meta_params: PyTree, adapted: FineTuned, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        del meta_params
        return exclude_absent(head_of_task.apply(adapted.head, embed(body, adapted.body, x, key), None), adapted.counts)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Float[Array, ""], Aux]:
            features, _ = embed_support(body, meta_params["body"], task.query, key)
            outputs = head_of_all.apply(meta_params["head"], features, None)
            return checked_loss(outer_loss(outputs, task.query), "what loss_fn returns")

        return episode_fn

    return Learner(init, adapt, predict, episode)


def _make_head(head: str, num_outputs: int, scale: float) -> Model:
    if head not in _HEADS:
        raise ValueError(f"head={head!r}; expected one of {', '.join(map(repr, _HEADS))}")
    if not is_whole(num_outputs):
        raise ValueError(f"num_classes={num_outputs}; expected the number of classes to pre-train on, at least 1")
    if not is_real(scale, above=0):
        raise ValueError(f"scale={scale}; expected a positive number, such as 10")
    return _linear_head(num_outputs) if head == "linear" else _cosine_head(num_outputs, scale)


def _linear_head(num_outputs: int) -> Model:
    """Build a head with outputs wₖ · x + bₖ, whose weight vectors start with a mean square of 1 / features."""

    def init(key: RandomKey, x: Float[Array, "examples features"]) -> PyTree:
        weights = jax.random.normal(key, (num_outputs, x.shape[1]), x.dtype) / x.shape[1] ** 0.5
        return {"weights": weights, "bias": jnp.zeros(num_outputs, x.dtype)}

    def apply(params: PyTree, x: Float[Array, "examples features"], key: RandomKey | None) -> Array:
        del key
        return jnp.matmul(x, params["weights"].T, precision="highest") + params["bias"][None, :]

    return Model(init, apply)


def _cosine_head(num_outputs: int, scale: float) -> Model:
    """Build a head with outputs s cos(x, wₖ), whose weight vectors start with length 1."""

    def init(key: RandomKey, x: Float[Array, "examples features"]) -> PyTree:
        return {"weights": directions(jax.random.normal(key, (num_outputs, x.shape[1]), x.dtype))}

    def apply(params: PyTree, x: Float[Array, "examples features"], key: RandomKey | None) -> Array:
        del key
        return scale * jnp.matmul(directions(x), directions(params["weights"]).T, precision="highest")

    return Model(init, apply)


def _cross_entropy_of_present(outputs: Shaped[Array, "examples ways"], batch: Batch) -> tuple[Float[Array, ""], Aux]:
    """Return the cross-entropy among the classes of the batch: padded ways do not affect the others' logits."""
    counts = one_hot_labels(batch, outputs.shape[1], outputs.dtype).sum(0)
    return cross_entropy(exclude_absent(outputs, counts), batch)
