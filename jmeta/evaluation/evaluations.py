"""The functions that evaluate a learner or an episode function over fresh tasks, and the `Evaluation` they return."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from ..calibration import Reliability
from ..episodes import check_predictions, task_without_padding
from ..inductive import compared, support_and_one_query, three_ways
from ..tasks.few_shot import as_partial
from ..types import Aux, ChunkMap, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task
from .estimates import Estimate, estimate
from .per_task import (
    ONE_DEVICE,
    check_numbers,
    draw_stacked,
    evaluation_episode,
    keys_of_dispatches,
    per_task,
    scalars_and_sums,
)

__all__ = ["Evaluation", "evaluate", "evaluate_episodes", "adaptation_curve"]


class Evaluation(NamedTuple):
    """The result and protocol of an evaluation; prints as one line for the protocol and one for each kind of estimates.

    Attributes:
      protocol: name of the evaluation protocol.
      num_tasks: number of tasks.
      inductive: estimates by name, each query predicted without the others. If a learner uses the statistics of its
        queries, each query is predicted together with the support alone.
      transductive: estimates by name, all queries of a task predicted together; `None` if there is no difference.
      reliability: the reliability diagram of the predictions for all tasks, by kind (`"inductive"`, `"transductive"`),
        where the loss reports one (see `jmeta.calibration`). Tasks with a prediction that is NaN are left out.
    """

    protocol: str
    num_tasks: int
    inductive: dict[str, Estimate]
    transductive: dict[str, Estimate] | None
    reliability: Mapping[str, Reliability] = {}

    def __str__(self) -> str:
        kinds = {"inductive": self.inductive, "transductive": self.transductive or {}}
        named = {kind: ", ".join(f"{name} {value}" for name, value in each.items()) for kind, each in kinds.items()}
        pooled = {
            kind: f", pooled calibration_error {d.calibration_error():.4f}" for kind, d in self.reliability.items()
        }
        lines = [f"{kind}: {text}{pooled.get(kind, '')}" for kind, text in named.items() if text]
        return "\n".join([f"{self.protocol}, {self.num_tasks} tasks", *lines])

    __repr__ = __str__


def evaluate(
    learner: Learner,
    loss_fn: LossFn,
    meta_params: PyTree,
    sample: Callable[[RandomKey], Task],
    key: RandomKey,
    *,
    protocol: str,
    num_tasks: int,
    tasks_at_once: int = 1,
    chunk_map: ChunkMap = ONE_DEVICE,
) -> Evaluation:
    """Adapt to `num_tasks` fresh tasks and average the metrics that `loss_fn` reports on their queries.

    Adaptation has a random key; prediction is deterministic (no dropout). The same `key` draws the same tasks for any
    learner, so two learners may be compared task by task with `paired_difference`.

    Args:
      learner: the learner, with the number of inner steps to test.
      loss_fn: `(outputs, batch) -> (loss, aux)`; each scalar of `aux` is reported, and the loss as `"loss"`. With
        `calibration.with_calibration(loss_fn)`, how well predictions know what they do not know is reported, too.
      meta_params: the meta-learned parameters.
      sample: `key -> Task`.
      key: key that draws the tasks.
      protocol: name of the protocol that the numbers belong to.
      num_tasks: at least 2.
      tasks_at_once: tasks in one `vmap`; affects speed and memory only.
      chunk_map: maps the computation over chunks of `tasks_at_once` tasks: one after another by default, on several
        devices with `Sharing.chunk_map` of `jmeta.sharding`.

    Returns:
      An `Evaluation`: by name, means over tasks with 95 % intervals; inductive, and transductive where that differs. A
      metric that is NaN in a task is undefined there and counted; a loss that is NaN makes the mean loss NaN.

    Raises:
      ValueError: if `num_tasks` is below 2 (there is no interval), or `tasks_at_once` is not positive, before anything
        is compiled; if `loss_fn` returns anything but a scalar and a dictionary; if predictions are not floating-point
        numbers, or, where the loss reports an `accuracy`, a label of the first tasks is not one of the learner's
        classes.

    Example:
      >>> import jax, jmeta
      >>> sample = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)
      >>> learner = jmeta.learners.nearest_mean(num_ways=5)
      >>> result = jmeta.evaluate(
      ...     learner, jmeta.losses.cross_entropy, {}, sample, jax.random.key(0), protocol="blobs", num_tasks=20)
      >>> 0 <= result.inductive["accuracy"].mean <= 1, result.transductive
      (True, None)
      >>> print(str(result).splitlines()[0])
      blobs, 20 tasks
    """
    check_numbers(num_tasks, tasks_at_once, least=2)
    if _is_transductive(learner, loss_fn, meta_params, sample, key, num_tasks, tasks_at_once, chunk_map):
        values = per_task(_both_kinds(learner, loss_fn), chunk_map)(
            meta_params, sample, key, num_tasks=num_tasks, tasks_at_once=tasks_at_once
        )
        return _evaluation(protocol, num_tasks, **values)
    return evaluate_episodes(
        evaluation_episode(learner, loss_fn),
        meta_params,
        sample,
        key,
        protocol=protocol,
        num_tasks=num_tasks,
        tasks_at_once=tasks_at_once,
        chunk_map=chunk_map,
    )


def evaluate_episodes(
    episode_fn: EpisodeFn,
    meta_params: PyTree,
    sample: Callable[[RandomKey], PyTree],
    key: RandomKey,
    *,
    protocol: str,
    num_tasks: int,
    tasks_at_once: int = 1,
    chunk_map: ChunkMap = ONE_DEVICE,
) -> Evaluation:
    """Average the scalars that an episode function reports over fresh tasks: for methods evaluated by acting.

    Args:
      episode_fn: `(meta_params, task, key) -> (loss, aux)`, such as `rollouts.return_episode(...)`; each scalar of
        `aux` is reported, and the loss as `"loss"`.
      sample: `key -> task`, in the form that the episode function takes.

    The other arguments are those of `evaluate`.

    Returns:
      An `Evaluation`; there are no queries to predict together, so its `transductive` is `None`.

    Raises:
      ValueError: as for `evaluate`.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = policies.actor_critic(models.gru(8), bandit)
      >>> params = rollouts.init_policy(bandit, policy)(jax.random.key(0))
      >>> episode_fn = rollouts.return_episode(rollouts.run_episode(bandit, policy, num_steps=10))
      >>> result = evaluate_episodes(
      ...     episode_fn, params, sample, jax.random.key(1), protocol="bandit", num_tasks=200, tasks_at_once=50)
      >>> 4 < result.inductive["return"].mean < 6
      True
    """
    check_numbers(num_tasks, tasks_at_once, least=2)

    def one_task(meta_params: PyTree, task: PyTree, key: RandomKey) -> Aux:
        return scalars_and_sums(episode_fn(meta_params, task, key), "what episode_fn returns")

    measure = per_task(one_task, chunk_map)
    values = measure(meta_params, sample, key, num_tasks=num_tasks, tasks_at_once=tasks_at_once)
    return _evaluation(protocol, num_tasks, values)


def _evaluation(
    protocol: str, num_tasks: int, inductive: dict[str, Any], transductive: dict[str, Any] | None = None
) -> Evaluation:
    """Build an evaluation from the values of each task, `[tasks]`, and sums over its queries, `[tasks, bins]`."""
    values = {"inductive": inductive} | ({} if transductive is None else {"transductive": transductive})
    diagrams = {kind: d for kind, each in values.items() for d in each.values() if isinstance(d, Reliability)}
    pooled = {kind: _pooled(diagram) for kind, diagram in diagrams.items()}
    both = transductive if transductive is None else _estimates(transductive)
    return Evaluation(protocol, num_tasks, _estimates(inductive), both, pooled)


def _estimates(values: dict[str, Any]) -> dict[str, Estimate]:
    """Estimate each metric; a metric may be undefined in a task, but the NaN of a loss stays visible."""
    metrics = {name: array for name, array in values.items() if not isinstance(array, Reliability)}
    return {name: estimate(array, skip_undefined=name != "loss") for name, array in metrics.items()}


def _pooled(of_tasks: Reliability) -> Reliability:
    """Add the diagrams of all tasks, but those that are NaN."""
    is_defined = np.isfinite(of_tasks.confidence).all(-1)
    return Reliability(*(leaf[is_defined].sum(0) for leaf in of_tasks))


def _is_transductive(
    learner: Learner,
    loss_fn: LossFn,
    meta_params: PyTree,
    sample: Callable[[RandomKey], Task],
    key: RandomKey,
    num_tasks: int,
    tasks_at_once: int,
    chunk_map: ChunkMap,
) -> bool:
    """Return whether predictions for the first task's queries depend on each other; check its labels on the way.

    The task is the first of the first dispatch, so that on one device no sampler is compiled for it alone.
    """
    keys_of, _ = keys_of_dispatches(key, num_tasks, tasks_at_once, 1)
    tasks = draw_stacked(chunk_map.to_local(as_partial(sample)), keys_of, np.int32(0))
    check_predictions(learner, loss_fn, meta_params, jax.tree.map(_labels_or_shape, tasks))
    if jax.tree.leaves(tasks.query.x)[0].shape[2] < 2:  # a single query has no others to depend on
        return False
    run = three_ways(learner)

    @jax.jit
    def of_first(meta_params: PyTree, tasks: Task, keys_of: Partial) -> tuple[PyTree, PyTree, PyTree]:
        return run(meta_params, jax.tree.map(lambda leaf: leaf[0, 0], tasks), keys_of(0)[0, 0, 1])

    return compared(of_first, chunk_map.to_local(meta_params), tasks, keys_of).is_leaking


def _labels_or_shape(leaf: Array) -> np.ndarray | jax.ShapeDtypeStruct:
    """Turn a leaf of stacks of tasks into one of stacked tasks: the values of integers, the shape of others."""
    shape = (leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])
    if leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.integer):
        return np.asarray(leaf).reshape(shape)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _both_kinds(learner: Learner, loss_fn: LossFn) -> Callable[[PyTree, Task, RandomKey], dict[str, dict[str, Array]]]:
    """Build the function that adapts once and predicts a task's queries each with the support alone, and together."""
    one_by_one = support_and_one_query(learner)

    def one_task(meta_params: PyTree, task: Task, key: RandomKey) -> dict[str, dict[str, Array]]:
        task = task_without_padding(task)
        adapted, support_x = one_by_one.adapt(meta_params, task.support, key)
        outputs = {
            "inductive": one_by_one.predict(meta_params, (adapted, support_x), task.query.x, None),
            "transductive": learner.predict(meta_params, adapted, task.query.x, None),
        }
        return {
            kind: scalars_and_sums(loss_fn(each, task.query), "what loss_fn returns") for kind, each in outputs.items()
        }

    return one_task


