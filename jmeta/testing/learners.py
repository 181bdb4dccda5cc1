"""The contract of a learner.

One clause needs no check: `adapt` cannot see the query, since only the support is passed to it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ..episodes import check_predictions, episode, plain_episode
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task
from .claims import assert_close, assert_same_avals, claim
from .gradients import check_gradients
from .samplers import Sampler

__all__ = ["check_learner"]


def check_learner(
    learner: Learner,
    loss_fn: LossFn,
    sample: Sampler,
    key: RandomKey,
    *,
    has_meta_params: bool = True,
    depends_on_order: bool = False,
    ignores_padding: bool = True,
    is_constant: Callable[[str], bool] = lambda _: False,
    rtol: float = 1e-4,
) -> None:
    """Check a learner against the contract.

    Shapes are correct; meta-parameters depend on no value of the task that initialises them. In the plain episode, and
    in the learner's own one if it has one, `jit` changes nothing and `vmap` over tasks equals a Python loop. In the
    training episode, `jmeta.episode(learner, loss_fn)`, a second call, after a meta-step, compiles nothing; the
    meta-gradient is finite and no leaf of it silently zero. In the plain episode the order of the support changes
    nothing, and masked padding, even if it holds NaN, changes neither the result nor the meta-gradient. Predictions are
    floating-point numbers, and labels are classes that the learner predicts.

    Args:
      learner: the learner to check.
      loss_fn: loss of its predictions.
      sample: `key -> Task`, tasks without masks that the learner can learn and be trained on; their `progress` is set.
      key: draws the tasks; different keys try different ones.
      has_meta_params: whether anything is meta-learned; if not, gradients are not checked.
      depends_on_order: whether the order of the support's examples may matter.
      ignores_padding: whether padding must change nothing; False for models with batch statistics, which include it,
        and for learners that draw random numbers of the support's shape.
      is_constant: whether the meta-parameter with this path may have a gradient of zero; statistics always may.
      rtol: relative tolerance of all comparisons.

    Raises:
      AssertionError: at the first clause that is violated, naming it.

    Example:
      >>> import jax, jmeta
      >>> sample = jmeta.tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=2)
      >>> learner = jmeta.learners.nearest_mean(num_ways=3)
      >>> check_learner(learner, jmeta.losses.cross_entropy, sample, jax.random.key(0), has_meta_params=False)
    """
    key_init, key_task, key_episode = jax.random.split(key, 3)
    tasks = [sample(key) for key in jax.random.split(key_task, 3)]
    tasks = [
        task._replace(progress=jnp.float32(i / 2)) for i, task in enumerate(tasks)
    ]  # start, middle and end of training
    meta_params = learner.init(key_init, tasks[0])
    _check_shapes(learner, loss_fn, meta_params, tasks[0], key_episode)
    _check_labels(learner, loss_fn, meta_params, tasks)
    _check_init_sees_shapes_only(learner, meta_params, tasks[0], key_init)
    plain = _Compiled(plain_episode(learner, loss_fn))
    training = plain if learner.episode is None else _Compiled(episode(learner, loss_fn))
    for each in [plain] if training is plain else [plain, training]:
        _check_transformations(each, meta_params, tasks, key_episode, rtol)
    if has_meta_params:
        _check_meta_gradient(training, meta_params, tasks, key_episode, is_constant)
    if not depends_on_order:
        _check_order(plain, meta_params, tasks[0], key_episode, rtol)
    if ignores_padding:
        _check_padding(plain, meta_params, tasks[0], key_episode, rtol)


class _Compiled:
    """An episode and its gradient, compiled once for all checks: compiling takes nearly all of their time."""

    def __init__(self, episode_fn: EpisodeFn):
        self.episode_fn, self.num_traces = episode_fn, 0

        def run(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[tuple[jax.Array, Aux], PyTree]:
            self.num_traces += 1
            return jax.value_and_grad(episode_fn, has_aux=True)(meta_params, task, key)

        self.value_and_grad = jax.jit(run)


def _check_shapes(learner: Learner, loss_fn: LossFn, meta_params: PyTree, task: Task, key: RandomKey) -> None:
    assert_same_avals(jax.eval_shape(learner.init, key, task), meta_params, "`init` changes under jax.eval_shape")
    adapted = jax.eval_shape(learner.adapt, meta_params, task.support, key)
    outputs = jax.eval_shape(learner.predict, meta_params, adapted, task.query.x, key)
    num_queries = jax.tree.leaves(task.query.x)[0].shape[0]
    for leaf in jax.tree.leaves(outputs):
        rows = leaf.shape[0] if leaf.shape else None
        claim(rows == num_queries, f"`predict` returns {rows} outputs for {num_queries} queries")
    assert_same_avals(
        jax.eval_shape(learner.predict, meta_params, adapted, task.query.x, None),
        outputs,
        "`predict` returns other shapes or dtypes without a key than with one",
    )
    loss, _ = jax.eval_shape(loss_fn, outputs, task.query)
    claim(loss.shape == (), f"the loss has shape {loss.shape}, it must be a scalar")


def _check_labels(learner: Learner, loss_fn: LossFn, meta_params: PyTree, tasks: list[Task]) -> None:
    try:
        check_predictions(learner, loss_fn, meta_params, jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks))
    except ValueError as error:
        raise AssertionError(str(error)) from error


def _check_init_sees_shapes_only(learner: Learner, meta_params: PyTree, task: Task, key: RandomKey) -> None:
    blank = jax.tree.map(jnp.zeros_like, task)
    assert_close(
        learner.init(key, blank), meta_params, 1e-6, "`init` depends on values of the task, not on its shapes alone"
    )


def _check_transformations(
    compiled: _Compiled, meta_params: PyTree, tasks: list[Task], key: RandomKey, rtol: float
) -> None:
    """Compare `jit` and `vmap` with plain calls."""
    losses = [compiled.value_and_grad(meta_params, task, key)[0] for task in tasks]
    alone = compiled.episode_fn(meta_params, tasks[0], key)
    assert_close(alone, losses[0], rtol, "the episode gives another result under jax.jit")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    batched = jax.jit(jax.vmap(compiled.episode_fn, in_axes=(None, 0, None)))  # one program, not many
    in_a_loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *losses)
    assert_close(
        batched(meta_params, stacked, key), in_a_loop, rtol, "jax.vmap over tasks differs from a loop over tasks"
    )


def _check_meta_gradient(
    compiled: _Compiled, meta_params: PyTree, tasks: list[Task], key: RandomKey, is_constant: Callable[[str], bool]
) -> None:
    grads = [compiled.value_and_grad(meta_params, task, key)[1] for task in tasks]
    stepped = optax.apply_updates(meta_params, jax.tree.map(lambda leaf: -1e-3 * leaf, grads[0]))
    compiled.value_and_grad(stepped, tasks[0], key)
    claim(
        compiled.num_traces == 1,
        f"calls with parameters before and after a meta-step compiled {compiled.num_traces} times: a meta-step changes "
        "the dtype or weak type of some meta-parameter; make every leaf an array with an explicit dtype in `init`",
    )
    assert_same_avals(grads[0], meta_params, "the meta-gradient has another structure than the meta-parameters")
    check_gradients(jax.tree.map(lambda *leaves: sum(jnp.abs(leaf).sum() for leaf in leaves), *grads), is_constant)


def _check_order(compiled: _Compiled, meta_params: PyTree, task: Task, key: RandomKey, rtol: float) -> None:
    backwards = task._replace(support=jax.tree.map(lambda leaf: leaf[::-1], task.support))
    found, expected = (compiled.value_and_grad(meta_params, each, key)[0] for each in (backwards, task))
    assert_close(
        found,
        expected,
        rtol,
        "the order of the support changes the result; if that is meant, declare `depends_on_order=True`",
    )


def _check_padding(compiled: _Compiled, meta_params: PyTree, task: Task, key: RandomKey, rtol: float) -> None:
    """Compare a task with the same one padded, away from biases of zero, which embed zeros as nothing."""
    away = jax.tree.map(lambda leaf: leaf + 0.1, meta_params)
    padded = task._replace(support=_padded(task.support, 3), query=_padded(task.query, 2))
    (result, grads), (expected, expected_grads) = (compiled.value_and_grad(away, each, key) for each in (padded, task))
    unless = "if that cannot be helped, declare `ignores_padding=False`"
    assert_close(result, expected, rtol, f"padding under the mask changes the result; {unless}")
    assert_close(grads, expected_grads, rtol, f"padding under the mask changes the meta-gradient; {unless}")


def _padded(batch: Batch, count: int) -> Batch:
    """Append masked examples to a batch: NaN, and -1 for labels."""

    def pad(leaf: jax.Array) -> jax.Array:
        filling = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else True if leaf.dtype == bool else -1
        return jnp.concatenate([leaf, jnp.full_like(leaf[:1], filling).repeat(count, 0)])

    real = jax.tree.leaves(batch.x)[0].shape[0]
    return Batch(*jax.tree.map(pad, (batch.x, batch.y)), mask=jnp.arange(real + count) < real)
