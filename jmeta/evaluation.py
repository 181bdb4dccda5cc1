"""Judging a learner on many tasks: means with 95 % intervals, and never without the protocol's name.

A prediction for one query is *inductive* if it does not depend on the other queries, and *transductive* if it does, as
happens when batch normalisation uses the statistics of the query set. The difference is worth points of accuracy, so
`evaluate` finds out which of the two a learner is, and reports both where both exist.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from .episodes import check_predictions
from .leaks import compared, three_ways
from .losses import checked_loss, without_padding
from .measuring import draw_stacked, keys_of_dispatches, measured
from .sharding import here
from .tasks.few_shot import as_partial
from .types import Aux, Batch, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task


class Estimate(NamedTuple):
    """A mean with its uncertainty.

    Attributes:
      mean: of `values`.
      half_width: of the two-sided 95 % confidence interval of the mean (Student's t).
      values: `[count]` float64, one for each task (or seed).
      num_undefined: how many of `values` are NaN and left out of the mean and its interval.
    """

    mean: float
    half_width: float
    values: np.ndarray
    num_undefined: int = 0

    def __str__(self) -> str:
        undefined = f" (undefined in {self.num_undefined} of {self.values.size})" if self.num_undefined else ""
        return f"{self.mean:.4f} ± {self.half_width:.4f}{undefined}"


class Evaluation(NamedTuple):
    """What was measured, and how.

    Attributes:
      protocol: name of the evaluation protocol.
      num_tasks: number of tasks.
      inductive: estimates by name, each query predicted without the others. For a learner that uses the statistics of
        its queries, each query is predicted together with the support alone.
      transductive: estimates by name, all queries of a task predicted together; `None` if that makes no difference.
    """

    protocol: str
    num_tasks: int
    inductive: dict[str, Estimate]
    transductive: dict[str, Estimate] | None


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
    mesh: Mesh | None = None,
) -> Evaluation:
    """Adapt to `num_tasks` fresh tasks and average what `loss_fn` reports on their queries.

    Adaptation has a random key; prediction is deterministic (no dropout). The same `key` draws the same tasks for any
    learner, so two learners may be compared task by task with `paired_difference`.

    Args:
      learner: with the number of inner steps to be tested.
      loss_fn: `(outputs, batch) -> (loss, aux)`; each scalar of `aux` is reported, and the loss as `"loss"`.
      meta_params: what was meta-learned.
      sample: `key -> Task`.
      key: draws the tasks.
      protocol: name of the protocol that the numbers belong to.
      num_tasks: at least 2.
      tasks_at_once: tasks in one `vmap`; a matter of speed and memory only.
      mesh: of devices that share the tasks (`sharding.make_mesh`), each `tasks_at_once` at a time; the same bits on any
        number of them that are of one kind. All processes of a job call this together, and all get the result.

    Returns:
      An `Evaluation`: by name, means over tasks with 95 % intervals; inductive, and transductive where that differs. A
      metric that is NaN in a task counts as undefined there; a loss that is NaN makes the mean loss NaN.

    Raises:
      ValueError: if `num_tasks` is below 2 (there is no interval), or `tasks_at_once` is not positive; if `loss_fn`
        returns anything but a scalar and a dictionary; if predictions are no floating-point numbers, or, where the
        loss reports an `accuracy`, a label of the first tasks is none of the classes that they are for.

    Example:
      >>> import jax, jmeta
      >>> sample = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)
      >>> learner = jmeta.learners.nearest_mean(num_ways=5)
      >>> result = jmeta.evaluate(
      ...     learner, jmeta.losses.cross_entropy, {}, sample, jax.random.key(0), protocol="blobs", num_tasks=20)
      >>> 0 <= result.inductive["accuracy"].mean <= 1, result.transductive
      (True, None)
    """
    if num_tasks < 2:
        raise ValueError(f"num_tasks={num_tasks}; an interval needs at least 2")
    is_transductive = _is_transductive(learner, loss_fn, meta_params, sample, key, num_tasks, tasks_at_once)
    measure = per_task_metrics(learner, loss_fn, also_alone=is_transductive, mesh=mesh)
    values = measure(meta_params, sample, key, num_tasks=num_tasks, tasks_at_once=tasks_at_once)
    together, alone = map(_estimates, values)
    return Evaluation(protocol, num_tasks, *((alone, together) if is_transductive else (together, None)))


def _is_transductive(
    learner: Learner,
    loss_fn: LossFn,
    meta_params: PyTree,
    sample: Callable[[RandomKey], Task],
    key: RandomKey,
    num_tasks: int,
    tasks_at_once: int,
) -> bool:
    """Whether predictions for the first task's queries depend on each other; labels are looked at by the way.

    The task is the first of the first dispatch, so that on one device no sampler is compiled for it alone.
    """
    keys, first = keys_of_dispatches(key, num_tasks, tasks_at_once, 1), np.int32(0)
    tasks = draw_stacked(here(as_partial(sample)), keys, first)
    check_predictions(learner, loss_fn, meta_params, jax.tree.map(_labels_or_shape, tasks))
    if jax.tree.leaves(tasks.query.x)[0].shape[2] < 2:  # a single query has none to depend on
        return False
    run = three_ways(learner)

    @jax.jit
    def of_first(meta_params: PyTree, tasks: Task, keys: Array) -> tuple[PyTree, PyTree, PyTree]:
        return run(meta_params, jax.tree.map(lambda leaf: leaf[0, 0], tasks), keys[0, 0, 0, 1])

    return compared(of_first, here(meta_params), tasks, keys).is_leaking


def _labels_or_shape(leaf: Array) -> np.ndarray | jax.ShapeDtypeStruct:
    """A leaf of stacks of tasks as one of stacked tasks: integers on the host, and of the rest the shape alone."""
    shape = (leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])
    if leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.integer):
        return np.asarray(leaf).reshape(shape)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def per_task_metrics(
    learner: Learner, loss_fn: LossFn, *, also_alone: bool = False, mesh: Mesh | None = None
) -> Callable[..., tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """What `evaluate` measures, as a function that is compiled once and called often.

    Args:
      learner, loss_fn: as for `evaluate`.
      also_alone: whether to predict each query with the support alone, too.
      mesh: as for `evaluate`. What `measure` is given and is not on its devices yet is put there at each call.

    Returns:
      `measure(meta_params, sample, key, *, num_tasks, tasks_at_once=1) -> (together, alone)`: the loss and every scalar
      of `aux` by name, `[num_tasks]` float64; `alone` is empty unless asked for.

    Example:
      >>> import jax, jmeta
      >>> sample = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)
      >>> measure = per_task_metrics(jmeta.learners.nearest_mean(num_ways=5), jmeta.losses.cross_entropy)
      >>> together, alone = measure({}, sample, jax.random.key(0), num_tasks=20, tasks_at_once=8)
      >>> together["accuracy"].shape, alone
      ((20,), {})
    """
    predict_alone = support_and_one_query(learner).predict

    def one_task(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Aux, Aux]:
        def judged(outputs: PyTree) -> Aux:
            return _scalars(*checked_loss(loss_fn(outputs, task.query), "what loss_fn returns"))

        task = Task(without_padding(task.support), without_padding(task.query), task.progress)
        adapted = learner.adapt(meta_params, task.support, key)
        together = judged(learner.predict(meta_params, adapted, task.query.x, None))
        if not also_alone:
            return together, {}
        return together, judged(predict_alone(meta_params, (adapted, task.support.x), task.query.x, None))

    return measured(one_task, mesh)


def evaluate_episodes(
    episode_fn: EpisodeFn,
    meta_params: PyTree,
    sample: Callable[[RandomKey], PyTree],
    key: RandomKey,
    *,
    protocol: str,
    num_tasks: int,
    tasks_at_once: int = 1,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Average what an episode function reports over fresh tasks: for methods that are judged by acting.

    Args:
      episode_fn: `(meta_params, task, key) -> (loss, aux)`, such as `rollouts.return_episode(...)`; each scalar of
        `aux` is reported, and the loss as `"loss"`.
      sample: `key -> task`, whatever the episode function takes.

    The other arguments are those of `evaluate`.

    Returns:
      An `Evaluation`; there are no queries to be predicted together, so its `transductive` is `None`.

    Raises:
      ValueError: as `evaluate`.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = policies.actor_critic(models.gru(8), bandit)
      >>> params = rollouts.init_policy(bandit, policy)(jax.random.key(0))
      >>> judge = rollouts.return_episode(rollouts.run_episode(bandit, policy, num_steps=10))
      >>> result = evaluate_episodes(
      ...     judge, params, sample, jax.random.key(1), protocol="bandit", num_tasks=200, tasks_at_once=50)
      >>> 4 < result.inductive["return"].mean < 6
      True
    """
    if num_tasks < 2:
        raise ValueError(f"num_tasks={num_tasks}; an interval needs at least 2")
    measure = per_task_episodes(episode_fn, mesh=mesh)
    values, _ = measure(meta_params, sample, key, num_tasks=num_tasks, tasks_at_once=tasks_at_once)
    return Evaluation(protocol, num_tasks, _estimates(values), None)


