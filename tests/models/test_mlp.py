"""The multilayer perceptron against its formula."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models


def test_it_is_its_formula(key):
    x = jax.random.normal(key, (5, 2, 3))
    model = models.mlp([4, 2], activation=jnp.tanh)
    params = model.init(key, x)
    hidden, head = params["params"]["hidden_0"], params["params"]["head"]
    expected = jnp.tanh(x.reshape(5, 6) @ hidden["kernel"] + hidden["bias"][None]) @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(model.apply(params, x, None), expected, rtol=1e-5, atol=1e-6)
    assert model.calibrate is None


def test_dropout_only_with_a_key(key):
    x = jnp.ones((4, 3))
    model, plain = (models.mlp([64, 2], dropout_rate=rate) for rate in (0.5, 0.0))
    params = model.init(key, x)
    one, same, other = (model.apply(params, x, jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(model.apply(params, x, None), plain.apply(params, x, key))


@pytest.mark.parametrize(("features", "dropout_rate"), [([], 0.0), ([4, 0], 0.0), ([4], 1.0), ([4], -0.1)])
def test_static_mistakes(features, dropout_rate):
    with pytest.raises(ValueError, match="expected"):
        models.mlp(features, dropout_rate=dropout_rate)


def test_inputs_that_do_not_go_with_the_parameters_are_refused(key):
    model = models.mlp([3, 2])
    params = model.init(key, jnp.zeros((5, 4)))
    for x, message in (
        (
            jnp.zeros((5, 3)),
            r"inputs of shape \(5, 3\) do not go with the network's parameters",
        ),
        ({"a": jnp.zeros((5, 4))}, "takes one array of inputs .* but got a dict"),
        (jnp.zeros(()), "but got a single number"),
    ):
        with pytest.raises(ValueError, match=message):
            inspect.unwrap(model.apply)(params, x, None)
