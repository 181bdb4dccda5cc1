"""The contract of a sampler of tasks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..types import Batch, RandomKey, Task
from .claims import all_equal, assert_close, assert_same_avals, check_finite, claim

__all__ = ["Sampler", "check_sampler"]

Sampler = Callable[[RandomKey], Any]


def check_sampler(sample: Sampler, key: RandomKey, *, num_ways: int | None = None) -> None:
    """Check a sampler of tasks against its contract.

    A key determines the task, another key gives another task of the same shapes and dtypes, `jit` and `vmap` change
    nothing, and everything is finite. Every leaf of a batch has the examples on its first axis, a mask is one bool for
    each, and the inputs are not all of one value, as those of images are that were destroyed on their way.

    Args:
      sample: `key -> Task`.
      key: random key of the checked tasks.
      num_ways: for classification, the number of classes: `y` must be integers in `0..num_ways-1`.

    Raises:
      AssertionError: at the first clause that is violated, naming it.

    Example:
      >>> import jax, jmeta
      >>> check_sampler(jmeta.tasks.sinusoid(num_shots=5, num_queries=5), jax.random.key(0))
    """
    keys = jax.random.split(key, 3)
    tasks = [sample(key) for key in keys]
    assert_same_avals(tasks[0], tasks[1], "two keys give tasks of different shapes or dtypes")
    assert_close(sample(keys[0]), tasks[0], 0.0, "the same key gives another task")
    claim(not all_equal(tasks[0], tasks[1]), "two keys give the same task")
    assert_close(jax.jit(sample)(keys[0]), tasks[0], 1e-5, "jax.jit gives another task", atol=1e-5)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    assert_close(jax.jit(jax.vmap(sample))(keys), stacked, 1e-5, "jax.vmap over keys differs from a loop", atol=1e-5)
    check_finite(stacked, "the task")
    if isinstance(tasks[0], Task):
        for name in ("support", "query"):
            _check_batch(name, getattr(tasks[0], name))
        inputs = [leaf for batch in (stacked.support, stacked.query) for leaf in jax.tree.leaves(batch.x)]
        values = {float(value) for leaf in inputs if leaf.size for value in (leaf.min(), leaf.max())}
        claim(len(values) != 1, f"the inputs of all tasks are constant: every number is {min(values, default=0)}")
    if num_ways is not None:
        for name, labels in (("support", stacked.support.y), ("query", stacked.query.y)):
            is_label = jnp.issubdtype(labels.dtype, jnp.integer) and (labels >= 0).all() and (labels < num_ways).all()
            claim(bool(is_label), f"the {name}'s labels are not integers in 0..{num_ways - 1}")


def _check_batch(name: str, batch: Batch) -> None:
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    claim(
        len(counts) == 1 and counts != {()}, f"the {name}'s leaves have {sorted(counts)} examples on their first axes"
    )
    is_mask = batch.mask is None or (jnp.ndim(batch.mask) == 1 and batch.mask.dtype == bool)
    claim(is_mask, f"the {name}'s mask is not one bool for each example")
