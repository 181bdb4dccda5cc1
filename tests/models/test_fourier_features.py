"""Networks of positions that see waves of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import Model, models

from ..networks import identity


def test_waves_double_their_frequency_and_follow_the_inputs():
    """By the formulas of double angles, from the first wave on."""
    x = jnp.array([[0.3, -0.7], [0.1, 0.9]])
    found = models.fourier_features(identity(), num_frequencies=3).apply({}, x, None)
    sine, cosine = np.sin(np.pi * np.asarray(x)), np.cos(np.pi * np.asarray(x))
    sines, cosines = [sine], [cosine]
    for _ in range(2):
        sine, cosine = 2 * sine * cosine, 1 - 2 * sine**2
        sines.append(sine)
        cosines.append(cosine)
    np.testing.assert_allclose(found, np.concatenate([x, *sines, *cosines], 1), atol=1e-5)


def test_statistics_are_those_of_the_network():
    counting = Model(lambda key, x: 0, lambda params, x, key: x, lambda params, x, key: (x, params + x.shape[1]))
    model = models.fourier_features(counting, num_frequencies=2)
    assert model.calibrate is not None
    outputs, params = model.calibrate(0, jnp.zeros((3, 2)), None)
    assert (outputs.shape, params) == ((3, 10), 10)


def test_no_frequency_is_refused():
    with pytest.raises(ValueError, match="num_frequencies=0"):
        models.fourier_features(models.mlp([1]), num_frequencies=0)
