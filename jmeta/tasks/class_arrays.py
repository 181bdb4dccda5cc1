"""Arrays of images by class, `[classes, examples, ...]`: what the samplers over such arrays have in common.

Checks when a sampler is made; and what is done to sampled images only: turning, scaling, augmenting.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from ..types import RandomKey

Augment = Callable[[Float[Array, "*shape"], RandomKey], Float[Array, "*shape"]]


def group_by_class(
    x: Shaped[np.ndarray, "n *shape"], y: Int[np.ndarray, "n"]
) -> tuple[Shaped[np.ndarray, "classes examples *shape"], Int[np.ndarray, "classes"]]:
    """Arrange labelled examples as `few_shot` wants them: classes on the first axis.

    Args:
      x: examples.
      y: their labels: any integers. Classes are in increasing order of label.

    Returns:
      `(images, class_sizes)`; classes smaller than the largest one are padded with zeros, after their real examples.

    Example:
      >>> import numpy as np
      >>> images, class_sizes = group_by_class(np.arange(5.0), np.array([7, 3, 7, 7, 3]))
      >>> images.tolist(), class_sizes.tolist()
      ([[1.0, 4.0, 0.0], [0.0, 2.0, 3.0]], [2, 3])
    """
    labels, class_sizes = np.unique(y, return_counts=True)
    images = np.zeros((len(labels), class_sizes.max(initial=0), *x.shape[1:]), x.dtype)
    for row, label in zip(images, labels, strict=True):
        of_class = x[y == label]
        row[: len(of_class)] = of_class
    return images, class_sizes.astype(np.int32)


def rotate(
    images: Shaped[Array, "*batch side side channels"], quarter_turns: Int[Array, "*batch"]
) -> Shaped[Array, "*batch side side channels"]:
    """Turn each image counter-clockwise by its number of quarter turns, in 0..3.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([[1, 2], [3, 4]])[:, :, None]
      >>> rotate(image, jnp.array(1))[:, :, 0].tolist()
      [[2, 4], [1, 3]]
    """
    turns = quarter_turns[..., None, None, None]
    images = jnp.where(turns >= 2, images[..., ::-1, ::-1, :], images)
    return jnp.where(turns % 2 == 1, jnp.swapaxes(images, -3, -2)[..., ::-1, :, :], images)


def finish(x: Shaped[Array, "n *shape"], augment: Augment | None, key: RandomKey) -> Float[Array, "n *shape"]:
    """Sampled images as float32, uint8 scaled to [0, 1], each one augmented."""
    x = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x.astype(jnp.float32)
    if augment is None:
        return x
    augmented = jax.vmap(augment)(x, jax.random.split(key, x.shape[0]))
    if augmented.shape != x.shape or augmented.dtype != x.dtype:
        raise ValueError(
            f"augment turned an image of shape {x.shape[1:]} and dtype {x.dtype} into {augmented.shape[1:]} and "
            f"{augmented.dtype}; it must return an image of the same shape and dtype"
        )
    return augmented


def checked_class_sizes(
    images: Shaped[Array | np.ndarray, "classes examples *shape"],
    class_sizes: Int[Array | np.ndarray, "_"] | None,
    *,
    at_least: int,
) -> Int[np.ndarray, "classes"]:
    """How many examples of each class are real, as int32; refuses arrays that no sampler could use.

    Raises:
      ValueError: if shapes or dtypes are wrong, or a class has fewer than `at_least` examples.
    """
    if images.ndim < 2 or not images.shape[0]:
        raise ValueError(f"images have shape {images.shape}; expected [classes, examples, ...] with at least one class")
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images have dtype {images.dtype}; pass uint8 in 0..255, or floating point in [0, 1]")
    sizes = np.full(images.shape[0], images.shape[1]) if class_sizes is None else np.asarray(class_sizes)
    if len(sizes) != images.shape[0] or sizes.max() > images.shape[1]:
        raise ValueError(
            f"class_sizes has {len(sizes)} entries of at most {sizes.max()}, but images have shape {images.shape}; "
            "pass for each class how many of its examples are real"
        )
    if sizes.min() < at_least:
        small = np.flatnonzero(sizes < at_least)
        raise ValueError(
            f"a task needs {at_least} examples of each class (shots and queries), but {len(small)} classes have fewer, "
            f"class {small[0]} only {sizes[small[0]]}; lower num_shots or num_queries, or drop these classes"
        )
    return sizes.astype(np.int32)


def check_rotations(images: Shaped[Array | np.ndarray, "..."], rotations: str, known: tuple[str, ...]) -> None:
    """Refuse unknown `rotations`, and images that cannot be turned."""
    if rotations not in known:
        raise ValueError(f"rotations={rotations!r}; expected one of {', '.join(map(repr, known))}")
    if rotations != "none" and (images.ndim != 5 or images.shape[2] != images.shape[3]):
        raise ValueError(
            f"rotations={rotations!r} needs square images [classes, examples, side, side, channels], but they have "
            f"shape {images.shape}; pass rotations='none', or crop them"
        )


def check_positive(numbers: dict[str, int]) -> None:
    """Refuse numbers below 1, by name."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}={number}; expected at least 1")
