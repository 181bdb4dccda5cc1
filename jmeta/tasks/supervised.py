"""Batches over all classes with global labels: ordinary supervised learning on the classes of meta_train.

This is what the baselines that pre-train and then fine-tune a head draw from.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Int, Shaped

from ..types import Batch, RandomKey
from .class_arrays import Augment, check_positive, check_rotations, checked_class_sizes, finish, rotate


def supervised(
    images: Shaped[Array | np.ndarray, "classes examples *shape"],
    *,
    batch_size: int,
    rotations: str = "none",
    class_sizes: Int[Array | np.ndarray, "_"] | None = None,
    class_balanced: bool = True,
    augment: Augment | None = None,
) -> Partial:
    """A sampler of batches over *all* classes with global labels, for pre-training (Baseline++ and its like).

    Args:
      images: as in `few_shot`.
      batch_size: examples in a batch, drawn with replacement.
      rotations: "none", or "as_classes": the label of class c turned by r times 90° is `c + r * classes`, so there are
        four times as many labels.
      class_sizes: as in `few_shot`.
      class_balanced: draw a class and then one of its examples; otherwise every example is equally likely. They differ
        only where classes differ in size.
      augment: as in `few_shot`.

    Returns:
      `sample(key) -> Batch`, with float32 `x` and int32 `y`.

    Raises:
      ValueError: for the same reasons as `few_shot`.

    Example:
      >>> import jax, numpy as np
      >>> sample = supervised(np.zeros((20, 10, 28, 28, 1), np.uint8), batch_size=32)
      >>> sample(jax.random.key(0)).y.shape
      (32,)

    Reference:
      Chen, Liu, Kira, Wang, Huang, "A Closer Look at Few-shot Classification", 2019, arXiv:1904.04232, section 3.2.
    """
    check_positive({"batch_size": batch_size})
    check_rotations(images, rotations, ("none", "as_classes"))
    sizes = checked_class_sizes(images, class_sizes, at_least=1)
    draw = _Supervised(batch_size, rotations, class_balanced, augment)
    return Partial(draw, jnp.asarray(images), jnp.asarray(sizes))


@dataclass(frozen=True)
class _Supervised:
    batch_size: int
    rotations: str
    class_balanced: bool
    augment: Augment | None

    def __call__(
        self, images: Shaped[Array, "classes examples *shape"], class_sizes: Int[Array, "classes"], key: RandomKey
    ) -> Batch:
        key_class, key_example, key_turns, key_augment = jax.random.split(key, 4)
        if self.class_balanced:
            classes = jax.random.randint(key_class, (self.batch_size,), 0, images.shape[0])
            examples = jax.random.randint(key_example, (self.batch_size,), 0, class_sizes[classes])
        else:
            ends = jnp.cumsum(class_sizes)
            drawn = jax.random.randint(key_class, (self.batch_size,), 0, ends[-1])
            classes = jnp.searchsorted(ends, drawn, side="right")
            examples = drawn - (ends - class_sizes)[classes]
        x, labels = images[classes, examples], classes
        if self.rotations == "as_classes":
            turns = jax.random.randint(key_turns, (self.batch_size,), 0, 4)
            x, labels = rotate(x, turns), classes + turns * images.shape[0]
        return Batch(finish(x, self.augment, key_augment), labels.astype(jnp.int32))
