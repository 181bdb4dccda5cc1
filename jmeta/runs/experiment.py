"""An experiment: everything that a run computes with, in one value, which a recipe's `build` returns."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from .. import training as training_
from ..batching import over_tasks
from ..episodes import episode
from ..sharding import Sharing
from ..tasks import HostTasks, Source
from ..types import EpisodeFn, GradFn, Learner, LossFn, MetaTrainer, PyTree, RandomKey, Task
from . import devices

__all__ = [
    "Metric",
    "Training",
    "Testing",
    "Experiment",
    "is_image_task",
    "check",
    "check_testing",
    "check_steps",
    "check_positive",
]

Metric = Literal["accuracy", "loss", "return"]
"""The metric that selects models and that results show."""


@dataclass(frozen=True)
class Training:
    """The outer loop. All numbers of steps are multiples of `steps_per_dispatch`."""

    num_steps: int
    """Meta-steps."""
    tasks_per_step: int
    steps_per_dispatch: int
    """Meta-steps that run in one compiled call, between two lines of the log."""
    evaluate_every: int
    """Meta-steps between two evaluations on meta_valid, which select the model (by the transductive score of a learner
    that has one); also the longest interval between two checkpoints."""
    checkpoint_every: int | None = None
    """Meta-steps between checkpoints; at every evaluation if not given."""
    batching: Literal["auto", "vmap", "scan"] | int = "auto"
    """Tasks of a meta-step computed at once: all (`vmap`), one (`scan`), this many, or (`auto`) all on accelerators and
    on a CPU as many as its caches hold."""
    mesh: str | None = None
    """Devices that share the tasks of a meta-step, such as `tasks=8`; with `tasks=4,model=2` large parameters are
    divided between two. The default is all devices in a job of several processes, otherwise one. It says where a run
    computes, not what: a run may resume with another mesh."""
    num_blocks: int | None = None
    """Blocks that tasks are divided into, a power of two, for the same bits on any number of devices that divides it.
    By default one block per device, and sums in the fastest order."""
    num_valid_tasks: int = 200
    """Number of meta_valid tasks."""
    patience: int | None = None
    """Evaluations without a better score on meta_valid after which training stops; never if not given."""
    max_skipped_in_a_row: int = 20
    """Meta-steps in a row with a loss, gradient or result that is not finite, after which the run stops with an error;
    checked after every dispatch."""
    keep_last: int = 3
    """Latest checkpoints kept, besides the best."""
    seed: int = 0
    warm_start: str | None = None
    """Folder of one seed's run, such as `runs/NAME/seed_0`, whose best parameters this run starts from. They must have
    the same names, shapes and dtypes; everything else may differ, and whether that run has seen the classes that this
    one is tested on is not checked. All seeds have the same start, which itself is not scored."""


@dataclass(frozen=True)
class Testing:
    """The amount of testing."""

    num_tasks: int | None = None
    """Number of meta_test tasks; the protocol's number if not given."""
    tasks_at_once: int = 4
    """Tasks computed together; it changes speed and memory, not results."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that a run computes with.

    Attributes:
      learner: the learner, as it is meta-trained. `None` where `meta_trainer`, `init` and `evaluated` say all (`fit`).
      loss_fn: loss of predictions, in training and evaluation; `None` without a learner.
      source: the source of tasks.
      optimizer: the meta-optimizer; `None` if `meta_trainer` is given.
      training: numbers of steps and tasks, intervals, early stop.
      testing: the amount of testing.
      metric: the metric that selects models.
      evaluated: the learner or episode function that meta_valid and meta_test evaluate: a learner by its predictions,
        an episode function by the values that it reports. `learner` if not given.
      with_num_steps: builds the evaluated value with another number of inner steps; `None` if it has none. With
        `num_test_steps` it replaces `evaluated`.
      num_test_steps: inner steps at test.
      episode_fn: the episode whose loss a meta-step descends; `jmeta.episode(learner, loss_fn)` if not given.
      init: `key -> meta_params`; if not given, the learner's `init` on a task of the source's shapes.
      meta_trainer: for meta-steps other than the plain ones, which apply the optimizer to the mean gradient over tasks.
        Devices can share its tasks if it has a `share`.
      has_progress: whether tasks carry the fraction of training that is done, as their `progress`.
      training_names: new names for training metrics that testing does not measure, such as a loss that is an objective
        of its own.
      baselines: learners or episode functions without meta-parameters, by name, to evaluate on the same tasks.

    Raises:
      ValueError: unless exactly one of `optimizer` and `meta_trainer` is given, or if there is neither a learner nor
        what takes its place.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models, runs, tasks
      >>> sample = tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)
      >>> experiment = Experiment(
      ...     learner=learners.protonet(models.mlp([16, 8]), num_ways=5),
      ...     loss_fn=losses.cross_entropy,
      ...     source=tasks.Source(lambda: sample, sample, sample, "blobs", lambda count: f"blobs, {count} tasks"),
      ...     optimizer=optax.adam(1e-3),
      ...     training=Training(num_steps=100, tasks_per_step=4, steps_per_dispatch=10, evaluate_every=50),
      ... )
      >>> experiment.num_test_tasks, experiment.test_protocol
      (1000, 'blobs, 1000 tasks')
    """

    learner: Learner | None
    loss_fn: LossFn | None
    source: Source
    optimizer: optax.GradientTransformation | None = None
    training: Training = field(kw_only=True)
    testing: Testing = Testing()
    metric: Metric = "accuracy"
    evaluated: Learner | EpisodeFn | None = None
    with_num_steps: Callable[[int], Learner | EpisodeFn] | None = None
    num_test_steps: int | None = None
    episode_fn: EpisodeFn | None = None
    init: Callable[[RandomKey], PyTree] | None = None
    meta_trainer: MetaTrainer | None = None
    has_progress: bool = False
    training_names: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Learner | EpisodeFn] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.optimizer is None) == (self.meta_trainer is None):
            given = "neither" if self.optimizer is None else "both"
            raise ValueError(f"expected an optimizer or a meta_trainer, got {given}; pass one of them")
        evaluated = None if isinstance(self.evaluated, Learner) else self.evaluated
        others = {"meta_trainer": self.meta_trainer, "init": self.init, "an episode as evaluated": evaluated}
        missing = [name for name, value in others.items() if value is None]
        if (self.learner is None or self.loss_fn is None) and missing:
            raise ValueError(f"an experiment without a learner or without a loss needs {', '.join(missing)}")

    @functools.cached_property
    def tested(self) -> Learner | EpisodeFn:
        """The learner or episode function that meta_valid and meta_test evaluate."""
        if self.with_num_steps is not None and self.num_test_steps is not None:
            return self.with_num_steps(self.num_test_steps)
        tested = self.learner if self.evaluated is None else self.evaluated
        assert tested is not None
        return tested

    @property
    def num_test_tasks(self) -> int:
        """Number of meta_test tasks that each result is the mean over."""
        return self.source.num_test_tasks if self.testing.num_tasks is None else self.testing.num_tasks

    @property
    def test_protocol(self) -> str:
        """The protocol shown with meta_test results, without the number of inner steps."""
        return self.source.describe(self.num_test_tasks)

    @property
    def num_total_steps(self) -> int | None:
        """Number of meta-steps in the whole run if tasks carry their progress, else `None`."""
        return self.training.num_steps if self.has_progress else None

    @functools.cached_property
    def init_fn(self) -> Callable[[RandomKey], PyTree]:
        """`key -> meta_params`, compiled."""
        if self.init is not None:
            return jax.jit(self.init)
        assert self.learner is not None
        init = self.learner.init
        return jax.jit(lambda key: init(key, _zeros_like_one(self.source)))

    @functools.cached_property
    def grad_fn(self) -> GradFn | None:
        """The meta-gradient of one task; `None` where the meta-trainer alone knows it."""
        if self.episode_fn is not None:
            return jax.value_and_grad(self.episode_fn, has_aux=True)
        if self.learner is None or self.loss_fn is None:
            return None
        return jax.value_and_grad(episode(self.learner, self.loss_fn), has_aux=True)

    @functools.cached_property
    def meta_train(self) -> jax.tree_util.Partial | HostTasks:
        """The sampler of training tasks, built at first use."""
        return self.source.meta_train()

    @functools.cached_property
    def sharing(self) -> Sharing | None:
        """Devices that share the tasks of a meta-step; `None` if one computes all of them."""
        return devices.sharing_of(self.training.mesh, self.training.num_blocks, self.training.tasks_per_step)

    @functools.cached_property
    def trainer(self) -> MetaTrainer:
        """Meta-steps on `training.tasks_per_step` stacked tasks."""
        trainer = self.meta_trainer
        if trainer is None:
            assert self.optimizer is not None
            assert self.grad_fn is not None
            trainer = training_.meta_trainer(over_tasks(self.grad_fn, batching=self.training.batching), self.optimizer)
        return trainer if self.sharing is None else self.sharing.trainer(trainer)


