"""A run for meta-training that a user wrote in Python: what `jmeta train` does in one process, without a recipe."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..tasks import HostTasks, Source
from ..tasks.few_shot import as_partial
from ..types import EpisodeFn, MetaTrainer, PyTree, RandomKey
from . import files
from .experiment import Experiment, Metric, Testing, Training
from .recipes import Recipe
from .state import RunState

__all__ = ["Fitted", "fit"]


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
      meta_params: the meta-parameters to use: the best on `valid_sample`, or with `keep_best=False` the last.
      best_score: the metric of the best ones.
      best_step: the meta-step after which they were evaluated.
      state: the whole final state of the run.
    """

    meta_params: PyTree
    best_score: float
    best_step: int
    state: RunState


@dataclasses.dataclass(frozen=True)
class _Options:
    """What is recorded with a run of `fit`: a run with other values is another run."""

    training: Training
    metric: str
    testing: Testing = dataclasses.field(default_factory=Testing)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def fit(
    trainer: MetaTrainer,
    sample: Callable[[RandomKey], PyTree] | HostTasks,
    *,
    init: Callable[[RandomKey], PyTree],
    valid: EpisodeFn,
    folder: str | os.PathLike[str],
    training: Training,
    valid_sample: Callable[[RandomKey], PyTree] | None = None,
    metric: Metric = "loss",
    keep_best: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Fitted:
    """Meta-train with any trainer, in a run folder: progress, log, curve, evaluation, early stop, checkpoints, resume.

    Called again with the same arguments, it resumes from the latest checkpoint and ends with the same bits as a run
    that was never stopped; a finished run returns its result at once. Meta-training may stay finite and get worse, so
    the result is by default the best on validation tasks and not the last.

    Args:
      trainer: such as `jmeta.meta_trainer` or `training.persistent_trainer` build. Its state is a `training.MetaState`.
      sample: `key -> task`; a meta-step gets `training.tasks_per_step` of them, stacked.
      init: `key -> meta_params`.
      valid: `(meta_params, task, key) -> (loss, aux)` judges meta-parameters on a task, such as
        `jmeta.plain_episode(learner, loss_fn)`.
      folder: the run's folder, which is made if needed.
      training: numbers of steps and tasks, intervals, early stop (`patience`), seed. `batching` is the trainer's own.
      valid_sample: `key -> task` for `valid`, the same tasks at every evaluation; `sample` if not given. Where training
        has few tasks, pass others: on those that were seen the best parameters are the most overfitted.
      metric: `"loss"`, or the name of the value in `aux` that selects models, higher is better.
      keep_best: whether to return the best meta-parameters, or the last.
      options: numbers and words that identify the run, such as the learning rate, recorded in `config.json`; a folder
        with others is refused. What `trainer` and `sample` compute cannot be compared, so record what you vary.

    Returns:
      The meta-parameters, their score and the final state.

    Raises:
      ValueError: if `training` is out of range, the folder belongs to a run with other options, no evaluation had a
        finite score although the best is asked for, or `sample` comes from the host and `valid_sample` is not given.
      loop.DivergedError: after `training.max_skipped_in_a_row` skipped meta-steps.

    Example:
      >>> import tempfile, jax, jmeta, optax
      >>> from jmeta import learners, losses, models, runs, tasks
      >>> sample = tasks.sinusoid(num_shots=5, num_queries=5)
      >>> learner = learners.maml(models.mlp([8, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
      >>> episode_fn = jmeta.episode(learner, losses.squared_error)
      >>> trainer = jmeta.meta_trainer(jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True)), optax.adam(0.01))
      >>> training = runs.Training(num_steps=20, tasks_per_step=4, steps_per_dispatch=10, evaluate_every=10)
      >>> fitted = runs.fit(
      ...     trainer,
      ...     sample,
      ...     init=lambda key: learner.init(key, sample(key)),
      ...     valid=jmeta.plain_episode(learner, losses.squared_error),
      ...     folder=tempfile.mkdtemp(),
      ...     training=training,
      ... )
      fit: models are chosen by validation tasks of runs.fit, 200 tasks, of meta_valid
      ...
      >>> fitted.best_step in (10, 20)
      True
    """
    from . import train  # imported late: it needs the packages of a command line

    if isinstance(sample, HostTasks) and valid_sample is None:
        raise ValueError("`sample` reads tasks on the host; pass `valid_sample`, a sampler `key -> task`, to judge on")
    drawn = sample if isinstance(sample, HostTasks) else as_partial(sample)
    judged: Any = drawn if valid_sample is None else as_partial(valid_sample)
    source = Source(
        meta_train=lambda: drawn,
        meta_valid=judged,
        meta_test=judged,
        name="runs.fit",
        describe=lambda num_tasks: f"validation tasks of runs.fit, {num_tasks} tasks",
    )
    experiment = Experiment(
        None, None, source, training=training, metric=metric, evaluated=valid, init=init, meta_trainer=trainer
    )
    recipe = Recipe("fit", _Options, lambda _: experiment, pathlib.Path("runs.fit"))
    chosen = _Options(training, metric, options=dict(options or {}))
    path = files.named_by_user(pathlib.Path(folder))
    state = train.train_one(recipe, chosen, path)
    if keep_best and not math.isfinite(state.best_score):
        raise ValueError(
            f"no evaluation of {path} had a finite {metric}, so there are no best meta-parameters; see which "
            "task makes `valid` infinite or NaN, or pass keep_best=False to get the last ones"
        )
    meta_params = state.best_meta_params if keep_best else state.meta.meta_params
    sign = -1 if metric == "loss" else 1  # a loss is stored negated
    return Fitted(meta_params, sign * float(state.best_score), int(state.best_step), state)