def per_task_episodes(
    episode_fn: EpisodeFn, *, mesh: Mesh | None = None
) -> Callable[..., tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """What `evaluate_episodes` measures, as a function that is compiled once and called often.

    Args:
      episode_fn, mesh: as for `evaluate_episodes`.

    Returns:
      `measure`, as of `per_task_metrics`; its second result is empty.

    Example:
      >>> import jax
      >>> measure = per_task_episodes(lambda meta_params, task, key: (task, {"doubled": 2 * task}))
      >>> values, _ = measure({}, jax.random.normal, jax.random.key(0), num_tasks=20, tasks_at_once=8)
      >>> values["doubled"].shape
      (20,)
    """

    def one_task(meta_params: PyTree, task: PyTree, key: RandomKey) -> tuple[Aux, Aux]:
        return _scalars(*checked_loss(episode_fn(meta_params, task, key), "what episode_fn returns")), {}

    return measured(one_task, mesh)


def _scalars(loss: Array, aux: Aux) -> Aux:
    return {**{name: value for name, value in aux.items() if jnp.ndim(value) == 0}, "loss": loss}


def support_and_one_query(learner: Learner) -> Learner:
    """The same learner, predicting each query in one batch with the support alone.

    Makes any learner inductive: statistics are those of the support, padding counted in as zeros, and the one query.
    It is trained as before, by the learner's own `episode` if it has one.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import leaks
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> nearest = jmeta.learners.nearest_mean(num_ways=5)
      >>> centred = lambda m, adapted, x, key: nearest.predict(m, adapted, x - x.mean(0, keepdims=True), key)
      >>> inductive = support_and_one_query(nearest._replace(predict=centred))
      >>> leaks.leaks(inductive, {}, task, jax.random.key(1)).is_leaking
      False

    Reference:
      Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999, section 6.1.
    """

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> tuple[PyTree, PyTree]:
        return learner.adapt(meta_params, support, key), without_padding(support).x

    def predict(meta_params: PyTree, adapted: tuple[PyTree, PyTree], x: PyTree, key: RandomKey | None) -> PyTree:
        inner_adapted, support_x = adapted

        def predict_one(query_x: PyTree) -> PyTree:
            together = jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), support_x, query_x)
            outputs = learner.predict(meta_params, inner_adapted, together, key)
            return jax.tree.map(lambda leaf: leaf[-1], outputs)

        return jax.vmap(predict_one)(x)

    return learner._replace(adapt=adapt, predict=predict)


