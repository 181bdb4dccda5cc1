"""The core of jmeta: one pure episode function, of which every method is a transformation.

An episode adapts to a task and is judged on it: `(meta_params, task, key) -> (loss, aux)`. `plain_episode` is how
every learner is evaluated; `episode` is how it is trained, which for most learners is the same. Differentiate it with
`jax.value_and_grad(..., has_aux=True)` or any other estimator of that signature, average it over tasks with
`over_tasks`, and give it to `jmeta.meta_trainer`.
"""

import jax

from .losses import checked_loss
from .types import Aux, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task


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
      >>> loss, aux = episode_fn(meta_params, task, jax.random.key(2))
    """
    return plain_episode(learner, loss_fn) if learner.episode is None else learner.episode(loss_fn)


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
      >>> loss, aux = episode_fn(meta_params, task, jax.random.key(2))
    """

    def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[jax.Array, Aux]:
        key_adapt, key_predict = jax.random.split(key)
        adapted = learner.adapt(meta_params, task.support, key_adapt)
        outputs = learner.predict(meta_params, adapted, task.query.x, key_predict)
        return checked_loss(loss_fn(outputs, task.query), "what loss_fn returns")

    return episode_fn
