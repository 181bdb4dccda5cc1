"""A mixture of samplers: every task comes from one of them, and nothing in the task says from which."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ..types import PyTree, RandomKey
from .few_shot import as_partial

__all__ = ["mixture"]


def mixture(*samples: Callable[[RandomKey], PyTree]) -> Partial:
    """Build a sampler that chooses one of several samplers for every task, each with the same probability.

    Args:
      samples: `key -> task`, at least one, whose tasks have the same shapes and dtypes.

    Raises:
      ValueError: if there is no sampler, or if shapes or dtypes of their tasks differ.

    Example:
      >>> import jax
      >>> from jmeta import tasks
      >>> sizes = dict(num_shots=5, num_queries=10, noise=0.1)
      >>> smooth = tasks.gaussian_process(tasks.kernels.rbf(length_scale=0.25), **sizes)
      >>> sample = tasks.mixture(smooth, tasks.sawtooth(**sizes))
      >>> sample(jax.random.key(0)).support.x.shape
      (5, 1)
    """
    if not samples:
        raise ValueError("there are no samplers to choose from; pass at least one")
    shapes = [jax.eval_shape(sample, jax.random.key(0)) for sample in samples]
    for i, shape in enumerate(shapes):
        if _described(shape) != _described(shapes[0]):
            raise ValueError(
                f"the tasks of sampler {i} are {_described(shape)}, those of the first {_described(shapes[0])}; give "
                "all samplers the same numbers of points"
            )
    return Partial(_one_of, tuple(as_partial(sample) for sample in samples))


def _one_of(samples: tuple[Partial, ...], key: RandomKey) -> PyTree:
    key_choice, *keys = jax.random.split(key, 1 + len(samples))
    chosen = jax.random.randint(key_choice, (), 0, len(samples))
    drawn = [sample(key) for sample, key in zip(samples, keys, strict=True)]  # under vmap a switch draws all, too
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[chosen], *drawn)


def _described(shapes: PyTree) -> str:
    leaves, structure = jax.tree.flatten(shapes)
    return f"{[f'{leaf.dtype}{list(leaf.shape)}' for leaf in leaves]} in {structure}"
