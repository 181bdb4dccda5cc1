"""Convolutional conditional neural processes: predictions that move with the context.

If all points of the context and the target move by the same distance, a stationary process predicts the same; here the
network has this property, and does not have to learn it. The context becomes a function on a grid t: its density
h₀(t) = Σᵢ ψ(t − xᵢ), and the smoothed targets h₁(t) = Σᵢ ψ(t − xᵢ) yᵢ / (h₀(t) + ε), with ψ(d) = exp(−d² / 2ℓ²). A
convolutional network maps (h₀, h₁) to features f on the grid, and a target at x is predicted from their average near x,
Σⱼ ψ′(x − tⱼ) f(tⱼ) Δ / √(2π) ℓ′, for a grid with steps Δ. Both length scales are learned. The density says where the
context is, and is zero for a context without points.

Reference: Gordon, Bruinsma, Foong, Requeima, Dubois, Turner, "Convolutional Conditional Neural Processes", 2020,
arXiv:1910.13556, section 4, algorithm 1. Differs from the paper: inputs have one dimension; the grid is given in
advance, the same for all tasks; all channels share a length scale; the sum over the grid is an average, whose size
depends neither on the number of grid points nor on ℓ′; and the loss counts the points of the query only.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..bounds import is_real
from ..losses import real_examples
from ..tasks.class_arrays import check_positive
from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from .point_sets import check_no_statistics, check_rows, pairs

__all__ = ["convolutional_neural_process"]

_EPSILON = 1e-8  # a density below it counts as none


def convolutional_neural_process(
    network: Model, decoder: Model, *, inputs: tuple[float, float], num_grid: int
) -> Learner:
    """Predict from features on a grid, which a convolutional network computes from the context.

    Args:
      network: maps `[1, num_grid, 1 + numbers]`, density and smoothed targets, to `[1, num_grid, width]`, such as
        `models.conv1d([32, 32, 32, 32])`. Predictions move with the context if it is equivariant to translations.
      decoder: maps `[points, width]`, the features at each point, to predictions, such as
        `models.normal_outputs(models.mlp([2]))` for one number.
      inputs: ends of the grid. Leave a margin around the points, of half as many cells as an output of the network
        depends on: a prediction near an end sees it. Points of the context far beyond the ends have no effect.
      num_grid: points of the grid, at least 2. Length scales start at two cells.

    Returns:
      A learner of tasks with inputs `[points, 1]`, whose adapted state is the `[num_grid, width]` array of features.
      Its meta-parameters are `{"network": ..., "decoder": ..., "log_length_scales": {"to_grid": ..., "from_grid":
      ...}}`. Train it by `losses.negative_log_likelihood`.

    Raises:
      ValueError: if `inputs` is an empty range, `num_grid` is below 2, or a network stores statistics of norm layers;
        at trace time if inputs are not `[points, 1]` in floating point, or the network's outputs are not those above.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import learners, models, tasks
      >>> network, decoder = models.conv1d([16, 16, 8]), models.normal_outputs(models.mlp([2]))
      >>> learner = learners.convolutional_neural_process(network, decoder, inputs=(-3.0, 3.0), num_grid=61)
      >>> sample = tasks.gaussian_process(tasks.kernels.rbf(length_scale=0.5), num_shots=8, num_queries=5, noise=0.1)
      >>> task = sample(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> adapted.shape, jax.jit(learner.predict)(meta_params, adapted, task.query.x, None).loc.shape
      ((61, 8), (5, 1))

    Reference:
      Gordon et al., "Convolutional Conditional Neural Processes", 2020, arXiv:1910.13556, algorithm 1.
    """
    check_no_statistics(network=network, decoder=decoder)
    check_positive({"num_grid": num_grid})
    if num_grid < 2 or not (is_real(inputs[0]) and is_real(inputs[1], above=inputs[0])):
        raise ValueError(f"inputs={inputs} and num_grid={num_grid}; expected (lowest, highest) and at least 2 points")
    log_step = math.log((inputs[1] - inputs[0]) / (num_grid - 1))

    def init(key: RandomKey, task: Task) -> PyTree:
        key_network, key_decoder = jax.random.split(key)
        _line(task.support.x)
        num_channels = pairs(task.support).shape[1]  # a density instead of x, then the numbers of y
        on_grid = jnp.zeros((num_grid, num_channels), task.support.y.dtype)
        params = network.init(key_network, on_grid[None])
        features = jax.eval_shape(lambda params: _features(network, params, on_grid, None), params)
        at_query = jnp.zeros((task.query.x.shape[0], features.shape[1]), features.dtype)
        start = jnp.asarray(math.log(2) + log_step, jnp.float32)
        scales = {"to_grid": start, "from_grid": start}
        return {"network": params, "decoder": decoder.init(key_decoder, at_query), "log_length_scales": scales}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> Float[Array, "grid width"]:
        _line(support.x)
        x, y = jnp.split(pairs(support), [1], axis=1)
        near = _nearness(meta_params["log_length_scales"]["to_grid"], grid(x), x)
        near = jnp.where(real_examples(support)[None], near, 0)
        density = near.sum(1, keepdims=True)
        smoothed = jnp.matmul(near, y, precision="highest") / (density + _EPSILON)
        return _features(network, meta_params["network"], jnp.concatenate([density, smoothed], 1), key)

    def predict(meta_params: PyTree, adapted: Array, x: PyTree, key: RandomKey | None) -> PyTree:
        log_length_scale = meta_params["log_length_scales"]["from_grid"]
        weights = _nearness(log_length_scale, _line(x), grid(x)) * jnp.exp(log_step - log_length_scale)
        average = jnp.matmul(weights, adapted, precision="highest") / math.sqrt(2 * math.pi)
        return decoder.apply(meta_params["decoder"], average, key)

    def grid(like: Array) -> Float[Array, "grid 1"]:
        return jnp.linspace(*inputs, num_grid, dtype=like.dtype)[:, None]

    return Learner(init, adapt, predict)


def _nearness(log_length_scale: Array, a: Float[Array, "a 1"], b: Float[Array, "b 1"]) -> Float[Array, "a b"]:
    """Return ψ(a − b) of all pairs."""
    return jnp.exp(-0.5 * jnp.square((a - b.T) * jnp.exp(-log_length_scale)))


def _line(x: PyTree) -> Float[Array, "points 1"]:
    """Return inputs after checking that they are points on a line."""
    x = check_rows("inputs [points, 1]", x)
    if x.shape[1] != 1:
        raise ValueError(
            f"a convolutional neural process expects inputs [points, 1], but they have {x.shape[1]} features; use "
            "another neural process"
        )
    return x


def _features(
    network: Model, params: PyTree, on_grid: Float[Array, "grid channels"], key: RandomKey | None
) -> Float[Array, "grid width"]:
    outputs = network.apply(params, on_grid[None], key)
    if outputs.ndim != 3 or outputs.shape[:2] != (1, len(on_grid)):
        raise ValueError(
            f"the network maps {list(on_grid[None].shape)} to {list(outputs.shape)}; expected "
            f"[1, {len(on_grid)}, width], as models.conv1d returns it"
        )
    return outputs[0]
