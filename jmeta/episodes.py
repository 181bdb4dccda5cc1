"""The core of jmeta: one pure episode function, of which every method is a transformation.

An episode adapts to a task and is judged on it: `(meta_params, task, key) -> (loss, aux)`. `plain_episode` is how
every learner is evaluated; `episode` is how it is trained, which for most learners is the same. Differentiate it with
`jax.value_and_grad(..., has_aux=True)` or any other estimator of that signature, average it over tasks with
`over_tasks`, and give it to `jmeta.meta_trainer`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from .losses import checked_loss
from .types import Aux, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task
from .working_set import chunk_size


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


def over_tasks(
    fn: Callable[[PyTree, PyTree, RandomKey], Any], batching: str | int = "auto"
) -> Callable[[PyTree, PyTree, RandomKey], Any]:
    """Average an episode function, or its gradient function, over stacked tasks.

    Averaging the *gradient function* by `"scan"` holds one task's residuals at a time; the gradient of an averaged
    episode function holds those of all tasks, unless it is the average of `jax.checkpoint(episode_fn)`, which computes
    each task again on the way back. The results agree up to rounding.

    Args:
      fn: `(meta_params, task, key) -> result`; every leaf of the result is averaged over tasks, as floating point.
      batching: `"vmap"`, all tasks at once; `"scan"`, one after another; a number of tasks, that many at once and the
        chunks one after another; or `"auto"`, all at once on accelerators, unless fewer were measured to be faster
        on the card, and on a CPU as many as its caches hold (see `jmeta.working_set`), decided when the function is
        traced.

    Returns:
      `(meta_params, tasks, key) -> mean result`, where every leaf of `tasks` has the tasks on its first axis. The task
      at index i gets the i-th of `jax.random.split(key, num_tasks)`, whatever the batching; or the i-th of `key` if
      that is a key for each task, as in a share of the tasks (see `jmeta.sharding`).

    Raises:
      ValueError: if `batching` is none of these; at trace time if it does not divide the number of tasks, or if `tasks`
        is not stacked.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> mean = jmeta.over_tasks(lambda meta_params, task, key: meta_params * task, batching="scan")
      >>> float(mean(2.0, jnp.array([1.0, 3.0]), jax.random.key(0)))
      4.0
    """
    is_chunk = isinstance(batching, int) and not isinstance(batching, bool) and batching > 0
    if batching not in ("auto", "vmap", "scan") and not is_chunk:
        raise ValueError(
            f"batching={batching!r}; expected 'auto', 'vmap', 'scan' or a positive number of tasks at once"
        )

    def mean_over_tasks(meta_params: PyTree, tasks: PyTree, key: Key[Array, "..."]) -> Any:
        num_tasks = count_tasks(tasks)
        keys = task_keys(key, num_tasks)
        chunk = chunk_size(batching, lambda task, key: fn(meta_params, task, key), (tasks, keys), num_tasks)
        if num_tasks % chunk:
            raise ValueError(f"batching={batching} does not divide the {num_tasks} tasks; pass a divisor, or 'vmap'")
        at_once = jax.vmap(fn, in_axes=(None, 0, 0))
        if chunk == num_tasks:
            return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), at_once(meta_params, tasks, keys))
        if chunk == 1:
            return _mean_of_scan(lambda task_and_key: fn(meta_params, *task_and_key), (tasks, keys), num_tasks)
        chunks = jax.tree.map(lambda leaf: leaf.reshape(num_tasks // chunk, chunk, *leaf.shape[1:]), (tasks, keys))
        sum_of_chunk = lambda chunk: jax.tree.map(lambda leaf: leaf.sum(0), at_once(meta_params, *chunk))  # noqa: E731
        return _mean_of_scan(sum_of_chunk, chunks, num_tasks)

    return mean_over_tasks


def task_keys(key: Key[Array, "..."], num_tasks: int) -> Key[Array, "tasks"]:
    """A key for each of stacked tasks: those that one key is split into, or those given.

    Raises:
      ValueError: if there are several keys, but not one for each task.

    Example:
      >>> import jax
      >>> keys = task_keys(jax.random.key(0), 4)
      >>> keys.shape, bool((task_keys(keys, 4) == keys).all())
      ((4,), True)
    """
    if not (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim):
        return jax.random.split(key, num_tasks)
    if key.shape != (num_tasks,):
        raise ValueError(f"{num_tasks} tasks and keys of shape {key.shape}; pass one key, or one for each task")
    return key


def count_tasks(tasks: PyTree) -> int:
    """The number of stacked tasks: the common first axis of all leaves.

    Raises:
      ValueError: if there is no leaf, or the leaves disagree.

    Example:
      >>> import jax, jmeta
      >>> sample = jmeta.tasks.stacked(jmeta.tasks.sinusoid(num_shots=5, num_queries=5), 4)
      >>> count_tasks(sample(jax.random.key(0)))
      4
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tasks)]
    counts = {shape[0] for shape in shapes if shape}
    if len(counts) != 1 or () in shapes:
        raise ValueError(
            f"expected stacked tasks, the tasks on the first axis of every leaf, but the leaves have shapes {shapes}; "
            "stack tasks with `jax.vmap(sample)(jax.random.split(key, num_tasks))`"
        )
    (count,) = counts
    return count


def _mean_of_scan(fn: Callable[[Any], Any], xs: PyTree, count: int) -> Any:
    """The sum of `fn(x)` over the leading axis of `xs`, by `count`; holds one result at a time.

    Sums are float32 at least; means have the dtypes that `jnp.mean` gives.
    """
    # indexed inside, or `jax_debug_key_reuse` counts the first key as used twice
    first = jax.eval_shape(lambda xs: fn(jax.tree.map(lambda leaf: leaf[0], xs)), xs)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.result_type(leaf.dtype, jnp.float32)), first)

    def add(total: PyTree, x: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, fn(x)), None

    total, _ = jax.lax.scan(add, zeros, xs)
    return jax.tree.map(lambda leaf, like: (leaf / count).astype(_mean_dtype(like.dtype)), total, first)


def _mean_dtype(dtype: jnp.dtype) -> jnp.dtype:
    return jax.eval_shape(jnp.mean, jax.ShapeDtypeStruct((), dtype)).dtype
