"""Conditional neural processes: predict from the mean of the encoded points.

Every point of the context is encoded alone, rᵢ = h([xᵢ, yᵢ]), the task is represented by the mean r = (1/n) Σᵢ rᵢ, and
the target at x is predicted by a decoder, p(y | x, r) = g([r, x]), usually a normal distribution. Nothing is optimised
to adapt: both networks are trained by the likelihood of targets given a context.

Reference: Garnelo, Rosenbaum, Maddison, Ramalho, Saxton, Shanahan, Teh, Rezende, Eslami, "Conditional Neural
Processes", 2018, arXiv:1807.01613, eq. 1-4. Differs from the paper: the loss counts the points of the query only, where
the paper's targets include the context; a sampler whose query repeats the support trains as the paper does. A context
without points is represented by zeros.
"""

import jax
import jax.numpy as jnp

from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from .point_sets import Representation, check_no_statistics, encode, pairs, represent, with_each

__all__ = ["conditional_neural_process"]


def conditional_neural_process(encoder: Model, decoder: Model) -> Learner:
    """Predict from the mean of the encoded points of the context.

    Args:
      encoder: maps rows [x, y], `[points, features + numbers]`, to `[points, width]`.
      decoder: maps rows [r, x], `[points, width + features]`, to predictions for each point, such as
        `models.normal_outputs(models.mlp([64, 64, 2]))` for one number.

    Returns:
      A learner whose meta-parameters are `{"encoder": ..., "decoder": ...}`, and whose adapted state is a
      `Representation`: the mean and the number of points. Adapt to further points and `joined` makes one of both, as if
      all had been there at first. Train it by `losses.negative_log_likelihood`.

    Raises:
      ValueError: if a network stores statistics of norm layers; at trace time if inputs and targets are not
        `[points, features]` and `[points, numbers]` in floating point, or the encoder's outputs are not vectors.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import learners, models, tasks
      >>> encoder, decoder = models.mlp([32, 16]), models.normal_outputs(models.mlp([32, 2]))
      >>> learner = learners.conditional_neural_process(encoder, decoder)
      >>> sample = tasks.gaussian_process(tasks.kernels.rbf(length_scale=0.5), num_shots=8, num_queries=5, noise=0.1)
      >>> task = sample(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = learner.adapt(meta_params, task.support, jax.random.key(2))
      >>> adapted.mean.shape, learner.predict(meta_params, adapted, task.query.x, None).scale.shape
      ((16,), (5, 1))
      >>> further = learner.adapt(meta_params, task.query, jax.random.key(3))
      >>> float(adapted.joined(further).num_points)
      13.0

    Reference:
      Garnelo et al., "Conditional Neural Processes", 2018, arXiv:1807.01613, eq. 1-4.
    """
    check_no_statistics(encoder=encoder, decoder=decoder)

    def init(key: RandomKey, task: Task) -> PyTree:
        key_encoder, key_decoder = jax.random.split(key)
        inputs = pairs(task.support)
        params = encoder.init(key_encoder, inputs)
        rows = jax.eval_shape(lambda params: encode(encoder, params, inputs, None), params)
        given = with_each(jnp.zeros(rows.shape[1], rows.dtype), task.query.x)
        return {"encoder": params, "decoder": decoder.init(key_decoder, given)}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> Representation:
        return represent(encoder, meta_params["encoder"], support, key)

    def predict(meta_params: PyTree, adapted: Representation, x: PyTree, key: RandomKey | None) -> PyTree:
        return decoder.apply(meta_params["decoder"], with_each(adapted.mean, x), key)

    return Learner(init, adapt, predict)
