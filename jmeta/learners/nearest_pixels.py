"""Nearest pixels: the honest baseline of image completion, which looks at the nearest pixels that are seen.

A pixel at x is 1 with probability p(x) = (s m(x) + Σᵢ w(x − xᵢ) yᵢ) / (s + Σᵢ w(x − xᵢ)): the average of the pixels of
the context with weights w(d) = exp(−‖d‖ / ℓ), which the mean image m of meta-training joins as s further pixels. A
length scale ℓ well below a pixel's width makes it the nearest neighbour; and far from the context the mean image
remains. ℓ, s and m are all that is trained. A learner's gain over this number is the gain from knowing shapes.

Reference: Nadaraya, "On Estimating Regression", 1964, and Watson, "Smooth Regression Analysis", 1964, with a prior of
s pseudo-observations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..distributions import Bernoulli
from ..losses import real_examples
from ..tasks.class_arrays import check_positive
from ..tasks.completion import pixel_at
from ..types import Batch, Learner, PyTree, RandomKey, Task
from .grid_convolutional_neural_process import check_pixels
from .point_sets import pairs

__all__ = ["Pixels", "nearest_pixels"]

_SMALLEST = 1e-6  # probability that the mean image leaves to either value


class Pixels(NamedTuple):
    """The adapted state: positions `x` and brightness `y` of the context, and which of its points are real."""

    x: Array
    y: Array
    is_real: Array


def nearest_pixels(*, height: int, width: int) -> Learner:
    """Predict binary pixels by the nearest ones of the context, and by the mean image.

    Args:
      height, width: pixels of an image.

    Returns:
      A learner of tasks such as those of `tasks.completion` with a `threshold`, which predicts a `Bernoulli` for every
      number. Its meta-parameters are `"log_length_scale"`, log ℓ with ℓ in pixels, `"log_smoothing"`, log s, and
      `"mean_image"`, the log odds of m, `[height, width, numbers]`. Train it by `losses.negative_log_likelihood`.

    Raises:
      ValueError: if a number is not positive; at trace time if inputs are not `[points, 2]` in floating point.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> learner = nearest_pixels(height=1, width=3)
      >>> seen = jmeta.Batch(x=jnp.array([[-1.0, -1.0], [-1.0, 1.0]]), y=jnp.array([[0.0], [1.0]]))
      >>> unseen = jmeta.Batch(x=jnp.array([[-1.0, 0.0]]), y=jnp.array([[0.0]]))
      >>> meta_params = learner.init(None, jmeta.Task(seen, unseen))
      >>> adapted = learner.adapt(meta_params, seen, None)
      >>> learner.predict(meta_params, adapted, unseen.x, None).mean().round(3).tolist()
      [[0.5]]
    """
    check_positive({"height": height, "width": width})

    def init(key: RandomKey | None, task: Task) -> PyTree:
        del key
        numbers = pairs(task.support).shape[1] - check_pixels(task.support.x).shape[1]
        zero = jnp.zeros((), task.support.y.dtype)
        mean_image = jnp.zeros((height, width, numbers), zero.dtype)
        return {"log_length_scale": zero, "log_smoothing": zero, "mean_image": mean_image}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey | None) -> Pixels:
        del meta_params, key
        x, y = jnp.split(pairs(support), [2], axis=1)
        return Pixels(check_pixels(x), y, real_examples(support))

    def predict(meta_params: PyTree, adapted: Pixels, x: PyTree, key: RandomKey | None) -> Bernoulli:
        del key
        down, across = jnp.moveaxis(check_pixels(x)[:, None] - adapted.x[None], -1, 0)
        squares = jnp.square(down * (height - 1) / 2) + jnp.square(across * (width - 1) / 2)
        distances = jnp.sqrt(squares + 1e-12)  # in pixels; the derivative is finite at 0
        near = jnp.exp(-distances * jnp.exp(-meta_params["log_length_scale"]))
        near = jnp.where(adapted.is_real[None], near, 0)
        log_odds = meta_params["mean_image"].reshape(height * width, -1)[pixel_at(x, height, width)]
        smoothing = jnp.exp(meta_params["log_smoothing"])
        ones, zeros = (
            smoothing * (_SMALLEST + jax.nn.sigmoid(sign * log_odds)) + jnp.matmul(near, seen, precision="highest")
            for sign, seen in ((1, adapted.y), (-1, 1 - adapted.y))
        )
        return Bernoulli(jnp.log(ones) - jnp.log(zeros))

    return Learner(init, adapt, predict)
