"""Random distortions of single images, drawn on the device when an image is sampled.

`few_shot(..., augment=distort(...))` applies an affine and elastic distortion of its own to every sampled image: a data
set of a few thousand rendered glyphs becomes one in which no image is ever seen twice.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.tasks.class_arrays import Augment
from jmeta.types import RandomKey

__all__ = ["distort", "bilinear"]


def distort(
    *,
    rotation: float = 0.0,
    log_scale: float = 0.0,
    shear: float = 0.0,
    translation: float = 0.0,
    elastic: float = 0.0,
    elastic_grid: int = 5,
) -> Augment:
    """Build a random affine map followed by a random smooth displacement, resampled bilinearly; outside is 0.

    A pixel at p, relative to the centre, takes its value from A p + t + u(p), where A = rotation · shear · scale and u
    is interpolated from normal displacements on a coarse grid. All zeros leave the image unchanged.

    Args:
      rotation: largest angle, in radians; uniform in ±rotation.
      log_scale: largest logarithm of the scale, uniform in ±log_scale, height and width independently.
      shear: largest shear, uniform in ±shear.
      translation: largest shift in pixels, uniform in ±translation, on both axes.
      elastic: standard deviation of the displacements, in pixels.
      elastic_grid: points of the coarse grid on each axis, at least 2: the larger, the finer the wrinkles.

    Returns:
      `(image, key) -> image` for one float image `[height, width, channels]`.

    Raises:
      ValueError: if a number is negative or `elastic_grid` is below 2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> augment = distort(rotation=0.3, elastic=1.0)
      >>> jax.jit(augment)(jnp.ones((28, 28, 1)), jax.random.key(0)).shape
      (28, 28, 1)

    Reference:
      Simard, Steinkraus, Platt, "Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis",
      2003, section 2. Here the displacements are smooth by interpolation, not by a Gaussian filter.
    """
    strengths = {
        "rotation": rotation,
        "log_scale": log_scale,
        "shear": shear,
        "translation": translation,
        "elastic": elastic,
    }
    for name, strength in strengths.items():
        if strength < 0:
            raise ValueError(f"{name}={strength} is negative; it is how far the distortion goes at most")
    if elastic_grid < 2:
        raise ValueError(f"elastic_grid={elastic_grid}; expected at least 2 points on each axis")
    return _Distort(rotation, log_scale, shear, translation, elastic, elastic_grid)


@dataclass(frozen=True)
class _Distort:
    rotation: float
    log_scale: float
    shear: float
    translation: float
    elastic: float
    elastic_grid: int

    def __call__(
        self, image: Float[Array, "height width channels"], key: RandomKey
    ) -> Float[Array, "height width channels"]:
        height, width, _ = image.shape
        key_affine, key_elastic = jax.random.split(key)
        u = jax.random.uniform(key_affine, (6,), minval=-1.0)
        cos, sin = jnp.cos(self.rotation * u[0]), jnp.sin(self.rotation * u[0])
        scale_y, scale_x = jnp.exp(self.log_scale * u[1]), jnp.exp(self.log_scale * u[2])
        y, x = jnp.arange(height)[:, None] - (height - 1) / 2, jnp.arange(width)[None, :] - (width - 1) / 2
        y, x = scale_y * jnp.broadcast_to(y, (height, width)), scale_x * jnp.broadcast_to(x, (height, width))
        x = x + self.shear * u[3] * y
        dy, dx = self.displacement(height, width, key_elastic)
        source_y = sin * x + cos * y + self.translation * u[4] + dy + (height - 1) / 2
        source_x = cos * x - sin * y + self.translation * u[5] + dx + (width - 1) / 2
        return bilinear(image, source_y, source_x)

    def displacement(self, height: int, width: int, key: RandomKey) -> Float[Array, "2 height width"]:
        coarse = self.elastic * jax.random.normal(key, (2, self.elastic_grid, self.elastic_grid))
        return jax.image.resize(coarse, (2, height, width), "cubic")


def bilinear(
    image: Float[Array, "height width channels"], y: Float[Array, "rows columns"], x: Float[Array, "rows columns"]
) -> Float[Array, "rows columns channels"]:
    """Return the image at real coordinates, in pixels from the centre of the first one; 0 outside.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([[0.0, 1.0]])[:, :, None]
      >>> float(bilinear(image, jnp.array([[0.0]]), jnp.array([[0.25]]))[0, 0, 0])
      0.25
    """
    height, width, channels = image.shape
    flat = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)  # a border of zeros stands for the outside
    y, x = jnp.clip(y + 1, 0, height + 1), jnp.clip(x + 1, 0, width + 1)
    top, left = jnp.minimum(jnp.floor(y), height), jnp.minimum(jnp.floor(x), width)
    below, right = (y - top)[..., None], (x - left)[..., None]
    corner = top.astype(jnp.int32) * (width + 2) + left.astype(jnp.int32)
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    lower = flat[corner + width + 2] * (1 - right) + flat[corner + width + 3] * right
    return upper * (1 - below) + lower * below
