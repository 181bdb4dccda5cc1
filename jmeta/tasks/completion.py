"""Completion of images: regression from the positions of pixels to their brightness, an image a task.

The context is the pixels that are seen, and the targets are the others. A task's images may come from anywhere: an
array of glyphs, of Omniglot's drawings, of a user's own.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Shaped

from ..types import Batch, RandomKey, Task
from .class_arrays import Augment, check_values, finish, is_scaled
from .gaussian_process import Count, count_ends, first_points

__all__ = ["completion", "pixel_positions", "pixel_at"]


def completion(
    images: Shaped[Array | np.ndarray, "images height width channels"],
    *,
    num_shots: Count,
    num_queries: int | None = None,
    threshold: float | None = None,
    scale: bool | None = None,
    augment: Augment | None = None,
) -> Partial:
    """Build a sampler of images to complete, all of them equally likely.

    Args:
      images: uint8 or floating point; `protocols.glyphs.load(None).meta_train.examples` for instance.
      num_shots: pixels that are seen, a random subset; a range is drawn from uniformly, both ends included, and padded
        and masked.
      num_queries: pixels to predict, drawn among those that are not seen; `None` for all of those.
      threshold: makes images binary: 1 for a brightness of at least this, else 0; `None` leaves them grey.
      scale: as in `few_shot`: unsigned integers of images are divided by their largest value.
      augment: as in `few_shot`, before the threshold.

    Returns:
      `sample(key) -> Task`, with the positions of pixels as `x`, `[pixels, 2]` (see `pixel_positions`), and their
      brightness as `y`, `[pixels, channels]`. Masks are `None` where the number of pixels is fixed.

    Raises:
      ValueError: if `images` are not such an array of at least one image, they are integers that `scale` leaves as they
        are, a number of pixels is out of range, or no pixel remains to predict.

    Example:
      >>> import jax, numpy as np
      >>> from jmeta import tasks
      >>> images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 1), np.uint8)
      >>> task = tasks.completion(images, num_shots=(4, 32), threshold=0.5)(jax.random.key(0))
      >>> task.support.x.shape, task.query.y.shape, int(task.support.mask.sum() + task.query.mask.sum())
      ((32, 2), (60, 1), 64)

    Reference:
      Garnelo et al., "Conditional Neural Processes", 2018, arXiv:1807.01613, section 4.2.
    """
    if np.ndim(images) != 4 or not np.size(images):
        raise ValueError(f"images have shape {np.shape(images)}; expected [images, height, width, channels]")
    check_values(images, np.shape(images)[1:], scale)
    if not (jnp.issubdtype(images.dtype, jnp.floating) or is_scaled(images.dtype, np.shape(images)[1:], scale)):
        raise ValueError(f"images have dtype {images.dtype}; pass brightness in floating point, or uint8 to be scaled")
    fewest, most = count_ends("num_shots", num_shots, 0)
    num_pixels = images.shape[1] * images.shape[2]
    if num_queries is not None:
        count_ends("num_queries", num_queries, 1)
    if most + (1 if num_queries is None else num_queries) > num_pixels:
        raise ValueError(
            f"num_shots={num_shots} and num_queries={num_queries}, but an image has {num_pixels} pixels; a pixel is "
            "seen or predicted, not both, so lower one of them"
        )
    return Partial(_Completion((fewest, most), num_queries, threshold, scale, augment), jnp.asarray(images))


@dataclass(frozen=True)
class _Completion:
    num_shots: tuple[int, int]
    num_queries: int | None
    threshold: float | None
    scale: bool | None
    augment: Augment | None

    def __call__(self, images: Shaped[Array, "images height width channels"], key: RandomKey) -> Task:
        key_image, key_augment, key_pixels, key_shots = jax.random.split(key, 4)
        chosen = jax.random.randint(key_image, (1,), 0, len(images))
        _, height, width, channels = images.shape
        y = finish(images[chosen], self.scale, self.augment, key_augment).reshape(height * width, channels)
        y = y if self.threshold is None else (y >= self.threshold).astype(y.dtype)
        order = jax.random.permutation(key_pixels, height * width)
        x, y = pixel_positions(height, width).astype(y.dtype)[order], y[order]
        fewest, most = self.num_shots
        num_shots = jax.random.randint(key_shots, (), fewest, most + 1)
        support = first_points(x[:most], y[:most], num_shots, self.num_shots)
        if self.num_queries is not None:
            return Task(support, Batch(x[most : most + self.num_queries], y[most : most + self.num_queries]))
        others = Batch(x[fewest:], y[fewest:])
        if fewest == most:
            return Task(support, others)
        is_other = jnp.arange(fewest, height * width) >= num_shots
        blank = jax.tree.map(lambda leaf: jnp.where(is_other[:, None], leaf, 0), others)
        return Task(support, blank._replace(mask=is_other))


def pixel_positions(height: int, width: int) -> Float[Array, "pixels 2"]:
    """Return the positions (down, across) of all pixels, row by row, in [-1, 1]: -1 is the first row or column.

    Example:
      >>> pixel_positions(2, 3).tolist()
      [[-1.0, -1.0], [-1.0, 0.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    down, across = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    return jnp.stack([down.reshape(-1), across.reshape(-1)], 1)


def pixel_at(x: Float[Array, "points 2"], height: int, width: int) -> Int[Array, "points"]:
    """Return the index of the pixel nearest to each position, the inverse of `pixel_positions`.

    Example:
      >>> pixel_at(pixel_positions(2, 3), 2, 3).tolist()
      [0, 1, 2, 3, 4, 5]
    """
    row, column = (
        jnp.clip(jnp.round((positions + 1) / 2 * (size - 1)), 0, size - 1).astype(jnp.int32)
        for positions, size in zip(x.T, (height, width), strict=True)
    )
    return row * width + column
