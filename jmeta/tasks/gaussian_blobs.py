"""Few-shot classification of Gaussian blobs: tasks without data, whose best accuracy is known.

Tests and first experiments use them: a class is a Gaussian of unit variance around a random centre.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ..bounds import is_real
from ..types import Batch, RandomKey, Task
from .class_arrays import check_positive

__all__ = ["gaussian_blobs"]


def gaussian_blobs(
    *, num_ways: int, num_shots: int, num_queries: int, num_features: int = 8, spread: float = 3.0
) -> Partial:
    """Build a sampler of N-way K-shot tasks whose classes are Gaussian blobs.

    The centre of class k is cₖ ~ N(0, spread² I), and its examples are x ~ N(cₖ, I). Two centres are about
    spread √(2 num_features) apart.

    Args:
      num_ways: classes in a task.
      num_shots: support examples of each class.
      num_queries: query examples of each class.
      num_features: dimension of x.
      spread: standard deviation of the centres in units of a blob's own, at least 0. At 0 nothing can be learned.

    Returns:
      `sample(key) -> Task`, with float32 `x` of shape `[examples, num_features]` and int32 `y`, in random order.

    Raises:
      ValueError: if a number is not positive or `spread` is negative.

    Example:
      >>> import jax
      >>> task = gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> task.support.x.shape, sorted(task.support.y.tolist())
      ((5, 8), [0, 1, 2, 3, 4])
    """
    check_positive(
        {"num_ways": num_ways, "num_shots": num_shots, "num_queries": num_queries, "num_features": num_features}
    )
    if not is_real(spread, least=0):
        raise ValueError(f"spread={spread}; expected a standard deviation, at least 0")
    return Partial(_GaussianBlobs(num_ways, num_shots, num_queries, num_features, spread))


@dataclass(frozen=True)
class _GaussianBlobs:
    num_ways: int
    num_shots: int
    num_queries: int
    num_features: int
    spread: float

    def __call__(self, key: RandomKey) -> Task:
        key_centres, key_support, key_query = jax.random.split(key, 3)
        centres = self.spread * jax.random.normal(key_centres, (self.num_ways, self.num_features), jnp.float32)

        def draw(num_each: int, key: RandomKey) -> Batch:
            key_order, key_noise = jax.random.split(key)
            labels = jax.random.permutation(key_order, self.num_ways * num_each) // num_each
            noise = jax.random.normal(key_noise, (self.num_ways * num_each, self.num_features), jnp.float32)
            return Batch(centres[labels] + noise, labels.astype(jnp.int32))

        return Task(draw(self.num_shots, key_support), draw(self.num_queries, key_query))
