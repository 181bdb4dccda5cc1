"""Checks of meta-gradients and of the estimators that compute them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..batching import count_tasks
from ..models import is_statistic
from ..params import path_name
from ..types import EpisodeFn, GradFn, PyTree, RandomKey
from .claims import assert_close, assert_same_avals, check_finite, claim

__all__ = ["check_estimator", "check_meta_gradient", "check_gradients"]


def check_estimator(
    estimator: Callable[[EpisodeFn], GradFn], episode_fn: EpisodeFn, meta_params: PyTree, task: PyTree, key: RandomKey
) -> None:
    """Check an estimator of meta-gradients against its contract.

    Its result has the structure, shapes and dtypes of `jax.value_and_grad(episode_fn, has_aux=True)`'s, is finite, and
    is the same for the same key and under `jit`.

    Args:
      estimator: `episode_fn -> grad_fn`.
      episode_fn: the episode function to differentiate.
      meta_params: the point at which to differentiate.
      task: the episode's task.
      key: random key of the episode and the estimator.

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
    assert_same_avals(got, expected, "the result differs in structure, shapes or dtypes from jax.value_and_grad's")
    check_finite(got, "the estimate")
    assert_close(grad_fn(meta_params, task, key), got, 0.0, "the same key gives another estimate")
    assert_close(jax.jit(grad_fn)(meta_params, task, key), got, 1e-4, "jax.jit gives another estimate", atol=1e-6)


def check_meta_gradient(
    grad_fn: GradFn,
    meta_params: PyTree,
    tasks: PyTree,
    key: RandomKey,
    *,
    is_constant: Callable[[str], bool] = lambda _: False,
) -> None:
    """Check that every meta-parameter gets a finite meta-gradient that is not zero.

    JAX returns zeros, and no error, where a path is cut by a `stop_gradient`, an unused parameter, a rounding or a
    learned rate that the loop never reads. This check looks at every leaf, on several tasks.

    Args:
      grad_fn: `(meta_params, task, key) -> ((loss, aux), grads)`, by reverse or forward mode: estimators that perturb
        give noise where there is no path.
      meta_params: the point at which to differentiate, best away from symmetric ones, such as a head of zeros.
      tasks: stacked tasks.
      key: random key of the episodes.
      is_constant: maps a meta-parameter's path to whether its gradient may be zero; that of statistics always may.

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
    claim(not wrong, f"the meta-gradient has no leaf, or one of another shape, for {wrong}")
    check_gradients(jax.tree.map(lambda leaf: jnp.abs(leaf).sum(), grads), is_constant)


def check_gradients(total: PyTree, is_constant: Callable[[str], bool]) -> None:
    """Raise if a leaf is not finite, or exactly zero.

    Args:
      total: for every leaf, the sum of absolute values over its entries and over tasks.
      is_constant: maps a leaf's path to whether it may be zero.
    """
    check_finite(total, "the meta-gradient")
    zero = [path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(total) if leaf == 0]
    silent = [name for name in zero if not is_statistic(name) and not is_constant(name)]
    claim(not silent, f"the meta-gradient is exactly zero for {silent}; if that is meant, say so with `is_constant`")
