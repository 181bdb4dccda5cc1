"""Networks over positions on a line and in an image, against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models


@pytest.mark.parametrize("conv", ["patches", "xla"])
def test_it_is_its_formula(conv, key):
    """Every layer sums a kernel of three positions, with zeros beyond both ends."""
    x = jax.random.normal(key, (2, 6, 3))
    model = models.conv1d([4, 2], kernel_size=3, activation=jnp.tanh, conv=conv)
    params = model.init(jax.random.key(1), x)

    def layer(name, x):
        kernel, bias = (np.asarray(params["params"][name][part]) for part in ("kernel", "bias"))
        around = np.pad(x, ((0, 0), (1, 1), (0, 0)))
        return sum(around[:, i : i + 6] @ kernel[0, i] for i in range(3)) + bias

    expected = layer("head", np.tanh(layer("conv_0", np.asarray(x))))
    np.testing.assert_allclose(model.apply(params, x, None), expected, rtol=1e-5, atol=1e-6)
    assert model.calibrate is None


@pytest.mark.parametrize("conv", ["patches", "xla"])
def test_in_an_image_it_is_its_formula(conv, key):
    """A kernel of 3 x 3 pixels, with zeros beyond the edges."""
    x = jax.random.normal(key, (2, 5, 4, 3))
    model = models.conv2d([2], kernel_size=3, conv=conv)
    params = model.init(jax.random.key(1), x)
    kernel, bias = (np.asarray(params["params"]["head"][part]) for part in ("kernel", "bias"))
    around = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(around[:, i : i + 5, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3)) + bias
    np.testing.assert_allclose(model.apply(params, x, None), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("features", "kernel_size", "expected"),
    [([], 3, "at least one layer"), ([4, 0], 3, r"features\[1\]=0"), ([4], 4, "odd"), ([4], 0, "kernel_size=0")],
)
def test_static_mistakes(features, kernel_size, expected):
    with pytest.raises(ValueError, match=expected):
        models.conv1d(features, kernel_size=kernel_size)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="conv='fast'"):
        models.conv1d([4], conv="fast")
