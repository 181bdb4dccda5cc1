"""Networks that predict the probability of a 1, for numbers that are 0 or 1."""

from ..distributions import Bernoulli
from ..types import Model, PyTree, RandomKey

__all__ = ["bernoulli_outputs"]


def bernoulli_outputs(model: Model) -> Model:
    """Build a model whose outputs are distributions over 0 and 1, for `losses.negative_log_likelihood`.

    Args:
      model: outputs `[examples, numbers]`, the log odds of a 1.

    Returns:
      A model of the same parameters, with outputs `Bernoulli` of `[examples, numbers]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> model = models.bernoulli_outputs(models.mlp([40, 1]))
      >>> params = model.init(jax.random.key(0), jnp.zeros((5, 2)))
      >>> model.apply(params, jnp.zeros((5, 2)), None).logits.shape
      (5, 1)
    """

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> Bernoulli:
        return Bernoulli(model.apply(params, x, key))

    calibrate = model.calibrate
    if calibrate is None:
        return Model(model.init, apply)

    def calibrated(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[Bernoulli, PyTree]:
        outputs, params = calibrate(params, x, key)
        return Bernoulli(outputs), params

    return Model(model.init, apply, calibrated)
