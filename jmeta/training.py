"""Meta-training: a meta-step is a pure function of its state, and many of them run in one dispatch.

A run continues from its `MetaState` and one random key: the key of a meta-step is derived from the run's key and the
step's number, so a state that was saved and restored continues with the same tasks and the same bits, and any single
step can be replayed. Loops that print, save and stop belong to the caller (see `jmeta.runs`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from .adjoints import checked_optimizer
from .batching import count_tasks
from .estimators import ParticlesState, PersistentEstimator
from .losses import checked_loss
from .tasks.few_shot import as_partial
from .types import Aux, GradFn, MetaTrainer, PyTree, RandomKey, Task

__all__ = [
    "SampleTasks",
    "MetaState",
    "meta_trainer",
    "PersistentState",
    "persistent_trainer",
    "start_counting",
    "count_step",
    "step_keys",
    "sampled_steps",
    "fed_steps",
    "with_progress",
    "all_finite",
]

SampleTasks = Callable[[RandomKey], PyTree]
"""`key -> stacked tasks`. A sampler that holds arrays is a `jax.tree_util.Partial`, so that they are arguments, not
constants, of the compiled function."""


class MetaState(NamedTuple):
    """The state of meta-training between two meta-steps.

    Attributes:
      meta_params: the parameters being meta-learned.
      optimizer_state: the meta-optimizer's state.
      step: int32, number of meta-steps done, skipped ones included.
      num_skipped: int32, number of meta-steps skipped because their loss, gradient or result was not finite.
      num_skipped_in_a_row: int32, number of skipped meta-steps since the last one that was not.
      last_skipped_step: int32, number of the last skipped meta-step, or -1.
    """

    meta_params: PyTree
    optimizer_state: PyTree
    step: Int[Array, ""]
    num_skipped: Int[Array, ""]
    num_skipped_in_a_row: Int[Array, ""]
    last_skipped_step: Int[Array, ""]


def meta_trainer(grad_fn: GradFn, meta_optimizer: optax.GradientTransformation) -> MetaTrainer:
    """Build meta-training: meta-steps of an optax optimizer on a meta-gradient.

    A meta-step is skipped if its loss or gradient is not finite, or if it would make a parameter or the optimizer's
    state so. It then changes neither and is counted in the state; the caller decides when there were too many.

    Args:
      grad_fn: `(meta_params, tasks, key) -> ((loss, aux), grads)` on stacked tasks, such as
        `over_tasks(jax.value_and_grad(episode_fn, has_aux=True))`.
      meta_optimizer: any optax transformation; it may ask for the loss (`value`, as `optax.contrib.reduce_on_plateau`
        does), and not for a function to evaluate it anew.

    Returns:
      `init(meta_params) -> MetaState`, which copies the parameters so that the state may be donated, and
      `update(state, tasks, key) -> (state, aux)`, which adds `loss`, `grad_norm` and `is_skipped` to the episode's
      `aux`. It has a `share`, for tasks that devices share.

    Raises:
      ValueError: at trace time, if `grad_fn` returns anything else, or a gradient whose tree is not that of the
        meta-parameters; at once, if `meta_optimizer` is no optax transformation; from `init`, if a meta-parameter is
        not floating point.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> grad_fn = jax.value_and_grad(lambda theta, task, key: ((theta - task.mean()) ** 2, {}), has_aux=True)
      >>> trainer = meta_trainer(grad_fn, optax.sgd(0.5))
      >>> state, aux = trainer.update(trainer.init(jnp.array(0.0)), jnp.ones(4), jax.random.key(0))
      >>> float(state.meta_params), int(state.step)
      (1.0, 1)
    """

    meta_optimizer = checked_optimizer(meta_optimizer, "meta_optimizer")

    def init(meta_params: PyTree) -> MetaState:
        return start_counting(meta_params, meta_optimizer.init(meta_params))

    def update(state: MetaState, tasks: PyTree, key: RandomKey) -> tuple[MetaState, Aux]:
        (loss, aux), grads = _checked(grad_fn(state.meta_params, tasks, key), state.meta_params)
        updates, optimizer_state = meta_optimizer.update(grads, state.optimizer_state, state.meta_params, value=loss)
        stepped = (optax.apply_updates(state.meta_params, updates), optimizer_state)
        kept = (state.meta_params, state.optimizer_state)
        is_finite = all_finite((loss, grads)) & _stays_finite(kept, stepped)
        meta_params, optimizer_state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), stepped, kept)
        skipped = 1 - is_finite.astype(jnp.int32)
        state = count_step(state, skipped)._replace(meta_params=meta_params, optimizer_state=optimizer_state)
        return state, {**aux, "loss": loss, "grad_norm": optax.tree.norm(grads), "is_skipped": skipped}

    return MetaTrainer(init, update, share=lambda sharing: meta_trainer(sharing.mean(grad_fn), meta_optimizer))


class PersistentState(NamedTuple):
    """What `persistent_trainer` keeps as `MetaState.optimizer_state`.

    Attributes:
      optimizer: the meta-optimizer's state.
      particles: the estimator's state for each task, stacked.
      tasks: the stacked tasks whose inner loops are under way.
    """

    optimizer: PyTree
    particles: ParticlesState
    tasks: PyTree


def persistent_trainer(
    estimator: PersistentEstimator, meta_optimizer: optax.GradientTransformation, sample_tasks: SampleTasks
) -> MetaTrainer:
    """Build meta-training with an estimator whose inner loops go on from meta-step to meta-step.

    A meta-step makes one unroll for every task, and descends the mean of their estimates. When the inner loop of a task
    is over, one for a new task begins. The first loops begin at different unrolls and end early, evenly staggered, so
    that a meta-step sees all parts of an inner loop and not all loops begin at once.

    A task whose loss or estimate is not finite has no part in the mean, and begins anew in the next meta-step. If no
    task is left, the meta-step is skipped, as `meta_trainer` does.

    Args:
      estimator: such as `estimators.persistent_evolution_strategies`.
      meta_optimizer: as for `meta_trainer`.
      sample_tasks: `key -> stacked tasks`, as for `sampled_steps`; here it only tells their shapes. All tasks are drawn
        in each meta-step, and those are used whose turn it is.

    Returns:
      A trainer for `sampled_steps` or `fed_steps`; `aux` has `num_restarted`, the tasks that were not finite. It
      computes on one device.

    Raises:
      ValueError: as `meta_trainer`.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jmeta import estimators, training
      >>> unroll = lambda rate, x, task, key: (x - rate * task * x, task * x**2, {})  # learn the rate of descent
      >>> estimator = estimators.persistent_evolution_strategies(
      ...     unroll, lambda rate, task, key: 1.0, num_unrolls=10, num_pairs=16, sigma=0.01)
      >>> sample_tasks = lambda key: jax.random.uniform(key, (8,), minval=0.5, maxval=1.5)
      >>> trainer = training.persistent_trainer(estimator, optax.adam(0.02), sample_tasks)
      >>> run = training.sampled_steps(trainer, num_steps=300)
      >>> state, aux = run(trainer.init(jnp.array(0.1)), sample_tasks, jax.random.key(0))
      >>> bool(0.6 < state.meta_params < 1.3), aux["num_restarted"].shape
      (True, (300,))

    Reference:
      Vicol, Metz, Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
      Evolution Strategies", 2021, arXiv:2112.13835, algorithm 2.
    """
    of_given = meta_trainer(lambda _meta_params, estimate, _key: estimate, meta_optimizer)
    begin_all = jax.vmap(estimator.init, in_axes=(None, 0, 0))

    def init(meta_params: PyTree) -> MetaState:
        state = of_given.init(meta_params)
        key_tasks, key_begin = jax.random.split(jax.random.key(0))  # for shapes: all begin in the first meta-step
        tasks = sample_tasks(key_tasks)
        particles = begin_all(state.meta_params, tasks, jax.random.split(key_begin, count_tasks(tasks)))
        return state._replace(optimizer_state=PersistentState(state.optimizer_state, particles, tasks))

    def update(state: MetaState, tasks: PyTree, key: RandomKey) -> tuple[MetaState, Aux]:
        key_begin, key_update = jax.random.split(key)
        kept: PersistentState = state.optimizer_state
        num_tasks = count_tasks(tasks)
        begins = kept.particles.num_unrolls == 0
        staggered = jnp.arange(num_tasks) * estimator.num_unrolls // num_tasks
        begun = begin_all(state.meta_params, tasks, jax.random.split(key_begin, num_tasks))
        begun = begun._replace(num_unrolls=jnp.where(begins.all(), staggered, 0).astype(begun.num_unrolls.dtype))
        particles, tasks = _where(begins, (begun, tasks), (kept.particles, kept.tasks))

        updates = jax.vmap(estimator.update, in_axes=(0, None, 0, 0))
        particles, estimates = updates(particles, state.meta_params, tasks, jax.random.split(key_update, num_tasks))
        (losses, _), grads = estimates
        is_finite = jax.vmap(all_finite)((losses, grads))
        particles = particles._replace(num_unrolls=jnp.where(is_finite, particles.num_unrolls, 0))
        num_finite = is_finite.sum()
        mean = jax.tree.map(lambda leaf: (leaf.sum(0) / num_finite).astype(leaf.dtype), _where(is_finite, estimates, 0))

        stepped, aux = of_given.update(state._replace(optimizer_state=kept.optimizer), mean, key_update)
        stepped = stepped._replace(optimizer_state=PersistentState(stepped.optimizer_state, particles, tasks))
        return stepped, {**aux, "num_restarted": num_tasks - num_finite}

    return MetaTrainer(init, update)


def _where(chosen: Bool[Array, "tasks"], new: PyTree, old: PyTree | float) -> PyTree:
    """Return, for each of stacked tasks, its leaves of `new` where chosen, else those of `old`, or that number."""
    of_task = lambda chosen, new, old: jax.tree.map(lambda a, b: jnp.where(chosen, a, b), new, old)  # noqa: E731
    if isinstance(old, int | float):
        old = jax.tree.map(lambda leaf: jnp.full_like(leaf, old), new)
    return jax.vmap(of_task)(chosen, new, old)


def start_counting(meta_params: PyTree, optimizer_state: PyTree) -> MetaState:
    """Make the state before the first meta-step, of copies: a donated buffer must be nobody else's.

    Example:
      >>> state = start_counting(0.5, ())
      >>> int(state.step), int(state.last_skipped_step)
      (0, -1)
    """
    zero = jnp.zeros((), jnp.int32)
    return jax.tree.map(jnp.array, MetaState(meta_params, optimizer_state, zero, zero, zero, zero - 1))


def count_step(state: MetaState, skipped: Int[Array, ""]) -> MetaState:
    """Count one more meta-step, which was skipped (1) or not (0); the rest of the state stays as it is.

    Example:
      >>> import jax.numpy as jnp
      >>> state = count_step(start_counting(0.5, ()), jnp.int32(1))
      >>> int(state.step), int(state.num_skipped_in_a_row), int(state.last_skipped_step)
      (1, 1, 0)
    """
    return state._replace(
        step=state.step + 1,
        num_skipped=state.num_skipped + skipped,
        num_skipped_in_a_row=(state.num_skipped_in_a_row + 1) * skipped,
        last_skipped_step=jnp.where(skipped == 1, state.step, state.last_skipped_step),
    )


def step_keys(key: RandomKey, step: Int[Array, ""] | int) -> tuple[RandomKey, RandomKey]:
    """Derive `(key_tasks, key_update)` of a meta-step from the run's key and the step's number.

    They depend on nothing else, so a run can be resumed and any step of it replayed.

    Example:
      >>> import jax
      >>> key_tasks, key_update = step_keys(jax.random.key(0), 41)
    """
    key_tasks, key_update = jax.random.split(jax.random.fold_in(key, step))
    return key_tasks, key_update


def sampled_steps(
    trainer: MetaTrainer, *, num_steps: int, num_total_steps: int | None = None
) -> Callable[[MetaState, SampleTasks, RandomKey], tuple[MetaState, Aux]]:
    """Build a compiled scan that samples tasks and updates the state: many meta-steps in one dispatch.

    Args:
      trainer: as returned by `meta_trainer`.
      num_steps: meta-steps in one call.
      num_total_steps: length of the whole run; when given, each task's `progress` leaf is set to `step /
        num_total_steps`.

    Returns:
      `run(state, sample_tasks, key) -> (state, aux)`, compiled. The state is donated: the caller cannot use it again.
      `key` is the run's key, the same in every call. Each leaf of `aux` has the steps on its first axis.

    Raises:
      ValueError: if `num_steps` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> grad_fn = jax.value_and_grad(lambda theta, tasks, key: ((theta - tasks.mean()) ** 2, {}), has_aux=True)
      >>> trainer = meta_trainer(grad_fn, optax.sgd(0.1))
      >>> run = sampled_steps(trainer, num_steps=100)
      >>> sample_tasks = jax.tree_util.Partial(lambda key: 3 + 0.1 * jax.random.normal(key, (8,)))
      >>> state, aux = run(trainer.init(jnp.array(0.0)), sample_tasks, jax.random.key(0))
      >>> aux["loss"].shape, round(float(state.meta_params))
      ((100,), 3)
    """
    if num_steps <= 0:
        raise ValueError(f"num_steps={num_steps}; a run needs at least one meta-step")

    def run(state: MetaState, sample_tasks: SampleTasks, key: RandomKey) -> tuple[MetaState, Aux]:
        def one_step(state: MetaState, _: None) -> tuple[MetaState, Aux]:
            key_tasks, key_update = step_keys(key, state.step)
            tasks = with_progress(sample_tasks(key_tasks), state.step, num_total_steps)
            return trainer.update(state, tasks, key_update)

        return jax.lax.scan(one_step, state, None, length=num_steps)

    compiled = jax.jit(run, donate_argnums=0)
    return lambda state, sample_tasks, key: compiled(state, as_partial(sample_tasks), key)


def fed_steps(
    trainer: MetaTrainer, *, num_total_steps: int | None = None
) -> Callable[[MetaState, PyTree, RandomKey], tuple[MetaState, Aux]]:
    """Build compiled meta-steps on tasks fed by the host, for data that does not fit on the device.

    Args:
      trainer: as returned by `meta_trainer`.
      num_total_steps: as in `sampled_steps`.

    Returns:
      `run(state, tasks, key) -> (state, aux)`, compiled, with the state donated. Every leaf of `tasks` is
      `[steps, tasks, ...]`: one dispatch makes one meta-step for each index of the first axis.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> grad_fn = jax.value_and_grad(lambda theta, tasks, key: ((theta - tasks.mean()) ** 2, {}), has_aux=True)
      >>> trainer = meta_trainer(grad_fn, optax.sgd(0.5))
      >>> state, aux = fed_steps(trainer)(trainer.init(jnp.array(0.0)), jnp.ones((3, 4)), jax.random.key(0))
      >>> int(state.step)
      3
    """

    def run(state: MetaState, tasks: PyTree, key: RandomKey) -> tuple[MetaState, Aux]:
        def one_step(state: MetaState, tasks: PyTree) -> tuple[MetaState, Aux]:
            _, key_update = step_keys(key, state.step)
            return trainer.update(state, with_progress(tasks, state.step, num_total_steps), key_update)

        return jax.lax.scan(one_step, state, tasks)

    return jax.jit(run, donate_argnums=0)


def with_progress(tasks: PyTree, step: Int[Array, ""], num_total_steps: int | None) -> PyTree:
    """Set the `progress` of stacked tasks to the share of training done; without `num_total_steps` change nothing.

    Raises:
      ValueError: if they are not stacked `jmeta.Task`s.
    """
    if num_total_steps is None:
        return tasks
    progress: Float[Array, ""] = jnp.asarray(step / num_total_steps, jnp.float32)
    if not isinstance(tasks, Task):
        raise ValueError(f"num_total_steps sets the progress of a jmeta.Task, but the tasks are {type(tasks).__name__}")
    return tasks._replace(progress=jnp.broadcast_to(progress, (count_tasks(tasks),)))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Return whether every number of a tree, which has at least one leaf, is finite.

    Example:
      >>> import jax.numpy as jnp
      >>> bool(all_finite({"loss": jnp.array(1.0), "grads": jnp.array([0.0, jnp.nan])}))
      False
    """
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _stays_finite(old: PyTree, new: PyTree) -> Bool[Array, ""]:
    """Return whether every finite number stayed finite: an optimizer may begin with an infinity of its own."""
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    kept = [
        (jnp.isfinite(after) | ~jnp.isfinite(before)).all()
        for before, after in pairs
        if jnp.issubdtype(jnp.result_type(after), jnp.inexact)
    ]
    return jnp.stack([jnp.array(True), *kept]).all()


def _checked(result: Any, meta_params: PyTree) -> tuple[tuple[Any, Aux], PyTree]:
    """Return the result of a gradient function after checking that it is `((loss, aux), grads)`."""
    is_nested = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], tuple)
    if not is_nested:
        raise ValueError(
            "grad_fn must return ((loss, aux), grads), as jax.value_and_grad(episode_fn, has_aux=True) does, but it "
            f"returned {jax.tree.structure(result)}"
        )
    value, grads = result
    loss, aux = checked_loss(value, "the first result of grad_fn")
    expected, got = jax.tree.structure(meta_params), jax.tree.structure(grads)
    if expected != got:
        raise ValueError(
            f"grad_fn returned a gradient of structure {got}, but the meta-parameters are {expected}; "
            "it must be `((loss, aux), grads)` with the gradient of its first argument"
        )
    return (loss, aux), grads
