"""Inductive and transductive prediction: does a prediction for one query depend on the other queries?

This is the most misreported detail of few-shot learning: a network that normalises the query set by its own statistics
sees all queries of a task at once, which is worth points of accuracy. `leaks` finds out whether a learner does so;
`jmeta.evaluate` calls it before it reports a number, and `jmeta.testing` offers it for tests. `support_and_one_query`
makes any learner inductive.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .losses import without_padding
from .types import Batch, Learner, PyTree, RandomKey, Task

__all__ = ["LeakReport", "leaks", "support_and_one_query", "three_ways", "compared"]


class LeakReport(NamedTuple):
    """A report on whether, and by how much, predictions depend on the other queries.

    Attributes:
      is_leaking: whether a prediction changed by more than `tolerance`.
      change_when_dropped: largest change of a query's outputs when the other queries are dropped.
      change_when_permuted: largest change of a query's outputs when the queries are predicted in another order.
      tolerance: largest change that rounding may cause, from the outputs' size and precision.
    """

    is_leaking: bool
    change_when_dropped: float
    change_when_permuted: float
    tolerance: float


def leaks(learner: Learner, meta_params: PyTree, task: Task, key: RandomKey) -> LeakReport:
    """Predict a task's queries together, one by one, and in another order, and compare.

    Args:
      learner: any learner.
      meta_params: ideally trained meta-parameters: a network that outputs zeros hides a leak.
      task: one task with at least two queries.
      key: key of adaptation; prediction is deterministic.

    Raises:
      ValueError: if the task has fewer than two queries: there are no others to depend on.

    Example:
      >>> import jax, jmeta
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> leaks(jmeta.learners.nearest_mean(num_ways=5), {}, task, jax.random.key(1)).is_leaking
      False
    """
    num_queries = jax.tree.leaves(task.query.x)[0].shape[0]
    if num_queries < 2:
        raise ValueError(f"the task has {num_queries} query; a leak between queries shows only with at least two")

    return compared(jax.jit(three_ways(learner)), meta_params, task, key)


def support_and_one_query(learner: Learner) -> Learner:
    """Build the same learner, except that it predicts each query in one batch with the support alone.

    This makes any learner inductive: statistics are those of the support, with padding as zeros, and the one query. It
    is trained as before, by the learner's own `episode` if it has one.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import inductive
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> nearest = jmeta.learners.nearest_mean(num_ways=5)
      >>> centred = lambda m, adapted, x, key: nearest.predict(m, adapted, x - x.mean(0, keepdims=True), key)
      >>> one_by_one = support_and_one_query(nearest._replace(predict=centred))
      >>> inductive.leaks(one_by_one, {}, task, jax.random.key(1)).is_leaking
      False

    Reference:
      Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999, section 6.1.
    """

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> tuple[PyTree, PyTree]:
        return learner.adapt(meta_params, support, key), without_padding(support).x

    def predict(meta_params: PyTree, adapted: tuple[PyTree, PyTree], x: PyTree, key: RandomKey | None) -> PyTree:
        inner_adapted, support_x = adapted

        def predict_one(query_x: PyTree) -> PyTree:
            together = jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), support_x, query_x)
            outputs = learner.predict(meta_params, inner_adapted, together, key)
            return jax.tree.map(lambda leaf: leaf[-1], outputs)

        return jax.vmap(predict_one)(x)

    return learner._replace(adapt=adapt, predict=predict)


def three_ways(learner: Learner) -> Callable[[PyTree, Task, RandomKey], tuple[PyTree, PyTree, PyTree]]:
    """Build `(meta_params, task, key) -> outputs` of a task's queries together, one by one, and in another order."""

    def outputs_three_ways(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[PyTree, PyTree, PyTree]:
        adapted = learner.adapt(meta_params, task.support, key)
        predict = lambda x: learner.predict(meta_params, adapted, x, None)  # noqa: E731
        x, backwards = task.query.x, jax.tree.map(lambda leaf: leaf[::-1], task.query.x)
        one_by_one = jax.lax.map(lambda one: predict(jax.tree.map(lambda leaf: leaf[None], one)), x)
        return (
            predict(x),
            jax.tree.map(lambda leaf: leaf[:, 0], one_by_one),
            jax.tree.map(lambda leaf: leaf[::-1], predict(backwards)),
        )

    return outputs_three_ways


def compared(run: Callable[..., tuple[PyTree, PyTree, PyTree]], *arguments: PyTree) -> LeakReport:
    """Run `three_ways`, compiled, and report on its outputs: on their numbers, since rounding may turn a decision."""
    with jax.default_matmul_precision("highest"):  # lower precisions round differently for another number of queries
        together, alone, permuted = map(_numbers, jax.device_get(run(*arguments)))
    dropped, moved = _largest_change(together, alone), _largest_change(together, permuted)
    tolerance = max(_rounding(leaf) for leaf in together)
    return LeakReport(max(dropped, moved) > tolerance, dropped, moved, tolerance)


def _numbers(outputs: PyTree) -> list[np.ndarray]:
    return [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _largest_change(outputs: list[np.ndarray], others: list[np.ndarray]) -> float:
    def change(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a.astype(np.float64), b.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))  # -inf, the logit of an absent class, equals itself
        with np.errstate(invalid="ignore"):
            difference = np.where(same, 0.0, np.abs(a - b))
        return float(np.max(np.where(np.isnan(difference), np.inf, difference)))  # finite here, NaN there: a change

    return max(change(a, b) for a, b in zip(outputs, others, strict=True))


def _rounding(outputs: np.ndarray) -> float:
    values = np.abs(outputs.astype(np.float64))
    return float(jnp.finfo(outputs.dtype).eps * 1e3 * max(1.0, values[np.isfinite(values)].max(initial=0.0)))
