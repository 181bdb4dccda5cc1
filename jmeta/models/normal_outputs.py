"""Networks that predict normal distributions: of a fixed width, or of one that the network chooses for every number."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..bounds import is_real
from ..distributions import Normal
from ..types import Model, PyTree, RandomKey

__all__ = ["normal_outputs"]


def normal_outputs(model: Model, *, scale: float | None = None, min_scale: float = 1e-3) -> Model:
    """Build a model whose outputs are normal distributions of numbers, for `losses.negative_log_likelihood`.

    Args:
      model: outputs `[examples, numbers]` means; without `scale`, `[examples, 2 numbers]`: means, then what softplus
        makes standard deviations of.
      scale: standard deviation of all predictions, positive; `None` to predict one for every number.
      min_scale: the smallest predicted standard deviation, not negative. It bounds the loss from below, which a network
        that fits a support exactly would otherwise decrease for ever.

    Returns:
      A model of the same parameters, with outputs `Normal` of `[examples, numbers]`.

    Raises:
      ValueError: if `scale` is not positive or `min_scale` is negative; at trace time if the number of outputs is odd.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> model = models.normal_outputs(models.mlp([40, 2]))
      >>> params = model.init(jax.random.key(0), jnp.zeros((5, 1)))
      >>> model.apply(params, jnp.zeros((5, 1)), None).scale.shape
      (5, 1)
    """
    if scale is not None and not is_real(scale, above=0):
        raise ValueError(f"scale={scale}; expected a positive standard deviation, or None to predict it")
    if not is_real(min_scale, least=0):
        raise ValueError(f"min_scale={min_scale}; expected at least 0")

    def distribution(outputs: Float[Array, "examples numbers"]) -> Normal:
        if scale is not None:
            return Normal(outputs, jnp.full_like(outputs, scale))
        if outputs.shape[-1] % 2:
            raise ValueError(
                f"the model has {outputs.shape[-1]} outputs; expected an even number, half of them for the standard "
                "deviations, or pass scale="
            )
        loc, raw = jnp.split(outputs, 2, axis=-1)
        return Normal(loc, min_scale + jax.nn.softplus(raw))

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> Normal:
        return distribution(model.apply(params, x, key))

    calibrate = model.calibrate
    if calibrate is None:
        return Model(model.init, apply)

    def calibrated(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[Normal, PyTree]:
        outputs, params = calibrate(params, x, key)
        return distribution(outputs), params

    return Model(model.init, apply, calibrated)
