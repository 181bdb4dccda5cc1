"""The core of jmeta: one pure episode function, of which every method is a transformation.

An episode adapts to a task and is judged on it: `(meta_params, task, key) -> (loss, aux)`. `plain_episode` is how
every learner is evaluated; `episode` is how it is trained, which for most learners is the same. Differentiate it with
`jax.value_and_grad(..., has_aux=True)` or any other estimator of that signature, average it over tasks with
`over_tasks`, and give it to `jmeta.meta_trainer`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .losses import check_labels, checked_loss, without_padding
from .types import Aux, Batch, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task

__all__ = ["episode", "plain_episode", "check_predictions", "task_without_padding"]


def episode(learner: Learner, loss_fn: LossFn) -> EpisodeFn:
    """Build the episode that meta-trains a learner: its own one where it has one, or else the plain one.

    Args:
      learner: what adaptation is.
      loss_fn: `(outputs, batch) -> (loss, aux)`, by which predictions for the query are judged.

    Returns:
      The episode function `(meta_params, task, key) -> (loss, aux)` of one task. Its loss is the method's objective,
      which need not be comparable with `loss_fn`; to evaluate, use `plain_episode`.

    Example:
      >>> import jmeta, jax, optax
      >>> from jmeta import learners, losses, models, tasks
      >>> sample = tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)
      >>> learner = learners.reptile(models.mlp([16, 5]), losses.cross_entropy, optax.sgd(0.1), num_steps=5)
      >>> episode_fn = jmeta.episode(learner, losses.cross_entropy)  # half the squared distance to the adapted state
      >>> task = sample(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> loss, aux = jax.jit(episode_fn)(meta_params, task, jax.random.key(2))
    """
    if learner.episode is None:
        return plain_episode(learner, loss_fn)
    of_learner = learner.episode(loss_fn)

    def episode_fn(meta_params: PyTree, task: PyTree, key: RandomKey) -> tuple[jax.Array, Aux]:
        return of_learner(meta_params, task_without_padding(task), key)

    return episode_fn


def plain_episode(learner: Learner, loss_fn: LossFn) -> EpisodeFn:
    """Build the episode that adapts to a task's support and is judged on its query.

    Args:
      learner: what adaptation is; its `episode` is ignored.
      loss_fn: `(outputs, batch) -> (loss, aux)`, by which predictions for the query are judged.

    Returns:
      The episode function `(meta_params, task, key) -> (loss, aux)` of one task.

    Raises:
      ValueError: at trace time, if `loss_fn` returns anything but a scalar and a dictionary.

    Example:
      >>> import jmeta, jax
      >>> from jmeta import learners, losses, models, tasks
      >>> sample = tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)
      >>> learner = learners.protonet(models.mlp([32, 16]), num_ways=5)
      >>> episode_fn = jmeta.plain_episode(learner, losses.cross_entropy)
      >>> task = sample(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> loss, aux = jax.jit(episode_fn)(meta_params, task, jax.random.key(2))
    """

    def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[jax.Array, Aux]:
        task = task_without_padding(task)
        key_adapt, key_predict = jax.random.split(key)
        adapted = learner.adapt(meta_params, task.support, key_adapt)
        outputs = learner.predict(meta_params, adapted, task.query.x, key_predict)
        return checked_loss(loss_fn(outputs, task.query), "what loss_fn returns")

    return episode_fn


def check_predictions(learner: Learner, loss_fn: LossFn, meta_params: PyTree, tasks: Task) -> None:
    """Look at what is otherwise traced: whether a learner's predictions and the labels of tasks go together.

    Labels are looked at where the loss reports an `accuracy`.

    Args:
      learner: its predictions have the classes on their last axis, if it classifies.
      loss_fn: judges its predictions.
      meta_params: of the learner; only shapes and dtypes matter.
      tasks: stacked tasks; masks and labels are arrays at hand, and of the rest shapes and dtypes are enough. Padding
        is not looked at.

    Raises:
      ValueError: if predictions are no floating-point numbers, or a label is none of the classes that they are for.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import learners, losses, tasks
      >>> drawn = tasks.stacked(tasks.gaussian_blobs(num_ways=6, num_shots=1, num_queries=1), 2)(jax.random.key(0))
      >>> check_predictions(learners.nearest_mean(num_ways=5), losses.cross_entropy, {}, drawn)
      Traceback (most recent call last):
      ...
      ValueError: the support has labels 0, 1, 2, 3, 4, 5, but the learner tells 5 classes apart; pass labels in 0..4
    """

    def predict_and_judge(meta_params: PyTree, tasks: Task) -> tuple[PyTree, Aux]:
        task = jax.tree.map(lambda leaf: leaf[0], tasks)
        adapted = learner.adapt(meta_params, task.support, jax.random.key(0))
        outputs = learner.predict(meta_params, adapted, task.query.x, None)
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(outputs)]
        if not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
            raise ValueError(
                f"`predict` must return floating-point numbers, such as one logit for each class, but it returns "
                f"{', '.join(sorted({str(dtype) for dtype in dtypes})) or 'nothing'}; return logits, not class ids"
            )
        return outputs, checked_loss(loss_fn(outputs, task.query), "what loss_fn returns")[1]

    outputs, aux = jax.eval_shape(predict_and_judge, meta_params, tasks)
    if "accuracy" not in aux or not isinstance(outputs, jax.ShapeDtypeStruct) or outputs.ndim != 2:
        return
    for name, batch in (("support", tasks.support), ("query", tasks.query)):
        if not jnp.issubdtype(getattr(batch.y, "dtype", float), jnp.integer):
            continue
        labels = np.asarray(batch.y)
        is_real = np.ones(labels.shape, bool) if batch.mask is None else np.asarray(batch.mask)
        check_labels(labels[is_real], outputs.shape[-1], f"the {name}")


def task_without_padding(task: PyTree) -> PyTree:
    """Put zeros into the padding of both batches; what is no `jmeta.Task`, or holds several batches in one, stays."""
    if not isinstance(task, Task):
        return task

    def cleaned(batch: Any) -> Any:
        is_one_batch = isinstance(batch, Batch) and (batch.mask is None or batch.mask.ndim == 1)
        return without_padding(batch) if is_one_batch else batch

    return Task(cleaned(task.support), cleaned(task.query), task.progress)
