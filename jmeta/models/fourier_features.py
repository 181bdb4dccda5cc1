"""Networks of positions that see waves of them, so that they can tell neighbouring pixels or points apart.

A network of relu layers learns smooth functions of its inputs first; one of sines and cosines of them learns sharp ones
as fast.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..tasks.class_arrays import check_positive
from ..types import Model, PyTree, RandomKey

__all__ = ["fourier_features"]


def fourier_features(model: Model, *, num_frequencies: int) -> Model:
    """Build a model that sees its inputs x in [-1, 1], and sin(2ᵏ π x) and cos(2ᵏ π x) for k = 0..num_frequencies-1.

    Args:
      model: takes `[examples, (1 + 2 num_frequencies) features]`.
      num_frequencies: waves of each feature. The shortest has a length of 2 ** (2 - num_frequencies): four pixels of an
        image of 32, with four frequencies.

    Returns:
      A model of the same parameters, with inputs `[examples, features]`.

    Raises:
      ValueError: if `num_frequencies` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> model = models.fourier_features(models.mlp([8, 1]), num_frequencies=4)
      >>> params = model.init(jax.random.key(0), jnp.zeros((5, 2)))
      >>> params["params"]["hidden_0"]["kernel"].shape
      (18, 8)

    Reference:
      Tancik, Srinivasan, Mildenhall, Fridovich-Keil, Raghavan, Singhal, Ramamoorthi, Barron, Ng, "Fourier Features Let
      Networks Learn High Frequency Functions in Low Dimensional Domains", 2020, arXiv:2006.10739. The frequencies here
      are powers of two, along each feature alone ("positional encoding").
    """
    check_positive({"num_frequencies": num_frequencies})

    def waves(x: Float[Array, "examples features"]) -> Float[Array, "examples waves"]:
        angles = jnp.concatenate([2.0**k * jnp.pi * x for k in range(num_frequencies)], axis=1)
        return jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=1)

    def init(key: RandomKey, x: PyTree) -> PyTree:
        return model.init(key, waves(x))

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        return model.apply(params, waves(x), key)

    calibrate = model.calibrate
    if calibrate is None:
        return Model(init, apply)

    def calibrated(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[PyTree, PyTree]:
        return calibrate(params, waves(x), key)

    return Model(init, apply, calibrated)
