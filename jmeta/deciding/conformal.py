"""Conformal prediction: sets of classes, and intervals of numbers, that contain the answer as often as they promise.

A *score* says how badly an answer goes with a prediction. An answer is in the set if its score is at most a threshold,
and the threshold is a quantile of the scores of right answers. `fit_conformal` takes them from the queries of many
tasks, so that one threshold serves every new task, however few its examples. `split_conformal` takes them from the
support of the new task alone, as one does without other tasks: it needs examples that adaptation then lacks, and many
of them, since from n scores no set can promise more than n / (n + 1).

The promise is marginal: over new tasks *and* queries drawn as those it was fitted on. It assumes nothing about the
learner, which may be wrong as it likes; then sets are large. It does not hold for tasks from elsewhere.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ..distributions import Distribution
from ..episodes import episode as episode_of
from ..episodes import task_without_padding
from ..evaluation import ONE_DEVICE
from ..evaluation.per_task import per_task
from ..losses import cross_entropy, masked_mean, real_examples, squared_error
from ..types import Aux, Batch, ChunkMap, Learner, LossFn, PyTree, RandomKey, Task
from .quantiles import quantiles_over_tasks
from .splits import rank_in_class

__all__ = [
    "CLASSES",
    "NUMBERS",
    "Score",
    "Conformal",
    "PredictionIntervals",
    "PredictionSets",
    "conformal",
    "fit_conformal",
    "set_scores",
    "split_conformal",
]


class Score(NamedTuple):
    """A way to say how badly an answer goes with a prediction, and which answers go with it well enough.

    Attributes:
      of_answers: `(outputs, batch) -> [examples]`, the scores of the right answers; padding may have any.
      answers_within: `(outputs, thresholds) -> sets`, the answers whose scores are at most each of the thresholds.
    """

    of_answers: Callable[[PyTree, Batch], Array]
    answers_within: Callable[[PyTree, Array], PyTree]


class Conformal(NamedTuple):
    """The largest scores of answers that are in the sets.

    Attributes:
      levels: how often sets contain the answer, `[levels]`.
      thresholds: largest score of an answer in the set, `[levels]`; infinite where only everything will do.
    """

    levels: Shaped[np.ndarray, "levels"]
    thresholds: Shaped[Array | np.ndarray, "levels"]


class PredictionSets(NamedTuple):
    """Sets of classes.

    Attributes:
      outputs: the logits, `[examples, ways]`.
      included: whether a class is in the set, `[examples, levels, ways]`; a class with a logit of -inf never is.
    """

    outputs: Array
    included: Array


class PredictionIntervals(NamedTuple):
    """Intervals of numbers.

    Attributes:
      outputs: the prediction, a distribution or an array of `[examples, ...]` numbers.
      low, high: bounds, `[examples, levels, ...]`; they may be infinite.
    """

    outputs: PyTree
    low: Array
    high: Array


def _class_scores(outputs: Float[Array, "examples ways"], batch: Batch) -> Float[Array, "examples"]:
    cross_entropy(outputs, batch)  # raises if the labels do not go with the logits
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch.y[:, None], axis=-1, mode="fill")[:, 0]


def _class_sets(outputs: Float[Array, "examples ways"], thresholds: Float[Array, "levels"]) -> PredictionSets:
    scores = -jax.nn.log_softmax(outputs)[:, None, :]
    is_within = scores <= jnp.asarray(thresholds, scores.dtype)[None, :, None]
    return PredictionSets(outputs, is_within & jnp.isfinite(scores))


CLASSES = Score(_class_scores, _class_sets)
"""Scores of classes: -log p, so a set has the classes that are more probable than a threshold, which gives the smallest
sets on average (Sadinle, Lei, Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", 2019,
arXiv:1609.00451)."""


def _number_scores(outputs: PyTree, batch: Batch) -> Float[Array, "examples"]:
    centre, unit = _centre_and_unit(outputs)
    squared_error(centre, batch)  # raises if the shapes differ
    away = jnp.abs(centre - batch.y)
    scores = jnp.where(away == 0, 0.0, away / unit)  # also where a distribution is sure
    return scores.reshape(scores.shape[0], math.prod(scores.shape[1:])).max(-1)


def _number_intervals(outputs: PyTree, thresholds: Float[Array, "levels"]) -> PredictionIntervals:
    centre, unit = _centre_and_unit(outputs)
    each = jnp.asarray(thresholds, centre.dtype).reshape(1, -1, *[1] * (centre.ndim - 1))
    away = jnp.where(jnp.isinf(each), jnp.inf, each * unit[:, None])
    return PredictionIntervals(outputs, centre[:, None] - away, centre[:, None] + away)


def _centre_and_unit(outputs: PyTree) -> tuple[Array, Array]:
    if isinstance(outputs, Distribution):
        return outputs.mean(), jnp.sqrt(outputs.variance())
    return outputs, jnp.ones_like(outputs)


NUMBERS = Score(_number_scores, _number_intervals)
"""Scores of numbers, the worst of an example: the distance from the prediction, in standard deviations where it is a
distribution (Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, "Distribution-Free Predictive Inference for Regression",
2018, arXiv:1604.04173, section 5.2)."""


def fit_conformal(
    learner: Learner,
    meta_params: PyTree,
    sample: Callable[[RandomKey], Task],
    key: RandomKey,
    *,
    num_tasks: int,
    levels: Sequence[float] = (0.9, 0.95),
    score: Score = CLASSES,
    tasks_at_once: int = 1,
    chunk_map: ChunkMap = ONE_DEVICE,
) -> Conformal:
    """Find the thresholds whose sets contain the answer as often as `levels` say, on new tasks of the same kind.

    Sets contain the answer at least as often as promised, on average over the tasks that might have been drawn, here
    and in use. All queries of a task share its difficulty, so it is the number of tasks that counts.

    Args:
      learner: predicts what `score` judges: logits of classes, or numbers or a distribution of them. It is used as it
        is, so wrap one that mixes queries in `inductive.support_and_one_query`.
      meta_params: trained.
      sample: draws tasks of the kind that the sets are for, of other classes than the learner was trained on.
      key: key that draws the tasks.
      num_tasks: number of tasks. n tasks can promise n / (n + 1) at most, and 1000 tasks of 15 queries give a coverage
        that is one point or less from the one promised.
      levels: in (0, 1).
      score: `CLASSES`, or `NUMBERS`.
      tasks_at_once, chunk_map: as for `jmeta.evaluate`.

    Raises:
      ValueError: if a level is out of range, or higher than that many tasks can promise; if a prediction is NaN.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import deciding
      >>> sample = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)
      >>> nearest = jmeta.learners.nearest_mean(num_ways=5)
      >>> fitted = deciding.fit_conformal(nearest, {}, sample, jax.random.key(0), num_tasks=200, levels=[0.9])
      >>> learner, judge = deciding.conformal(nearest, fitted), deciding.set_scores([0.9])
      >>> result = jmeta.evaluate(learner, judge, {}, sample, jax.random.key(1), protocol="blobs", num_tasks=100)
      >>> 0.8 < result.inductive["coverage_90"].mean < 1.0
      True

    Reference:
      Lee, Barber, Willett, "Distribution-free inference with hierarchical data", 2023, arXiv:2306.06342, section 3.
    """

    def one_task(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Array]:
        task = task_without_padding(task)
        adapted = learner.adapt(meta_params, task.support, key)
        outputs = learner.predict(meta_params, adapted, task.query.x, None)
        return score.of_answers(outputs, task.query), real_examples(task.query)

    measure = per_task(one_task, chunk_map)
    scores, is_real = measure(meta_params, sample, key, num_tasks=num_tasks, tasks_at_once=tasks_at_once)
    return Conformal(np.asarray(levels, float), quantiles_over_tasks(scores, is_real > 0, levels))


def conformal(learner: Learner, fitted: Conformal, *, score: Score = CLASSES) -> Learner:
    """Build the learner that predicts sets or intervals as well.

    Args:
      learner: as for `fit_conformal`.
      fitted: what `fit_conformal` returned.
      score: that of the fit.

    Returns:
      A learner whose `predict` returns `PredictionSets` or `PredictionIntervals`. It is trained as `learner` is, with a
      loss of the plain outputs.

    Example:
      >>> import jax, jmeta, numpy as np
      >>> from jmeta import deciding
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> fitted = deciding.Conformal(levels=np.array([0.9]), thresholds=np.array([2.0]))
      >>> learner = deciding.conformal(jmeta.learners.nearest_mean(num_ways=5), fitted)
      >>> adapted = learner.adapt({}, task.support, jax.random.key(1))
      >>> learner.predict({}, adapted, task.query.x, None).included.shape
      (15, 1, 5)
    """

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        return score.answers_within(learner.predict(meta_params, adapted, x, key), jnp.asarray(fitted.thresholds))

    return learner._replace(predict=predict, episode=lambda loss_fn: episode_of(learner, loss_fn))


def split_conformal(learner: Learner, *, levels: Sequence[float] = (0.9, 0.95), score: Score = CLASSES) -> Learner:
    """Build the learner that finds the thresholds from half of each support, as one does without other tasks.

    Of each class every second example, in their order, is kept from adaptation and gives a score; for numbers it is
    every second example. From n scores a set can promise n / (n + 1) at most; more is infinite, and the set everything.

    Args:
      learner: as for `fit_conformal`; it adapts to a support with a mask.
      levels: in (0, 1).
      score: `CLASSES`, or `NUMBERS`.

    Raises:
      ValueError: if a level is out of range.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import deciding
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> learner = deciding.split_conformal(jmeta.learners.nearest_mean(num_ways=5), levels=[0.9])
      >>> adapted = learner.adapt({}, task.support, jax.random.key(1))  # one example a class: none is left for scores
      >>> bool(learner.predict({}, adapted, task.query.x, None).included.all())
      True

    Reference:
      Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, "Distribution-Free Predictive Inference for Regression", 2018,
      arXiv:1604.04173, algorithm 2. Differs: the halves are taken class by class.
    """
    _check_levels(levels)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> tuple[PyTree, Array]:
        is_real = real_examples(support)
        is_held_out = is_real & (rank_in_class(support) % 2 == 1)
        adapted = learner.adapt(meta_params, support._replace(mask=is_real & ~is_held_out), key)
        outputs = learner.predict(meta_params, adapted, support.x, None)
        scores = jnp.where(is_held_out, score.of_answers(outputs, support), jnp.inf)
        scores = jnp.append(jnp.sort(scores), jnp.asarray(jnp.inf, scores.dtype))
        num_scores = is_held_out.sum().astype(scores.dtype)
        rank = jnp.ceil(jnp.asarray(levels, scores.dtype) * (num_scores + 1) - 1e-4)
        return adapted, scores[rank.astype(jnp.int32) - 1]

    def predict(meta_params: PyTree, adapted: tuple[PyTree, Array], x: PyTree, key: RandomKey | None) -> PyTree:
        return score.answers_within(learner.predict(meta_params, adapted[0], x, key), adapted[1])

    return Learner(learner.init, adapt, predict, lambda loss_fn: episode_of(learner, loss_fn))


def set_scores(levels: Sequence[float]) -> LossFn:
    """Build the function that judges sets or intervals, in the form of a loss, for `jmeta.evaluate`.

    Args:
      levels: those of the sets.

    Returns:
      `(outputs, batch) -> (loss, aux)`. `aux` has, for each level, such as 90 %, `"coverage_90"`, how often the answer
      is in the set (all numbers of an example in their intervals), and `"set_size_90"`, the mean number of classes, or
      `"width_90"`, the mean width. The loss is the size or width at the first level.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> from jmeta import deciding
      >>> sets = deciding.PredictionSets(jnp.zeros((2, 3)), jnp.array([[[True, True, False]], [[True, False, False]]]))
      >>> loss, aux = deciding.set_scores([0.9])(sets, jmeta.Batch(x=jnp.zeros((2, 1)), y=jnp.array([1, 1])))
      >>> float(loss), float(aux["coverage_90"])
      (1.5, 0.5)
    """
    _check_levels(levels)

    def judge(outputs: PyTree, batch: Batch) -> tuple[Array, Aux]:
        if isinstance(outputs, PredictionSets):
            size, covered = "set_size", jnp.take_along_axis(outputs.included, batch.y[:, None, None], axis=-1)
            sizes = outputs.included.sum(-1).astype(outputs.outputs.dtype)
        else:
            size, y = "width", batch.y[:, None]
            covered = (outputs.low <= y) & (y <= outputs.high)
            sizes = _by_level(outputs.high - outputs.low).mean(-1)
        is_covered = _by_level(covered).all(-1).astype(sizes.dtype)
        aux = {}
        for i, level in enumerate(levels):
            aux[f"coverage_{level * 100:.4g}"] = masked_mean(is_covered[:, i], batch)
            aux[f"{size}_{level * 100:.4g}"] = masked_mean(sizes[:, i], batch)
        return aux[f"{size}_{levels[0] * 100:.4g}"], aux

    return judge


def _check_levels(levels: Sequence[float]) -> None:
    if not len(levels) or not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels={list(levels)}; expected numbers between 0 and 1, such as 0.9")


def _by_level(values: Shaped[Array, "examples levels ..."]) -> Shaped[Array, "examples levels numbers"]:
    return values.reshape(*values.shape[:2], math.prod(values.shape[2:]))
