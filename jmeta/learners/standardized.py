"""Rows of numbers in a form that does not depend on units: columns standardized by the support, in random order.

Tables differ in their units, in the number of their columns and in their order, and none of these should matter.
This wrapper lets any learner see tables as if they were alike. An ensemble of it (`ensembled`) is over orders of the
columns, as that of a prior-fitted tabular classifier.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..episodes import episode as episode_of
from ..losses import real_examples, without_padding
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task

__all__ = ["Columns", "StandardizedState", "standardized"]


class Columns(NamedTuple):
    """What a support says of its columns, `[features]` each.

    Attributes:
      start: the least value.
      extent: the greatest minus the least value, 1 where they are equal.
      mean: of the values from which `start` is subtracted and which are divided by `extent`.
      scale: the factor to standardize them with; 0 for a constant column.
      order: which column stands in each place.
    """

    start: Array
    extent: Array
    mean: Array
    scale: Array
    order: Int[Array, "features"]


class StandardizedState(NamedTuple):
    """The adapted state: `columns` of the support, and what the learner inside `adapted` to them."""

    columns: Columns
    adapted: PyTree


def standardized(learner: Learner) -> Learner:
    """Let a learner see rows whose columns have mean 0 and variance 1 in the support, and a random order.

    A value z in such units becomes asinh(z), so that a value far outside does not matter more than all others. A column
    that is constant in the support becomes 0, and the others are multiplied by √(features / columns that vary). So a
    table of few columns may be padded with any constants, at any place. A learner that is meta-trained so treats all
    columns alike.

    Args:
      learner: a learner of inputs `[examples, features]`.

    Returns:
      A learner with the meta-parameters of `learner`, whose adapted state is a `StandardizedState`. It is meta-trained
      as `learner` is.

    Raises:
      ValueError: at trace time if inputs are not `[examples, features]`.

    Example:
      >>> import jax
      >>> from jmeta import learners, tasks
      >>> learner = standardized(learners.nearest_mean(num_ways=3))
      >>> task = tasks.gaussian_blobs(num_ways=3, num_shots=4, num_queries=2)(jax.random.key(0))
      >>> adapted = learner.adapt({}, task.support, jax.random.key(1))
      >>> logits = learner.predict({}, adapted, task.query.x, None)
      >>> in_other_units = task.support._replace(x=1000 * task.support.x + 7)
      >>> adapted = learner.adapt({}, in_other_units, jax.random.key(1))
      >>> bool(abs(learner.predict({}, adapted, 1000 * task.query.x + 7, None) - logits).max() < 1e-3)
      True

    Reference:
      Hollmann, Müller, Eggensperger, Hutter, "TabPFN: A Transformer That Solves Small Tabular Classification Problems
      in a Second", 2022, arXiv:2207.01848, appendix. Differs: orders are permutations, not rotations; tails are
      compressed by asinh, and there is no power transform.
    """

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> StandardizedState:
        key_order, key_adapt = jax.random.split(key)
        columns = _describe(support, key_order)
        return StandardizedState(columns, learner.adapt(meta_params, _seen(columns, support), key_adapt))

    def predict(meta_params: PyTree, adapted: StandardizedState, x: PyTree, key: RandomKey | None) -> PyTree:
        return learner.predict(meta_params, adapted.adapted, _in_units(adapted.columns, x), key)

    def episode(loss_fn: LossFn) -> EpisodeFn:
        inner = episode_of(learner, loss_fn)

        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
            key_order, key_inner = jax.random.split(key)
            columns = _describe(task.support, key_order)
            seen = task._replace(support=_seen(columns, task.support), query=_seen(columns, task.query))
            return inner(meta_params, seen, key_inner)

        return episode_fn

    own: Callable[[LossFn], EpisodeFn] | None = None if learner.episode is None else episode
    return Learner(learner.init, adapt, predict, own)


def _describe(support: Batch, key: RandomKey) -> Columns:
    x = without_padding(support).x
    _check(x)
    is_real = real_examples(support)[:, None]
    count = jnp.maximum(is_real.sum(), 1).astype(x.dtype)
    start = jnp.where(is_real, x, jnp.inf).min(0, initial=jnp.inf)
    extent = jnp.where(is_real, x, -jnp.inf).max(0, initial=-jnp.inf) - start
    varies = jnp.isfinite(extent) & (extent > 0)
    start, extent = jnp.where(jnp.isfinite(start), start, 0.0), jnp.where(varies, extent, 1.0)
    within = jnp.where(is_real, (x - start[None]) / extent[None], 0.0)
    mean = within.sum(0) / count
    variance = jnp.where(is_real, jnp.square(within - mean[None]), 0.0).sum(0) / count
    scale = jnp.where(varies, 1 / jnp.sqrt(jnp.where(varies, variance, 1.0)), 0.0)
    return Columns(start, extent, mean, scale, jax.random.permutation(key, jnp.arange(len(start), dtype=jnp.int32)))


def _in_units(columns: Columns, x: Float[Array, "examples features"]) -> Float[Array, "examples features"]:
    _check(x)
    within = (x - columns.start[None]) / columns.extent[None]
    standard = jnp.arcsinh((within - columns.mean[None]) * columns.scale[None])
    num_varying = jnp.maximum((columns.scale > 0).sum(), 1).astype(x.dtype)
    return (standard * jnp.sqrt(x.shape[1] / num_varying))[:, columns.order]


def _seen(columns: Columns, batch: Batch) -> Batch:
    return batch._replace(x=_in_units(columns, without_padding(batch).x))


def _check(x: PyTree) -> None:
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        found = type(x).__name__ if shape is None else f"{x.dtype}{list(shape)}"
        raise ValueError(f"expected rows of floating-point numbers, [examples, features], but inputs are {found}")