def adaptation_curve(
    make_learner: Callable[[int], Learner],
    loss_fn: LossFn,
    meta_params: PyTree,
    sample: Callable[[RandomKey], Task],
    key: RandomKey,
    *,
    protocol: str,
    num_tasks: int,
    nums_steps: tuple[int, ...],
    tasks_at_once: int = 1,
) -> dict[int, Evaluation]:
    """Evaluate the same tasks after different numbers of inner steps.

    Args:
      make_learner: `num_steps -> Learner`, all sharing `meta_params`.
      nums_steps: the numbers of inner steps.

    The other arguments are those of `evaluate`.

    Returns:
      An `Evaluation` for each number of steps.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> model, inner = models.mlp([16, 1]), optax.sgd(0.01)
      >>> make = lambda num_steps: learners.maml(model, losses.squared_error, inner, num_steps=num_steps)
      >>> sample = jmeta.tasks.sinusoid(num_shots=5, num_queries=5)
      >>> meta_params = make(1).init(jax.random.key(0), sample(jax.random.key(1)))
      >>> curve = adaptation_curve(
      ...     make, losses.squared_error, meta_params, sample, jax.random.key(2),
      ...     protocol="sinusoid 5-shot", num_tasks=20, nums_steps=(0, 1))
      >>> curve[1].inductive["loss"].mean < curve[0].inductive["loss"].mean
      True
    """
    arguments = (loss_fn, meta_params, sample, key)
    return {
        num_steps: evaluate(
            make_learner(num_steps), *arguments, protocol=protocol, num_tasks=num_tasks, tasks_at_once=tasks_at_once
        )
        for num_steps in nums_steps
    }
