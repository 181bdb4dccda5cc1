"""What every learner, sampler and estimator has to obey, as checks for our tests and for other people's methods.

A method written outside jmeta goes through `check_learner` in its own tests exactly as ours do. Each check raises
`AssertionError` with what was violated. `leaks` tells transductive from inductive and raises nothing.

One clause of the contract needs no check: `adapt` cannot see the query, since only the support is passed to it.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from .adaptation import path_name
from .episodes import count_tasks, episode, plain_episode
from .leaks import LeakReport as LeakReport
from .leaks import leaks as leaks
from .models import is_statistic
from .types import Batch, EpisodeFn, GradFn, Learner, LossFn, PyTree, RandomKey, Task

Sampler = Callable[[RandomKey], Any]


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
    """Run a learner through the contract.

    Shapes are what they should be; meta-parameters depend on no value of the task that initialises them. In the plain
    episode, and in the learner's own one if it has one, `jit` changes nothing and `vmap` over tasks is a Python loop.
    In the episode that trains it, `jmeta.episode(learner, loss_fn)`, a second call, after a meta-step, compiles
    nothing; the meta-gradient is finite and no leaf of it silently zero. In the plain episode the order of the support
    and padding under a mask change nothing.

    Args:
      learner: what is checked.
      loss_fn: judges its predictions.
      sample: `key -> Task`, tasks without masks that the learner can learn, and be trained on; their `progress` is set.
      key: different keys try different tasks.
      has_meta_params: whether anything is meta-learned; where not, gradients are not looked at.
      depends_on_order: declares that the order of the support's examples matters.
      ignores_padding: whether padding must change nothing; False for models with batch statistics, which count it in,
        and for learners that draw random numbers of the support's shape.
      is_constant: says of a meta-parameter's path whether its gradient may be zero; statistics always may.
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
    _check_init_sees_shapes_only(learner, meta_params, tasks[0], key_init)
    plain, training = plain_episode(learner, loss_fn), episode(learner, loss_fn)
    run = _check_transformations(plain, meta_params, tasks, key_episode, rtol)
    if learner.episode is not None:
        _check_transformations(training, meta_params, tasks, key_episode, rtol)
    if has_meta_params:
        _check_meta_gradient(training, meta_params, tasks, key_episode, is_constant)
    if not depends_on_order:
        _check_order(run, meta_params, tasks[0], key_episode, rtol)
    if ignores_padding:
        _check_padding(run, meta_params, tasks[0], key_episode, rtol)


def check_sampler(sample: Sampler, key: RandomKey, *, num_ways: int | None = None) -> None:
    """Run a sampler of tasks through its contract.

    A key determines the task, another key gives another task of the same shapes and dtypes, `jit` and `vmap` change
    nothing, and everything is finite.

    Args:
      sample: `key -> Task`.
      key: where the checked tasks come from.
      num_ways: for classification: `y` must be integers in `0..num_ways-1`.

    Raises:
      AssertionError: at the first clause that is violated, naming it.

    Example:
      >>> import jax, jmeta
      >>> check_sampler(jmeta.tasks.sinusoid(num_shots=5, num_queries=5), jax.random.key(0))
    """
    keys = jax.random.split(key, 3)
    tasks = [sample(key) for key in keys]
    _assert_same_avals(tasks[0], tasks[1], "two keys give tasks of different shapes or dtypes")
    _assert_close(sample(keys[0]), tasks[0], 0.0, "the same key gives another task")
    _claim(not _all_equal(tasks[0], tasks[1]), "two keys give the same task")
    _assert_close(jax.jit(sample)(keys[0]), tasks[0], 1e-5, "jax.jit gives another task", atol=1e-5)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    _assert_close(jax.vmap(sample)(keys), stacked, 1e-5, "jax.vmap over keys differs from a loop", atol=1e-5)
    _check_finite(stacked, "the task")
    if num_ways is not None:
        for name, labels in (("support", stacked.support.y), ("query", stacked.query.y)):
            is_label = jnp.issubdtype(labels.dtype, jnp.integer) and (labels >= 0).all() and (labels < num_ways).all()
            _claim(bool(is_label), f"the {name}'s labels are not integers in 0..{num_ways - 1}")


