"""How accurate is this adapted model? An estimate from its few labelled examples, corrected by what other tasks showed.

Cross-validation on the support needs nothing else, but with few examples it is coarse, biased (each fold adapts to
fewer examples than will be used), and with one example a class impossible. So it is only one of the `Signs` that a task
gives, each computed from its support alone. On tasks with many queries (meta_valid) the accuracy is known, and a linear
regression learns what the signs say about it; tasks that the regression did not see say how far it is off.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from ..episodes import task_without_padding
from ..evaluation import ONE_DEVICE
from ..evaluation.per_task import per_task
from ..losses import cross_entropy, masked_mean, real_examples
from ..types import Batch, ChunkMap, Learner, PyTree, RandomKey, Task
from .splits import rank_in_class

__all__ = ["AccuracyModel", "ExpectedAccuracy", "Signs", "expected_accuracy", "fit_expected_accuracy", "signs"]


class Signs(NamedTuple):
    """What a support says about the accuracy of the model adapted to it; each is a scalar in [0, 1].

    Attributes:
      cross_validation: accuracy on examples left out, those of all folds.
      left_out_probability: mean probability of the label of examples left out.
      own_probability: mean probability of the labels of the support under the model adapted to all of it. With one
        example a class it is all there is: low where classes look alike.
    """

    cross_validation: Array
    left_out_probability: Array
    own_probability: Array


class AccuracyModel(NamedTuple):
    """What the signs say about the accuracy.

    Attributes:
      coefficients: of a constant and of each of the signs.
      half_width: that of the interval.
      level: how often the interval contains the accuracy.
      num_folds: with which the signs were computed.
    """

    coefficients: Shaped[Array | np.ndarray, "signs"]
    half_width: float
    level: float
    num_folds: int


class ExpectedAccuracy(NamedTuple):
    """An estimate of the accuracy on new examples of one task, and an interval for it; all in [0, 1].

    Attributes:
      estimate: the expected accuracy.
      low, high: they contain the accuracy as often as the fit was asked for.
    """

    estimate: Array
    low: Array
    high: Array


def signs(learner: Learner, meta_params: PyTree, support: Batch, key: RandomKey, *, num_folds: int = 5) -> Signs:
    """Compute the signs of one task: adapt to all of its support, and to all but each of the folds, in one `vmap`.

    Fold f has of each class the examples f, f + num_folds, ... in their order. A class with a single example is unknown
    to the model that the example is left out of, which is wrong about it.

    Args:
      learner: predicts logits, and adapts to a support with a mask.
      support: integer labels.
      num_folds: at least 2; as many as examples a class leaves out one of each at a time.

    Raises:
      ValueError: if `num_folds` is below 2; at trace time if the labels do not go with the logits.

    Example:
      >>> import jax, jmeta
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=3, num_queries=3)(jax.random.key(0))
      >>> found = signs(jmeta.learners.nearest_mean(num_ways=5), {}, task.support, jax.random.key(1), num_folds=3)
      >>> bool(0.5 < found.cross_validation <= 1)
      True
    """
    if num_folds < 2:
        raise ValueError(
            f"num_folds={num_folds}; expected at least 2, since a fold is left out and the rest adapted to"
        )
    is_real = real_examples(support)
    fold_of = rank_in_class(support) % num_folds

    def probability_and_correct(mask: Array, key: RandomKey) -> tuple[Array, Array]:
        adapted = learner.adapt(meta_params, support._replace(mask=mask), key)
        logits = learner.predict(meta_params, adapted, support.x, None)
        cross_entropy(logits, support)  # raises if the labels do not go with the logits
        chosen = jnp.take_along_axis(jax.nn.softmax(logits), support.y[:, None], axis=-1, mode="fill")[:, 0]
        return chosen, (logits.argmax(-1) == support.y).astype(chosen.dtype)

    key_all, key_folds = jax.random.split(key)
    own, _ = probability_and_correct(is_real, key_all)
    in_fold = fold_of[None, :] == jnp.arange(num_folds)[:, None]
    each = jax.vmap(probability_and_correct)(is_real[None, :] & ~in_fold, jax.random.split(key_folds, num_folds))
    left_out, correct = (jnp.take_along_axis(values, fold_of[None, :], axis=0)[0] for values in each)
    return Signs(*(masked_mean(values, support) for values in (correct, left_out, own)))


def fit_expected_accuracy(
    learner: Learner,
    meta_params: PyTree,
    sample: Callable[[RandomKey], Task],
    key: RandomKey,
    *,
    num_tasks: int,
    num_folds: int = 5,
    level: float = 0.9,
    tasks_at_once: int = 1,
    chunk_map: ChunkMap = ONE_DEVICE,
) -> AccuracyModel:
    """Learn what the signs of a task say about its accuracy.

    Args:
      learner: as for `signs`.
      meta_params: trained.
      sample: draws tasks with the ways and shots that the estimate is for, of other classes than the learner was
        trained on, with many queries: the interval is one for the accuracy on as many.
      key: key that draws the tasks.
      num_tasks: number of tasks. Half of them fit the regression, the others the interval.
      num_folds: as for `signs`.
      level: how often the interval contains the accuracy, in (0, 1).
      tasks_at_once, chunk_map: as for `jmeta.evaluate`.

    Raises:
      ValueError: if `level` is not in (0, 1), or higher than that many tasks can promise; if a sign is NaN.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import deciding
      >>> sample = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=2, num_queries=40, spread=0.5)
      >>> learner = jmeta.learners.nearest_mean(num_ways=5)
      >>> fitted = deciding.fit_expected_accuracy(
      ...     learner, {}, sample, jax.random.key(0), num_tasks=100, num_folds=2, tasks_at_once=50)
      >>> task = sample(jax.random.key(1))
      >>> found = deciding.expected_accuracy(learner, fitted, {}, task.support, jax.random.key(2))
      >>> bool(0 <= found.low < found.estimate < found.high <= 1)
      True
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}; expected a number between 0 and 1, such as 0.9")
    held_out = num_tasks // 2
    rank = int(np.ceil(level * (held_out + 1) - 1e-9))
    if rank > held_out:
        least = 2 * int(np.ceil(level / (1 - level) - 1e-9))
        raise ValueError(f"num_tasks={num_tasks} is too few for an interval of level {level}; take at least {least}")

    def one_task(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Signs, Array]:
        task, (key_adapt, key_signs) = task_without_padding(task), jax.random.split(key)
        found = signs(learner, meta_params, task.support, key_signs, num_folds=num_folds)
        adapted = learner.adapt(meta_params, task.support, key_adapt)
        _, aux = cross_entropy(learner.predict(meta_params, adapted, task.query.x, None), task.query)
        return found, aux["accuracy"]

    measure = per_task(one_task, chunk_map)
    found, accuracy = measure(meta_params, sample, key, num_tasks=num_tasks, tasks_at_once=tasks_at_once)
    inputs = np.stack([np.ones_like(accuracy), *found], -1)
    if not np.isfinite(inputs).all() or not np.isfinite(accuracy).all():
        raise ValueError("some predictions are NaN; look for the tasks that they are for")
    coefficients, *_ = np.linalg.lstsq(inputs[held_out:], accuracy[held_out:], rcond=1e-6)
    off = np.sort(np.abs(np.clip(inputs[:held_out] @ coefficients, 0, 1) - accuracy[:held_out]))
    return AccuracyModel(coefficients, float(off[rank - 1]), level, num_folds)


def expected_accuracy(
    learner: Learner, fitted: AccuracyModel, meta_params: PyTree, support: Batch, key: RandomKey
) -> ExpectedAccuracy:
    """Estimate the accuracy, on new examples of its task, of the model that is adapted to a support.

    Args:
      learner: that of the fit.
      fitted: what `fit_expected_accuracy` returned.
      support: of one task; `jax.vmap` over several.
      key: key of adaptation.

    Example: see `fit_expected_accuracy`.
    """
    found = jnp.stack(signs(learner, meta_params, support, key, num_folds=fitted.num_folds))
    coefficients = jnp.asarray(fitted.coefficients, found.dtype)
    estimate = jnp.clip(coefficients[0] + (coefficients[1:] * found).sum(), 0, 1)
    return ExpectedAccuracy(estimate, *jnp.clip(estimate + fitted.half_width * jnp.array([-1.0, 1.0]), 0, 1))