def _zeros_like_one(source: Source) -> Task:
    """Return a task of zeros: a learner's `init` uses shapes alone."""
    if source.placeholder is not None:
        return source.placeholder
    shapes = jax.eval_shape(source.meta_test, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def is_image_task(experiment: Experiment) -> bool:
    """Return whether inputs are images, `[height, width, channels]`."""
    if not isinstance(experiment.tested, Learner):
        return False
    task = jax.eval_shape(experiment.source.meta_test, jax.random.key(0))
    return hasattr(task.query.x, "shape") and len(task.query.x.shape) == 4


def check(training: Training, testing: Testing) -> None:
    """Raise `ValueError` at the first number that is out of range, with the option's name.

    This is for runs that are trained: a run that is only tested may have been trained under other rules.
    """
    check_testing(testing)
    _check_sizes("training", training)
    check_steps(training)
    _check_least(
        "training", training, tasks_per_step=1, num_valid_tasks=2, patience=1, max_skipped_in_a_row=1, keep_last=1
    )


def check_testing(testing: Testing) -> None:
    """Raise `ValueError` at the first number of an evaluation that is out of range, with the option's name."""
    _check_sizes("testing", testing)
    _check_least("testing", testing, num_tasks=2, tasks_at_once=1)


def _check_least(group: str, numbers: Training | Testing, **least: int) -> None:
    for name, smallest in least.items():
        number = getattr(numbers, name)
        if number is not None and number < smallest:
            raise ValueError(f"{group}.{name}={number}; expected at least {smallest}")


def _check_sizes(group: str, numbers: Training | Testing) -> None:
    for name in (each.name for each in fields(numbers)):
        number, bits = getattr(numbers, name), 31
        if not isinstance(number, int) or isinstance(number, bool):
            continue
        if name == "seed":  # with 32 bits, JAX silently drops the upper bits of a larger seed
            bits = 32
            if number < 0:
                raise ValueError(f"{group}.seed={number}; expected 0 to {2**bits - 1}")
        if number >= 2**bits:
            raise ValueError(f"{group}.{name}={number}; expected at most {2**bits - 1}")


def check_steps(training: Training) -> None:
    """Raise `ValueError` unless numbers of steps are multiples of `steps_per_dispatch`."""
    unit = training.steps_per_dispatch
    numbers = {"num_steps": training.num_steps, "evaluate_every": training.evaluate_every}
    numbers |= {"checkpoint_every": training.checkpoint_every} if training.checkpoint_every is not None else {}
    for name, number in {"steps_per_dispatch": unit, **numbers}.items():
        if number < 1 or number % unit:
            raise ValueError(
                f"training.{name}={number}; expected a positive multiple of training.steps_per_dispatch={unit}, so "
                "that a resumed run dispatches the same steps together"
            )


def check_positive(**numbers: int | float | None) -> None:
    """Raise `ValueError` at the first given number that is not positive and finite; for a recipe's own options."""
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:
            raise ValueError(f"{name}={number}; expected a positive number")
