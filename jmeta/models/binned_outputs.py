"""Networks that predict a density by bins: of any shape, for numbers whose range is known beforehand."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..distributions import Binned
from ..types import Model, PyTree, RandomKey

__all__ = ["binned_outputs"]


def binned_outputs(model: Model, edges: Sequence[float] | np.ndarray | Array) -> Model:
    """Build a model whose outputs are densities over bins, for `losses.negative_log_likelihood`.

    Args:
      model: outputs `[examples, numbers * bins]`, log probabilities of the bins up to a constant, bin after bin of the
        first number, then of the next one.
      edges: `[bins + 1]`, increasing. Quantiles of targets of many tasks make bins of equal probability.

    Returns:
      A model of the same parameters, with outputs `Binned` of `[examples, numbers]`.

    Raises:
      ValueError: if `edges` are fewer than three, not finite or not increasing; at trace time if the number of outputs
        is no multiple of the number of bins.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> model = models.binned_outputs(models.mlp([40, 8]), jnp.linspace(-2.0, 2.0, 9))
      >>> params = model.init(jax.random.key(0), jnp.zeros((5, 1)))
      >>> model.apply(params, jnp.zeros((5, 1)), None).mean().shape
      (5, 1)

    Reference:
      Müller, Hollmann, Pineda Arango, Grabocka, Hutter, "Transformers Can Do Bayesian Inference", 2021,
      arXiv:2112.10510, section 4 (the Riemann distribution).
    """
    bounds = np.asarray(edges, np.float64)
    if bounds.ndim != 1 or bounds.size < 3 or not np.isfinite(bounds).all() or not (np.diff(bounds) > 0).all():
        raise ValueError(
            f"edges of shape {bounds.shape} must be at least three finite, increasing numbers in a vector, the bounds "
            "of two bins or more; sort them and drop what is repeated"
        )
    num_bins = bounds.size - 1

    def distribution(outputs: Float[Array, "examples outputs"]) -> Binned:
        num_examples, num_outputs = outputs.shape
        if num_outputs % num_bins:
            raise ValueError(
                f"the model has {num_outputs} outputs; expected a multiple of the number of bins, {num_bins}"
            )
        shape = (num_examples, num_outputs // num_bins)
        of_all = jnp.broadcast_to(jnp.asarray(bounds, outputs.dtype), (*shape, num_bins + 1))
        return Binned(outputs.reshape(*shape, num_bins), of_all)

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> Binned:
        return distribution(model.apply(params, x, key))

    calibrate = model.calibrate
    if calibrate is None:
        return Model(model.init, apply)

    def calibrated(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[Binned, PyTree]:
        outputs, params = calibrate(params, x, key)
        return distribution(outputs), params

    return Model(model.init, apply, calibrated)
