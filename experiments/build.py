"""From a recipe's plain values to the functions of an experiment: samplers, learner, episode, trainer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

import jmeta
from configs import parts
from jmeta import Learner, losses, training
from jmeta.types import GradFn, LossFn, MetaTrainer, PyTree, RandomKey

from . import sources
from .methods import build_method
from .networks import Network
from .sources import Source


class Experiment(NamedTuple):
    """Everything that a run computes with.

    Attributes:
      source: samplers of single tasks, and what they are.
      init: `key -> meta_params`.
      grad_fn: the meta-gradient of one task.
      trainer: meta-steps on `tasks_per_step` stacked tasks.
      tasks_per_step: how many tasks a meta-step sees.
      num_total_steps: given when tasks shall carry the progress of training, else `None`.
      loss_fn: what queries are judged by.
      learner: as it is tested.
      make_learner: the learner with another number of inner steps; `None` if it has none.
      num_test_steps: inner steps that `learner` takes; `None` if it has none.
      is_classification: judged by accuracy, and else by loss.
    """

    source: Source
    init: Callable[[RandomKey], PyTree]
    grad_fn: GradFn
    trainer: MetaTrainer
    tasks_per_step: int
    num_total_steps: int | None
    loss_fn: LossFn
    learner: Learner
    make_learner: Callable[[int], Learner] | None
    num_test_steps: int | None
    is_classification: bool


def build(recipe: parts.Recipe) -> Experiment:
    """The experiment that a recipe describes.

    Raises:
      ValueError: if its parts do not fit together.
    """
    is_classification = not isinstance(recipe.data, parts.Sinusoid)
    loss_fn = losses.cross_entropy if is_classification else losses.squared_error
    source = sources.source(recipe.data, recipe.testing, recipe.training)
    network = Network(recipe.model)
    built = build_method(recipe.method, network, loss_fn, source, is_classification=is_classification)
    _check_meta_optimizer(recipe.method, recipe.training)
    grad_fn = jax.value_and_grad(built.episode_fn, has_aux=True)
    batching = recipe.training.batching
    trainer = training.meta_trainer(jmeta.over_tasks(grad_fn, batching=batching), _optimizer(recipe.training))
    return Experiment(
        source=built.source,
        init=built.init,
        grad_fn=grad_fn,
        trainer=trainer,
        tasks_per_step=recipe.training.tasks_per_step,
        num_total_steps=recipe.training.num_steps if isinstance(recipe.method, parts.MamlPlusPlus) else None,
        loss_fn=loss_fn,
        learner=built.tested,
        make_learner=built.make_learner,
        num_test_steps=built.num_test_steps,
        is_classification=is_classification,
    )


def _check_meta_optimizer(method: parts.Method, training: parts.Training) -> None:
    """A learned mean of squares stays positive only while the meta-optimizer averages it with the tasks'."""
    averages = training.optimizer == "sgd" and 0 < training.lr <= 1
    if isinstance(method, parts.Reptile) and method.learns_optimizer_state and not averages:
        raise ValueError(
            "Reptile that learns its optimizer's state needs --training.optimizer sgd and --training.lr above 0 and at "
            f"most 1, not {training.optimizer} and {training.lr:g}: a step may not take the running mean of squared "
            "gradients below zero; or pass --method.no-learns-optimizer-state"
        )


def _optimizer(part: parts.Training) -> optax.GradientTransformation:
    match part.schedule:
        case "constant":
            lr = part.lr
        case "halved":
            lr = optax.exponential_decay(part.lr, part.halve_lr_every, 0.5, staircase=True)
        case "linear":
            lr = optax.linear_schedule(part.lr, 0.0, part.num_steps)
    optimizer = optax.adam(lr) if part.optimizer == "adam" else optax.sgd(lr)
    return optimizer if part.clip_norm is None else optax.chain(optax.clip_by_global_norm(part.clip_norm), optimizer)