def check_estimator(
    estimator: Callable[[EpisodeFn], GradFn], episode_fn: EpisodeFn, meta_params: PyTree, task: PyTree, key: RandomKey
) -> None:
    """Run an estimator of meta-gradients through its contract.

    It returns what `jax.value_and_grad(episode_fn, has_aux=True)` does, in structure, shapes and dtypes; the same for
    the same key; finite; and nothing else under `jit`.

    Args:
      estimator: `episode_fn -> grad_fn`.
      episode_fn: what is differentiated.
      meta_params: where.
      task: on which task.
      key: for the episode and the estimator.

    Raises:
      AssertionError: at the first clause that is violated, naming it.

    Example:
      >>> import jax
      >>> episode_fn = lambda meta_params, task, key: ((meta_params - task) ** 2, {})
      >>> reverse = lambda episode_fn: jax.value_and_grad(episode_fn, has_aux=True)
      >>> check_estimator(reverse, episode_fn, 1.0, 3.0, jax.random.key(0))
    """
    grad_fn = estimator(episode_fn)
    expected = jax.eval_shape(jax.value_and_grad(episode_fn, has_aux=True), meta_params, task, key)
    got = grad_fn(meta_params, task, key)
    _assert_same_avals(got, expected, "the result differs in structure, shapes or dtypes from jax.value_and_grad's")
    _check_finite(got, "the estimate")
    _assert_close(grad_fn(meta_params, task, key), got, 0.0, "the same key gives another estimate")
    _assert_close(jax.jit(grad_fn)(meta_params, task, key), got, 1e-4, "jax.jit gives another estimate", atol=1e-6)


def check_meta_gradient(
    grad_fn: GradFn,
    meta_params: PyTree,
    tasks: PyTree,
    key: RandomKey,
    *,
    is_constant: Callable[[str], bool] = lambda _: False,
) -> None:
    """Say which meta-parameters a meta-gradient leaves out, or spoils.

    JAX gives zeros, and no error, where a path is cut by a `stop_gradient`, an unused parameter, a rounding or a
    learned rate that the loop never reads. This looks at every leaf, on several tasks.

    Args:
      grad_fn: `(meta_params, task, key) -> ((loss, aux), grads)`: of reverse or forward mode, for estimators by
        perturbation give noise where there is no path.
      meta_params: where; best away from symmetric points, such as a head of zeros.
      tasks: stacked tasks.
      key: for the episodes.
      is_constant: says of a meta-parameter's path whether its gradient may be zero; statistics always may.

    Raises:
      AssertionError: naming the leaves that are missing, not finite, or exactly zero on every task.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> episode_fn = lambda meta_params, task, key: ((meta_params["used"] - task) ** 2, {})
      >>> grad_fn = jax.value_and_grad(episode_fn, has_aux=True)
      >>> check_meta_gradient(grad_fn, {"used": 1.0, "unused": 1.0}, jnp.arange(3.0), jax.random.key(0))
      Traceback (most recent call last):
      AssertionError: the meta-gradient is exactly zero for ['unused']; if that is meant, say so with `is_constant`
    """
    keys = jax.random.split(key, count_tasks(tasks))
    _, grads = jax.jit(jax.vmap(grad_fn, in_axes=(None, 0, 0)))(meta_params, tasks, keys)
    expected = {path_name(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(meta_params)}
    got = {path_name(path): leaf.shape[1:] for path, leaf in jax.tree_util.tree_leaves_with_path(grads)}
    wrong = sorted(name for name in expected if got.get(name) != expected[name])
    _claim(not wrong, f"the meta-gradient has no leaf, or one of another shape, for {wrong}")
    _check_gradients(jax.tree.map(lambda leaf: jnp.abs(leaf).sum(), grads), is_constant)


def _check_shapes(learner: Learner, loss_fn: LossFn, meta_params: PyTree, task: Task, key: RandomKey) -> None:
    _assert_same_avals(jax.eval_shape(learner.init, key, task), meta_params, "`init` changes under jax.eval_shape")
    adapted = jax.eval_shape(learner.adapt, meta_params, task.support, key)
    outputs = jax.eval_shape(learner.predict, meta_params, adapted, task.query.x, key)
    num_queries = jax.tree.leaves(task.query.x)[0].shape[0]
    for leaf in jax.tree.leaves(outputs):
        rows = leaf.shape[0] if leaf.shape else None
        _claim(rows == num_queries, f"`predict` returns {rows} outputs for {num_queries} queries")
    _assert_same_avals(
        jax.eval_shape(learner.predict, meta_params, adapted, task.query.x, None),
        outputs,
        "`predict` returns other shapes or dtypes without a key than with one",
    )
    loss, _ = jax.eval_shape(loss_fn, outputs, task.query)
    _claim(loss.shape == (), f"the loss has shape {loss.shape}, it must be a scalar")


def _check_init_sees_shapes_only(learner: Learner, meta_params: PyTree, task: Task, key: RandomKey) -> None:
    blank = jax.tree.map(jnp.zeros_like, task)
    _assert_close(
        learner.init(key, blank), meta_params, 1e-6, "`init` depends on values of the task, not on its shapes alone"
    )


def _check_transformations(
    episode_fn: EpisodeFn, meta_params: PyTree, tasks: list[Task], key: RandomKey, rtol: float
) -> EpisodeFn:
    """Compare `jit` and `vmap` with plain calls; return the compiled episode."""
    run = jax.jit(lambda meta_params, task, key: episode_fn(meta_params, task, key))
    losses = [run(meta_params, task, key) for task in tasks]
    _assert_close(
        episode_fn(meta_params, tasks[0], key), losses[0], rtol, "the episode gives another result under jax.jit"
    )
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    together = jax.vmap(episode_fn, in_axes=(None, 0, None))(meta_params, stacked, key)
    in_a_loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *losses)
    _assert_close(together, in_a_loop, rtol, "jax.vmap over tasks differs from a loop over tasks")
    return run


