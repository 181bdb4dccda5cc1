"""None of these: which examples belong to no class of the support.

A *novelty score* of a prediction is larger the less the example is like any class. How large is too large cannot be
seen from a support, which has no example of "none of these". So the threshold is learned on other tasks, whose last
classes are left out of the support and asked about all the same (`with_unknown_classes`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from ..episodes import episode as episode_of
from ..episodes import task_without_padding
from ..evaluation import ONE_DEVICE
from ..evaluation.per_task import per_task
from ..losses import masked_mean, real_examples
from ..tasks.few_shot import as_partial
from ..types import Aux, Batch, ChunkMap, Learner, LossFn, PyTree, RandomKey, Task
from .quantiles import quantiles_over_tasks

__all__ = [
    "UNKNOWN",
    "Rejections",
    "auroc",
    "energy",
    "fit_novelty",
    "least_confidence",
    "novelty_scores",
    "rejecting",
    "smallest_distance",
    "with_unknown_classes",
]

UNKNOWN = -1
"""The label of a query of a class that the support does not have."""

NoveltyScore = Callable[[Float[Array, "examples ways"]], Float[Array, "examples"]]


class Rejections(NamedTuple):
    """Predictions, and which of them to refuse.

    Attributes:
      outputs: the logits, `[examples, ways]`.
      is_novel: whether an example belongs to none of the classes, `[examples]`.
    """

    outputs: Array
    is_novel: Array


def energy(logits: Float[Array, "examples ways"]) -> Float[Array, "examples"]:
    """Return -log Σₖ exp(logitₖ): for logits that are log densities up to a constant, the negative log density.

    Example:
      >>> import jax.numpy as jnp
      >>> energy(jnp.array([[0.0, -jnp.inf], [-8.0, -jnp.inf]])).tolist()
      [-0.0, 8.0]

    Reference:
      Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection", 2020, arXiv:2010.03759, eq. 4.
    """
    return -jax.nn.logsumexp(logits, axis=-1)


def least_confidence(logits: Float[Array, "examples ways"]) -> Float[Array, "examples"]:
    """Return minus the log probability of the predicted class, which is 0 where the learner is sure.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(least_confidence(jnp.array([[0.0, 0.0]]))[0]), 2)
      0.69

    Reference:
      Hendrycks, Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
      2016, arXiv:1610.02136, section 2.
    """
    return -jax.nn.log_softmax(logits).max(-1)


def smallest_distance(logits: Float[Array, "examples ways"]) -> Float[Array, "examples"]:
    """Return minus the largest logit: of a learner whose logits are negative distances, that to the nearest class.

    Example:
      >>> import jax.numpy as jnp
      >>> smallest_distance(jnp.array([[-4.0, -1.0]])).tolist()
      [1.0]
    """
    return -logits.max(-1)


def with_unknown_classes(sample: Callable[[RandomKey], Task], *, num_unknown: int, num_ways: int) -> Partial:
    """Build a sampler of the same tasks, but that the support lacks the last classes.

    Args:
      sample: draws tasks of `num_ways + num_unknown` classes, in an order that means nothing.
      num_unknown: classes that are left out of the support, at least 1; queries of them have the label `UNKNOWN`.
      num_ways: classes that stay, those of the learner; at least 1.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax, jmeta
      >>> six = jmeta.tasks.gaussian_blobs(num_ways=6, num_shots=1, num_queries=1)
      >>> task = with_unknown_classes(six, num_unknown=1, num_ways=5)(jax.random.key(0))
      >>> int(task.support.mask.sum()), sorted(task.query.y.tolist())
      (5, [-1, 0, 1, 2, 3, 4])
    """
    if num_unknown < 1 or num_ways < 1:
        raise ValueError(f"num_unknown={num_unknown} and num_ways={num_ways}; expected positive numbers of classes")
    return Partial(_WithUnknown(num_ways), as_partial(sample))


class _WithUnknown(NamedTuple):
    num_ways: int

    def __call__(self, sample: Any, key: RandomKey) -> Task:
        task = sample(key)
        is_known = task.support.y < self.num_ways
        support = task.support._replace(
            y=jnp.where(is_known, task.support.y, 0), mask=real_examples(task.support) & is_known
        )
        labels = jnp.where(task.query.y < self.num_ways, task.query.y, UNKNOWN)
        return task._replace(support=support, query=task.query._replace(y=labels))


def fit_novelty(
    learner: Learner,
    meta_params: PyTree,
    sample: Callable[[RandomKey], Task],
    key: RandomKey,
    *,
    num_tasks: int,
    score: NoveltyScore = energy,
    false_alarms: float = 0.05,
    tasks_at_once: int = 1,
    chunk_map: ChunkMap = ONE_DEVICE,
) -> float:
    """Find the threshold that at most a given share of examples of known classes exceed, on new tasks.

    Args:
      learner: predicts logits.
      meta_params: trained.
      sample: draws tasks of the kind that the threshold is for, of other classes than the learner was trained on.
        Queries labelled `UNKNOWN` are left out.
      key: key that draws the tasks.
      num_tasks: number of tasks; n tasks can promise no less than 1 / (n + 1).
      score: one of this module, or one of your own.
      false_alarms: share of known examples that are refused at most, in (0, 1).
      tasks_at_once, chunk_map: as for `jmeta.evaluate`.

    Raises:
      ValueError: if `false_alarms` is out of range, or less than that many tasks can promise; if a score is NaN.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import deciding
      >>> six = jmeta.tasks.gaussian_blobs(num_ways=6, num_shots=5, num_queries=5)
      >>> sample = deciding.with_unknown_classes(six, num_unknown=1, num_ways=5)
      >>> nearest = jmeta.learners.nearest_mean(num_ways=5)
      >>> threshold = deciding.fit_novelty(nearest, {}, sample, jax.random.key(0), num_tasks=50, tasks_at_once=25)
      >>> learner = deciding.rejecting(nearest, threshold)
      >>> result = jmeta.evaluate(
      ...     learner, deciding.novelty_scores(), {}, sample, jax.random.key(1), protocol="blobs", num_tasks=50)
      >>> bool(result.inductive["auroc"].mean > 0.9), bool(result.inductive["false_alarms"].mean < 0.1)
      (True, True)
    """

    def one_task(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Array]:
        task = task_without_padding(task)
        adapted = learner.adapt(meta_params, task.support, key)
        logits = learner.predict(meta_params, adapted, task.query.x, None)
        return score(logits), real_examples(task.query) & (task.query.y != UNKNOWN)

    measure = per_task(one_task, chunk_map)
    scores, is_known = measure(meta_params, sample, key, num_tasks=num_tasks, tasks_at_once=tasks_at_once)
    return float(quantiles_over_tasks(scores, is_known > 0, [1 - false_alarms])[0])


def rejecting(learner: Learner, threshold: float, *, score: NoveltyScore = energy) -> Learner:
    """Build the learner that says of which examples it takes for none of the classes.

    Args:
      learner: predicts logits.
      threshold: what `fit_novelty` returned.
      score: that of the fit.

    Returns:
      A learner whose `predict` returns `Rejections`. It is trained as `learner` is, with a loss of logits.

    Example: see `fit_novelty`.
    """

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> Rejections:
        logits = learner.predict(meta_params, adapted, x, key)
        return Rejections(logits, score(logits) > jnp.asarray(threshold, logits.dtype))

    return learner._replace(predict=predict, episode=lambda loss_fn: episode_of(learner, loss_fn))


def novelty_scores(score: NoveltyScore = energy) -> LossFn:
    """Build the function that judges logits or `Rejections`, in the form of a loss, for `jmeta.evaluate`.

    Returns:
      `(outputs, batch) -> (loss, aux)`, with labels `UNKNOWN` for queries of no class. `aux` has `"auroc"`, that of the
      score; `"known_accuracy"`, among queries of known classes; and for `Rejections` `"false_alarms"`, the share of
      those that are refused, and `"detected"`, the share of the unknown that are. A task without queries of a kind has
      NaN for what they decide. The loss is 1 - AUROC.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.zeros((3, 1)), y=jnp.array([0, 1, UNKNOWN]))
      >>> loss, aux = novelty_scores()(jnp.array([[4.0, 0.0], [0.0, 3.0], [-1.0, -2.0]]), batch)
      >>> float(loss), float(aux["known_accuracy"])
      (0.0, 1.0)
    """

    def judge(outputs: Any, batch: Batch) -> tuple[Array, Aux]:
        logits = outputs.outputs if isinstance(outputs, Rejections) else outputs
        is_real, is_unknown = real_examples(batch), batch.y == UNKNOWN
        known, unknown = is_real & ~is_unknown, is_real & is_unknown
        area = auroc(score(logits), is_unknown, is_real)
        is_correct = logits.argmax(-1) == batch.y
        aux = {"auroc": area, "known_accuracy": _share(is_correct, known, logits.dtype)}
        if isinstance(outputs, Rejections):
            aux["false_alarms"] = _share(outputs.is_novel, known, logits.dtype)
            aux["detected"] = _share(outputs.is_novel, unknown, logits.dtype)
        return 1 - area, aux

    return judge


def auroc(
    scores: Float[Array, "examples"], is_positive: Bool[Array, "examples"], mask: Bool[Array, "examples"] | None = None
) -> Float[Array, ""]:
    """Compute the area under the ROC curve: how often a positive example scores higher than a negative one.

    Ties count half; NaN if there are no examples of one kind.

    Args:
      scores: one for each example.
      is_positive: which examples should score high.
      mask: the real examples; all if not given.

    Example:
      >>> import jax.numpy as jnp
      >>> float(auroc(jnp.array([3.0, 1.0, 2.0, 2.0]), jnp.array([True, False, True, False])))
      0.875
    """
    is_real = jnp.ones(scores.shape, bool) if mask is None else mask
    pairs = (is_positive & is_real)[:, None] & (~is_positive & is_real)[None, :]
    wins = jnp.sign(scores[:, None] - scores[None, :]) / 2 + 0.5
    num_pairs = pairs.sum().astype(scores.dtype)
    return jnp.where(num_pairs > 0, jnp.where(pairs, wins, 0).sum() / jnp.maximum(num_pairs, 1), jnp.nan)


def _share(is_true: Array, among: Array, dtype: Any) -> Array:
    share = masked_mean(is_true.astype(dtype), Batch(is_true, is_true, among))
    return jnp.where(among.any(), share, jnp.nan)
