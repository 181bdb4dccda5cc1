"""From a recipe's plain values to the functions of an experiment: samplers, learner, episode, trainer."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import optax

import jmeta
from configs import parts
from jmeta import Learner, losses, training
from jmeta.types import EpisodeFn, GradFn, LossFn, MetaTrainer, PyTree, RandomKey

from . import acting, acting_by_gradient, acting_by_memory, devices, sources, worlds
from .devices import Sharing
from .methods import build_method
from .networks import Network
from .sources import Source

Metric = Literal["accuracy", "loss", "return"]
"""What models are chosen by, and rows of results show."""


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
      metric: what it is judged by.
      training_names: what metrics of training are called that are not what testing measures.
      judge: an episode as it is judged at test, for methods that act; `None` for those that are judged by predictions.
      make_judge: the same with another number of inner steps.
      sharing: devices that share the tasks of `trainer`; `None` if one computes all of them.
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
    metric: Metric
    training_names: Mapping[str, str]
    judge: EpisodeFn | None = None
    make_judge: Callable[[int], EpisodeFn] | None = None
    sharing: Sharing | None = None


def build(recipe: parts.Recipe) -> Experiment:
    """The experiment that a recipe describes.

    Raises:
      ValueError: if its parts do not fit together.
    """
    sharing = devices.sharing_of(recipe.training)
    if isinstance(recipe.data, parts.Environments):
        return _build_acting(recipe, recipe.data, sharing)
    metric = metric_of(recipe)
    loss_fn = losses.cross_entropy if metric == "accuracy" else losses.squared_error
    own = devices.own_tasks(sharing, recipe.training.tasks_per_step)
    source = sources.source(recipe.data, recipe.testing, recipe.training, own)
    network = Network(recipe.model)
    built = build_method(recipe.method, network, loss_fn, source, is_classification=metric == "accuracy")
    grad_fn = jax.value_and_grad(built.episode_fn, has_aux=True)
    mean_grad = jmeta.over_tasks(grad_fn, batching=recipe.training.batching)
    mean_grad = mean_grad if sharing is None else sharing.over(mean_grad)
    trainer = training.meta_trainer(mean_grad, _optimizer(recipe.training))
    return Experiment(
        source=built.source,
        init=built.init,
        grad_fn=grad_fn,
        trainer=devices.placed(trainer, sharing),
        tasks_per_step=recipe.training.tasks_per_step,
        num_total_steps=recipe.training.num_steps if isinstance(recipe.method, parts.MamlPlusPlus) else None,
        loss_fn=loss_fn,
        learner=built.tested,
        make_learner=built.make_learner,
        num_test_steps=built.num_test_steps,
        metric=metric,
        training_names=built.training_names,
        sharing=sharing,
    )


def metric_of(recipe: parts.Recipe) -> Metric:
    """What a recipe is judged by."""
    if isinstance(recipe.data, parts.Environments):
        return "return"
    return "loss" if isinstance(recipe.data, parts.Sinusoid) else "accuracy"


def _build_acting(recipe: parts.Recipe, data: parts.Environments, sharing: Sharing | None) -> Experiment:
    there = worlds.world(data)
    optimizer = _optimizer(recipe.training, acting.updates_per_step(recipe.method))
    match recipe.method:
        case parts.Rl2() as method:
            built = acting_by_memory.rl2(recipe, method, there, optimizer, sharing)
        case parts.Varibad() as method:
            built = acting_by_memory.inferring(recipe, method, there, optimizer, sharing)
        case parts.MamlRl() as method:
            built = acting_by_gradient.maml_rl(recipe, method, there, optimizer, sharing)
        case method:
            raise ValueError(f"{type(method).__name__} does not act in environments; choose Rl2, Varibad or MamlRl")
    return Experiment(
        source=worlds.source_of(there, recipe.testing, recipe.training),
        init=jax.jit(built.init),
        grad_fn=jax.value_and_grad(built.episode_fn, has_aux=True),
        trainer=devices.placed(built.trainer, sharing),
        tasks_per_step=recipe.training.tasks_per_step,
        num_total_steps=None,
        loss_fn=losses.squared_error,  # of nothing: there are no targets to predict
        learner=built.learner,
        make_learner=None,
        num_test_steps=built.num_test_steps,
        metric="return",
        training_names={"loss": "objective"},
        judge=built.judge,
        make_judge=built.make_judge,
        sharing=sharing,
    )


def _optimizer(part: parts.Training, updates_per_step: int = 1) -> optax.GradientTransformation:
    """The meta-optimizer; schedules count meta-steps, of which each may have several updates."""
    match part.schedule:
        case "constant":
            lr = part.lr
        case "halved":
            lr = optax.exponential_decay(part.lr, part.halve_lr_every * updates_per_step, 0.5, staircase=True)
        case "linear":
            lr = optax.linear_schedule(part.lr, 0.0, part.num_steps * updates_per_step)
    optimizer = optax.adam(lr) if part.optimizer == "adam" else optax.sgd(lr)
    return optimizer if part.clip_norm is None else optax.chain(optax.clip_by_global_norm(part.clip_norm), optimizer)
