"""What `jmeta evaluate` says about uncertainty: proper scores and calibration in a table, and their pictures."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..calibration import with_calibration
from ..distributions import Distribution
from ..evaluation import Estimate, Evaluation
from ..types import Learner, PyTree, RandomKey, Task
from .experiment import Experiment

__all__ = ["with_scores", "rows", "draw_reliability", "draw_regression", "draw_completion"]

_COLUMNS = {
    "negative_log_likelihood": "NLL",
    "brier_score": "Brier score",
    "crps": "CRPS",
    "coverage_50": "coverage of 50 %",
    "coverage_90": "90 %",
    "coverage_95": "95 %",
    "set_size_90": "classes in 90 %",
    "width_90": "width of 90 %",
}


def with_scores(experiment: Experiment) -> Experiment:
    """Return the experiment with a loss that reports calibration, if it evaluates predictions; see `calibration`."""
    if not isinstance(experiment.tested, Learner) or experiment.loss_fn is None:
        return experiment
    return dataclasses.replace(experiment, loss_fn=with_calibration(experiment.loss_fn))


def rows(evaluations: dict[str, Evaluation]) -> list[dict[str, str]]:
    """Return the table of the scores of inductive predictions, a row for each evaluation with any, by name.

    The expected calibration error (ECE) is that of the predictions for all tasks together.
    """
    lines = {}
    for name, each in evaluations.items():
        scores = {key: each.inductive[key] for key in _COLUMNS if key in each.inductive}
        line = {_COLUMNS[key]: _shown(key, value) for key, value in scores.items()}
        if "inductive" in each.reliability:
            line["ECE"] = f"{each.reliability['inductive'].calibration_error():.4f}"
        if line:
            lines[name] = line
    columns = [column for column in (*_COLUMNS.values(), "ECE") if any(column in line for line in lines.values())]
    return [{"": name, **{column: line.get(column, "") for column in columns}} for name, line in lines.items()]


def _shown(key: str, value: Estimate) -> str:
    if key.startswith("coverage"):
        return f"{100 * value.mean:.1f} %"
    return f"{value.mean:.3f} ± {value.half_width:.3f}"


def draw_reliability(folder: pathlib.Path, evaluations: dict[str, Evaluation], *, title: str) -> pathlib.Path | None:
    """Draw the diagrams of inductive predictions as `reliability.png`; none where nobody predicts classes."""
    diagrams = {name: each.reliability["inductive"] for name, each in evaluations.items() if each.reliability}
    if not diagrams:
        return None
    from . import pictures  # imported late: it needs Matplotlib, which `--help` does not

    return pictures.reliability(folder / "reliability.png", diagrams, title=title)


def draw_regression(
    folder: pathlib.Path, experiment: Experiment, meta_params: PyTree, keys: Any, *, title: str
) -> pathlib.Path | None:
    """Draw what a learner predicts along the inputs of a test task, as `test_episode.png`.

    Args:
      folder: folder of the run.
      experiment: the experiment.
      meta_params: the trained meta-parameters.
      keys: the keys that draw the task and adapt to it.
      title: title of the picture.

    Returns:
      The picture; `None` if predictions are no distributions, or inputs or targets are not single numbers.
    """
    learner = experiment.tested
    if not isinstance(learner, Learner):
        return None

    def along(meta_params: PyTree) -> tuple[Any, Any, Any]:
        task = experiment.source.meta_test(keys[0])
        real = task.query.x if task.query.mask is None else jnp.where(task.query.mask[:, None], task.query.x, jnp.nan)
        x = jnp.linspace(jnp.nanmin(real), jnp.nanmax(real), 200)[:, None]
        adapted = learner.adapt(meta_params, task.support, keys[1])
        return task, x, learner.predict(meta_params, adapted, x, None)

    task = jax.eval_shape(experiment.source.meta_test, keys[0])
    if any(getattr(leaf, "shape", (0, 0, 0))[1:] != (1,) for leaf in (task.query.x, task.query.y)):
        return None
    task, x, prediction = jax.jit(along)(meta_params)
    if not isinstance(prediction, Distribution):
        return None
    from . import pictures

    return pictures.regression(folder / "test_episode.png", task, x, prediction, title=title)


def draw_completion(
    folder: pathlib.Path, experiment: Experiment, meta_params: PyTree, key: RandomKey, *, title: str, num_tasks: int = 3
) -> pathlib.Path | None:
    """Draw the images of test tasks, as `test_episode.png`: what is seen, what a learner predicts, and what is true.

    Args:
      folder: folder of the run.
      experiment: the experiment.
      meta_params: the trained meta-parameters.
      key: the key that draws the tasks, adapts to them and draws samples.
      title: title of the picture.
      num_tasks: rows of the picture.

    Returns:
      The picture; `None` if predictions are no distributions, or support and query are not the pixels of an image.
    """
    learner = experiment.tested
    if not isinstance(learner, Learner):
        return None

    @jax.jit
    def completed(meta_params: PyTree, key: RandomKey) -> tuple[Task, PyTree]:
        key_task, key_adapt = jax.random.split(key)
        task = experiment.source.meta_test(key_task)
        adapted = learner.adapt(meta_params, task.support, key_adapt)
        x = jnp.concatenate([task.support.x, task.query.x])
        return task, learner.predict(meta_params, adapted, x, None)

    task = jax.eval_shape(experiment.source.meta_test, key)
    shapes = [getattr(leaf, "shape", ())[1:] for leaf in (task.query.x, task.query.y)]
    if shapes not in ([(2,), (1,)], [(2,), (3,)]):
        return None
    images = []
    for key_task in jax.random.split(key, num_tasks):
        key_completed, key_sample = jax.random.split(key_task)
        task, prediction = completed(meta_params, key_completed)
        if not isinstance(prediction, Distribution) or (on_grid := _grid_of(task)) is None:
            return None
        seen = jnp.concatenate([task.support.y, jnp.full_like(task.query.y, jnp.nan)])
        of_task = {
            "seen": seen,
            "mean": prediction.mean(),
            "deviation": jnp.sqrt(prediction.variance()),
            "sample": prediction.sample(key_sample),
            "image": jnp.concatenate([task.support.y, task.query.y]),
        }
        images.append({name: on_grid(np.asarray(values)) for name, values in of_task.items()})
    from . import pictures

    return pictures.completion(folder / "test_episode.png", images, title=title)


def _grid_of(task: Task) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the function that arranges values of support and query as an image; `None` unless they fill one."""
    parts = [task.support, task.query]
    masks = [np.ones(len(each.x), bool) if each.mask is None else np.asarray(each.mask) for each in parts]
    is_real, x = np.concatenate(masks), np.concatenate([np.asarray(each.x) for each in parts])
    rows, columns = (np.unique(each[is_real].round(5), return_inverse=True) for each in x.T)
    height, width = len(rows[0]), len(columns[0])
    if is_real.sum() != height * width or len(set(zip(rows[1], columns[1], strict=True))) != height * width:
        return None

    def arranged(values: np.ndarray) -> np.ndarray:
        image = np.zeros((height, width, values.shape[1]))
        image[rows[1], columns[1]] = values[is_real]
        return image

    return arranged