def _check_meta_gradient(
    episode_fn: EpisodeFn, meta_params: PyTree, tasks: list[Task], key: RandomKey, is_constant: Callable[[str], bool]
) -> None:
    num_traces = 0

    @jax.jit
    def meta_gradient(meta_params: PyTree, task: Task, key: RandomKey) -> PyTree:
        nonlocal num_traces
        num_traces += 1
        return jax.grad(episode_fn, has_aux=True)(meta_params, task, key)[0]

    grads = [meta_gradient(meta_params, task, key) for task in tasks]
    meta_gradient(optax.apply_updates(meta_params, jax.tree.map(lambda leaf: -1e-3 * leaf, grads[0])), tasks[0], key)
    _claim(
        num_traces == 1,
        f"four calls compiled {num_traces} times: a meta-step changes the dtype or weak type of some meta-parameter; "
        "make every leaf an array with an explicit dtype in `init`",
    )
    _assert_same_avals(grads[0], meta_params, "the meta-gradient has another structure than the meta-parameters")
    _check_gradients(jax.tree.map(lambda *leaves: sum(jnp.abs(leaf).sum() for leaf in leaves), *grads), is_constant)


def _check_gradients(total: PyTree, is_constant: Callable[[str], bool]) -> None:
    """`total`: of every leaf the sum of absolute values over its numbers and over tasks."""
    _check_finite(total, "the meta-gradient")
    zero = [path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(total) if leaf == 0]
    silent = [name for name in zero if not is_statistic(name) and not is_constant(name)]
    _claim(not silent, f"the meta-gradient is exactly zero for {silent}; if that is meant, say so with `is_constant`")


def _check_order(run: EpisodeFn, meta_params: PyTree, task: Task, key: RandomKey, rtol: float) -> None:
    backwards = task._replace(support=jax.tree.map(lambda leaf: leaf[::-1], task.support))
    _assert_close(
        run(meta_params, backwards, key),
        run(meta_params, task, key),
        rtol,
        "the order of the support changes the result; if that is meant, declare `depends_on_order=True`",
    )


def _check_padding(run: EpisodeFn, meta_params: PyTree, task: Task, key: RandomKey, rtol: float) -> None:
    padded = task._replace(support=_padded(task.support, 3), query=_padded(task.query, 2))
    _assert_close(
        run(meta_params, padded, key),
        run(meta_params, task, key),
        rtol,
        "padding under the mask changes the result; if that cannot be helped, declare `ignores_padding=False`",
    )


def _padded(batch: Batch, count: int) -> Batch:
    """The batch with masked examples after it that look real, unlike any zeros."""
    pad = lambda leaf: jnp.concatenate([leaf, jnp.ones_like(leaf[:1]).repeat(count, 0)])  # noqa: E731
    real = jax.tree.leaves(batch.x)[0].shape[0]
    return Batch(*jax.tree.map(pad, (batch.x, batch.y)), mask=jnp.arange(real + count) < real)


def _claim(holds: bool, violation: str) -> None:
    if not holds:
        raise AssertionError(violation)


def _assert_close(got: PyTree, expected: PyTree, rtol: float, violation: str, atol: float | None = None) -> None:
    try:
        chex.assert_trees_all_close(got, expected, rtol=rtol, atol=rtol if atol is None else atol)
    except (AssertionError, ValueError) as error:
        raise AssertionError(f"{violation}:\n{error}") from error


def _assert_same_avals(got: PyTree, expected: PyTree, violation: str) -> None:
    avals = lambda tree: jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), tree)  # noqa: E731
    _claim(avals(got) == avals(expected), f"{violation}: {avals(got)} for {avals(expected)}")


def _all_equal(a: PyTree, b: PyTree) -> bool:
    return all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _check_finite(tree: PyTree, what: str) -> None:
    bad = [path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if not jnp.isfinite(leaf).all()]
    _claim(not bad, f"{what} is not finite: see the leaves {bad}")
