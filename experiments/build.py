"""From a recipe's plain values to the functions of an experiment: samplers, learner, episode, trainer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import jmeta
from configs import parts
from jmeta import Learner, Model, Task, adjoints, episodes, learners, losses, models, training
from jmeta.types import EpisodeFn, GradFn, LossFn, MetaTrainer, PyTree, RandomKey

from . import sources
from .sources import HostTasks, SampleTask, Source


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


class _Built(NamedTuple):
    learner: Learner  # as it is trained
    episode_fn: EpisodeFn
    tested: Learner
    make_learner: Callable[[int], Learner] | None = None
    num_test_steps: int | None = None


def build(recipe: parts.Recipe) -> Experiment:
    """The experiment that a recipe describes.

    Raises:
      ValueError: if its parts do not fit together.
    """
    is_classification = not isinstance(recipe.data, parts.Sinusoid)
    loss_fn = losses.cross_entropy if is_classification else losses.squared_error
    source = sources.source(recipe.data, recipe.testing, recipe.training)
    built = _method(recipe.method, _Network(recipe.model), loss_fn, source)
    grad_fn = jax.value_and_grad(built.episode_fn, has_aux=True)
    batching = recipe.training.batching
    trainer = training.meta_trainer(jmeta.over_tasks(grad_fn, batching=batching), _optimizer(recipe.training))
    return Experiment(
        source=source,
        init=jax.jit(lambda key: built.learner.init(key, _zeros_like_one(source.meta_train))),
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


def _zeros_like_one(stream: SampleTask | HostTasks) -> Task:
    """A task of the right shapes, which is all that an `init` looks at."""
    if isinstance(stream, HostTasks):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), next(iter(stream.tasks)))
    shapes = jax.eval_shape(stream, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


# Models


class _Network(NamedTuple):
    """A network before the method says what comes out of it."""

    parts: parts.Network

    def embedding(self) -> Model:
        """Without a head: features."""
        match self.parts:
            case parts.Mlp(hidden):
                return models.mlp(hidden)
            case parts.Conv4(num_filters, pooling, norm):
                return models.conv4(None, num_filters=num_filters, pooling=pooling, norm=norm)

    def with_head(self, num_outputs: int) -> Model:
        match self.parts:
            case parts.Mlp(hidden):
                return models.mlp([*hidden, num_outputs])
            case parts.Conv4(num_filters, pooling, norm):
                return models.conv4(num_outputs, num_filters=num_filters, pooling=pooling, norm=norm)


# Methods


def _method(method: parts.Method, network: _Network, loss_fn: LossFn, source: Source) -> _Built:
    match method:
        case parts.Protonet() | parts.Matching() | parts.Ridge():
            learner = _comparing(method, network, source.train_ways)
            return _Built(learner, jmeta.episode(learner, loss_fn), _comparing(method, network, source.test_ways))
        case _:
            if source.train_ways != source.test_ways:
                raise ValueError(
                    f"training tasks have {source.train_ways} ways and test tasks {source.test_ways}, but this method "
                    "has an output for each way; set data.train_ways or testing.num_ways"
                )
            candidates = (method.num_test_steps, source.test_steps, method.num_steps)
            test_steps = next(steps for steps in candidates if steps is not None)
            if isinstance(method, parts.Reptile):
                return _reptile(method, network.with_head(source.test_ways), loss_fn, test_steps)
            return _descending(method, network, loss_fn, source.test_ways, test_steps)


def _comparing(method: parts.Protonet | parts.Matching | parts.Ridge, network: _Network, num_ways: int) -> Learner:
    """Learners that compare embeddings, which any number of ways may be tested with."""
    embedding = network.embedding()
    match method:
        case parts.Protonet(distance):
            return learners.protonet(embedding, num_ways=num_ways, distance=distance)
        case parts.Matching(full_context, num_process_steps):
            return learners.matching(
                embedding, num_ways=num_ways, full_context=full_context, num_process_steps=num_process_steps
            )
        case parts.Ridge():
            return learners.ridge(embedding, num_ways=num_ways)


def _descending(
    method: parts.Maml | parts.MetaSgd | parts.MamlPlusPlus | parts.ProtoMaml,
    network: _Network,
    loss_fn: LossFn,
    num_ways: int,
    test_steps: int,
) -> _Built:
    """Learners that adapt by gradient steps, which may be tested with another number of them."""
    model = network.embedding() if isinstance(method, parts.ProtoMaml) else network.with_head(num_ways)

    def make(num_steps: int) -> Learner:
        match method:
            case parts.Maml(_, lr, _, name):
                adjoint = adjoints.unrolled() if name == "unrolled" else adjoints.first_order()
                return learners.maml(model, loss_fn, optax.sgd(lr), num_steps=num_steps, adjoint=adjoint)
            case parts.MetaSgd(_, lr):
                return learners.meta_sgd(model, loss_fn, num_steps=num_steps, initial_lr=lr)
            case parts.MamlPlusPlus(_, lr):
                return learners.maml_plus_plus(model, loss_fn, num_steps=num_steps, initial_lr=lr)
            case parts.ProtoMaml(_, lr):
                inner = optax.sgd(lr)
                return learners.proto_maml(model, loss_fn, inner, num_ways=num_ways, num_steps=num_steps)

    learner = make(method.num_steps)
    episode_fn = jmeta.episode(learner, loss_fn)
    if isinstance(method, parts.MamlPlusPlus):
        until = method.annealed_until
        episode_fn = learners.multi_step_episode(model, loss_fn, num_steps=method.num_steps, annealed_until=until)
    return _Built(learner, episode_fn, make(test_steps), make, test_steps)


def _reptile(method: parts.Reptile, model: Model, loss_fn: LossFn, test_steps: int) -> _Built:
    inner = optax.adam(method.inner_lr, b1=0.0)

    def make(num_steps: int, batch_size: int = method.test_batch_size) -> Learner:
        return learners.reptile(model, loss_fn, inner, num_steps=num_steps, batch_size=batch_size)

    learner = make(method.num_steps, method.batch_size)
    episode_fn = episodes.reptile_episode(learner, loss_fn)
    return _Built(learner, episode_fn, make(test_steps), make, test_steps)


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
