"""Convolutional conditional neural processes on a grid: images are completed by a network that moves with them.

Where all points are the pixels of an image, the set convolution of `convolutional_neural_process` is one of images. Let
m be the number of context points at each pixel and z the sum of their targets. With a kernel k > 0, the density is
h₀ = k ∗ m and the smoothed targets are h₁ = (k ∗ z) / (h₀ + ε). A convolutional network maps (h₀, h₁) to features of
each pixel, from which the target there is predicted. The density says how much of the context is near; it is zero where
there is none.

Reference: Gordon, Bruinsma, Foong, Requeima, Dubois, Turner, "Convolutional Conditional Neural Processes", 2020,
arXiv:1910.13556, section 4, algorithm 1 (on the grid). Differs from the paper: all channels share a kernel, which is
exp of its parameters and starts as a Gaussian with a deviation of one pixel; points of the context are counted, so that
a pixel may be there twice; and the loss counts the points of the query only.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..losses import real_examples
from ..models.primitives import convolution
from ..tasks.class_arrays import check_positive
from ..tasks.completion import pixel_at, pixel_positions
from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from .point_sets import check_no_statistics, check_rows, pairs

__all__ = ["grid_convolutional_neural_process", "check_pixels"]

_EPSILON = 1e-8  # a density below it counts as none


def grid_convolutional_neural_process(
    network: Model, decoder: Model, *, height: int, width: int, kernel_size: int = 5
) -> Learner:
    """Predict pixels from features on the grid of an image, which a convolutional network computes from the context.

    Args:
      network: maps `[1, height, width, 1 + numbers]`, density and smoothed targets, to `[1, height, width, features]`,
        such as `models.conv2d([32, 32, 32, 32])`. Predictions move with the context, away from the image's edges, if it
        is equivariant to translations.
      decoder: maps `[points, features]`, the features of each pixel, to predictions, such as
        `models.bernoulli_outputs(models.mlp([1]))` for binary pixels.
      height, width: pixels of an image.
      kernel_size: height and width of the kernel that smooths the context, odd.

    Returns:
      A learner of tasks such as those of `tasks.completion`: inputs are positions `[points, 2]` in [-1, 1], rounded to
      the nearest pixel. The adapted state is the `[height, width, features]` array. The meta-parameters are
      `{"network": ..., "decoder": ..., "log_kernel": ...}`. Train it by `losses.negative_log_likelihood`.

    Raises:
      ValueError: if a number is not positive, `kernel_size` is even, or a network stores statistics of norm layers; at
        trace time if inputs are not `[points, 2]` in floating point, or the network's outputs are not those above.

    Example:
      >>> import jax, numpy as np
      >>> from jmeta import learners, models, tasks
      >>> network, decoder = models.conv2d([8, 4]), models.bernoulli_outputs(models.mlp([1]))
      >>> learner = learners.grid_convolutional_neural_process(network, decoder, height=8, width=8)
      >>> images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 1), np.uint8)
      >>> task = tasks.completion(images, num_shots=16, threshold=0.5)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = learner.adapt(meta_params, task.support, jax.random.key(2))
      >>> adapted.shape, learner.predict(meta_params, adapted, task.query.x, None).logits.shape
      ((8, 8, 4), (48, 1))

    Reference:
      Gordon et al., "Convolutional Conditional Neural Processes", 2020, arXiv:1910.13556, algorithm 1.
    """
    check_no_statistics(network=network, decoder=decoder)
    check_positive({"height": height, "width": width, "kernel_size": kernel_size})
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size}; expected an odd number, so that a kernel has a middle")

    def init(key: RandomKey, task: Task) -> PyTree:
        key_network, key_decoder = jax.random.split(key)
        check_pixels(task.support.x)
        num_channels = pairs(task.support).shape[1] - 1  # a density instead of x, then the numbers of y
        on_grid = jnp.zeros((height, width, num_channels), task.support.y.dtype)
        params = network.init(key_network, on_grid[None])
        features = jax.eval_shape(lambda params: _features(network, params, on_grid, None), params)
        at_query = jnp.zeros((task.query.x.shape[0], features.shape[-1]), features.dtype)
        away = pixel_positions(kernel_size, kernel_size) * (kernel_size // 2)  # in pixels
        log_kernel = -0.5 * jnp.square(away).sum(1).reshape(kernel_size, kernel_size)
        return {"network": params, "decoder": decoder.init(key_decoder, at_query), "log_kernel": log_kernel}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> Float[Array, "height width features"]:
        x, y = jnp.split(pairs(support), [2], axis=1)
        index = pixel_at(check_pixels(x), height, width)
        is_real = real_examples(support).astype(y.dtype)
        values = jnp.concatenate([is_real[:, None], y], 1)  # padding is zeros
        on_grid = jnp.zeros((height * width, values.shape[1]), y.dtype).at[index].add(values)
        smoothed = _smooth(meta_params["log_kernel"], on_grid.reshape(height, width, -1))
        density, sums = jnp.split(smoothed, [1], axis=-1)
        on_grid = jnp.concatenate([density, sums / (density + _EPSILON)], -1)
        return _features(network, meta_params["network"], on_grid, key)

    def predict(meta_params: PyTree, adapted: Array, x: PyTree, key: RandomKey | None) -> PyTree:
        features = adapted.reshape(height * width, adapted.shape[-1])[pixel_at(check_pixels(x), height, width)]
        return decoder.apply(meta_params["decoder"], features, key)

    return Learner(init, adapt, predict)


def check_pixels(x: PyTree) -> Float[Array, "points 2"]:
    """Return inputs after checking that they are positions in an image.

    Raises:
      ValueError: if they are not `[points, 2]` in floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> check_pixels(jnp.zeros((3, 1)))
      Traceback (most recent call last):
      ...
      ValueError: positions of pixels are [points, 2], but these inputs have 1 features; see tasks.completion
    """
    x = check_rows("inputs [points, 2]", x)
    if x.shape[1] != 2:
        raise ValueError(
            f"positions of pixels are [points, 2], but these inputs have {x.shape[1]} features; see tasks.completion"
        )
    return x


def _smooth(
    log_kernel: Float[Array, "size size"], on_grid: Float[Array, "height width channels"]
) -> Float[Array, "height width channels"]:
    """Convolve every channel with exp of `log_kernel`, with zeros beyond the edges."""
    images = jnp.moveaxis(on_grid, -1, 0)[..., None]
    kernel = jnp.exp(log_kernel).astype(on_grid.dtype)[:, :, None, None]
    smoothed = convolution()(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )
    return jnp.moveaxis(smoothed[..., 0], 0, -1)


def _features(
    network: Model, params: PyTree, on_grid: Float[Array, "height width channels"], key: RandomKey | None
) -> Float[Array, "height width features"]:
    outputs = network.apply(params, on_grid[None], key)
    if outputs.ndim != 4 or outputs.shape[:3] != (1, *on_grid.shape[:2]):
        height, width = on_grid.shape[:2]
        raise ValueError(
            f"the network maps {list(on_grid[None].shape)} to {list(outputs.shape)}; expected [1, {height}, {width}, "
            "features], as models.conv2d returns it"
        )
    return outputs[0]