def _estimates(values: dict[str, np.ndarray]) -> dict[str, Estimate]:
    """By name; a metric may be undefined in a task, and a loss may not: its NaN stays in sight."""
    return {name: estimate(array, skip_undefined=name != "loss") for name, array in values.items()}


def estimate(values: Float[np.ndarray, " count"] | Float[Array, " count"], *, skip_undefined: bool = False) -> Estimate:
    """The mean of independent values and its 95 % interval, by Student's t with `count - 1` degrees of freedom.

    Args:
      values: one for each task (or seed).
      skip_undefined: whether NaN says that a value is undefined, as the area under a curve is in a task of one class:
        the estimate is then over the others, and counts those left out. Where fewer than two are left, it is NaN.

    Raises:
      ValueError: if there are fewer than two values.

    Example:
      >>> import numpy as np
      >>> print(estimate(np.array([0.0, 1.0, 0.0, 1.0])))
      0.5000 ± 0.9187
    """
    values = np.asarray(values, np.float64)
    if values.size < 2:
        raise ValueError(f"an interval needs at least two values, but there is {values.size}")
    from scipy.special import stdtrit  # imported when used, so that `import jmeta` does not bring SciPy

    defined = values[~np.isnan(values)] if skip_undefined else values
    num_undefined = values.size - defined.size
    if defined.size < 2:
        return Estimate(float("nan"), float("nan"), values, num_undefined)
    half_width = stdtrit(defined.size - 1, 0.975) * defined.std(ddof=1) / np.sqrt(defined.size)
    return Estimate(float(defined.mean()), float(half_width), values, num_undefined)


def paired_difference(first: Estimate, second: Estimate) -> Estimate:
    """`first - second` on the tasks where both are defined; the interval of the difference is narrower than theirs.

    Raises:
      ValueError: if the two were not measured on equally many tasks.

    Example:
      >>> import numpy as np
      >>> first, second = estimate(np.array([0.2, 0.9, 0.5])), estimate(np.array([0.1, 0.8, 0.3]))
      >>> print(first, "less", second, "is", paired_difference(first, second))
      0.5333 ± 0.8724 less 0.4000 ± 0.8957 is 0.1333 ± 0.1434
    """
    if first.values.shape != second.values.shape:
        raise ValueError(
            f"a paired difference needs the same tasks, but there are {first.values.size} and {second.values.size}; "
            "evaluate both with one key and one num_tasks"
        )
    return estimate(first.values - second.values, skip_undefined=first.num_undefined + second.num_undefined > 0)


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
    """The same tasks evaluated after different numbers of inner steps.

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
