"""Batches over all classes with global labels: ordinary supervised learning on the classes of meta_train.

Baselines that pre-train a network and then fine-tune a head draw from them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Int, Shaped

from ..types import Batch, PyTree, RandomKey
from .class_arrays import (
    Augment,
    ClassArrays,
    as_class_arrays,
    check_positive,
    check_rotations,
    finish_all,
    rotate,
)

__all__ = ["supervised"]


def supervised(
    data: PyTree | ClassArrays,
    *,
    batch_size: int,
    rotations: str = "none",
    class_sizes: Shaped[Array | np.ndarray, "..."] | None = None,
    class_balanced: bool = True,
    scale: bool | None = None,
    augment: Augment | None = None,
) -> Partial:
    """Build a sampler of batches over *all* classes with global labels, for pre-training (Baseline++ and similar).

    Args:
      data: as in `few_shot`.
      batch_size: examples in a batch, drawn with replacement.
      rotations: "none", or "as_classes": the label of class c turned by r times 90° is `c + r * classes`, so there are
        four times as many labels.
      class_sizes: as in `few_shot`.
      class_balanced: whether a class is drawn and then one of its examples; otherwise every example is equally likely.
        This matters only where classes differ in size.
      scale: as in `few_shot`.
      augment: as in `few_shot`.

    Returns:
      `sample(key) -> Batch`, with `x` as the data and int32 `y`.

    Raises:
      ValueError: for the same reasons as `few_shot`; or if a class has no example.

    Example:
      >>> import jax, numpy as np
      >>> sample = supervised(np.zeros((20, 10, 28, 28, 1), np.uint8), batch_size=32)
      >>> sample(jax.random.key(0)).y.shape
      (32,)

    Reference:
      Chen, Liu, Kira, Wang, Huang, "A Closer Look at Few-shot Classification", 2019, arXiv:1904.04232, section 3.2.
    """
    check_positive({"batch_size": batch_size})
    x, sizes = as_class_arrays(data, class_sizes, scale)
    check_rotations(x, rotations, ("none", "as_classes"))
    if not sizes.all():
        raise ValueError(f"class {sizes.argmin()} has no example; drop it, since each class is a label")
    draw = _Supervised(batch_size, rotations, class_balanced, scale, augment)
    return Partial(draw, *jax.tree.map(jnp.asarray, (x, sizes)))


@dataclass(frozen=True)
class _Supervised:
    batch_size: int
    rotations: str
    class_balanced: bool
    scale: bool | None
    augment: Augment | None

    def __call__(self, x: PyTree, class_sizes: Int[Array, "classes"], key: RandomKey) -> Batch:
        key_class, key_example, key_turns, key_augment = jax.random.split(key, 4)
        ends = jnp.cumsum(class_sizes)
        if self.class_balanced:
            classes = jax.random.randint(key_class, (self.batch_size,), 0, len(class_sizes))
            examples = jax.random.randint(key_example, (self.batch_size,), 0, class_sizes[classes])
            rows = (ends - class_sizes)[classes] + examples
        else:
            rows = jax.random.randint(key_class, (self.batch_size,), 0, ends[-1])
            classes = jnp.searchsorted(ends, rows, side="right")
        x, labels = jax.tree.map(lambda leaf: leaf[rows], x), classes
        if self.rotations == "as_classes":
            turns = jax.random.randint(key_turns, (self.batch_size,), 0, 4)
            x = jax.tree.map(lambda leaf: rotate(leaf, turns), x)
            labels = classes + turns * len(class_sizes)
        return Batch(finish_all(x, self.scale, self.augment, key_augment), labels.astype(jnp.int32))
