"""Networks that predict densities by bins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models

X = jnp.linspace(-1.0, 1.0, 4)[:, None]
EDGES = [-1.0, 0.0, 0.5, 2.0]


def test_outputs_are_the_logits_of_one_number_after_another(key):
    network = models.mlp([8, 6])
    model = models.binned_outputs(network, EDGES)
    params = model.init(key, X)
    outputs, found = network.apply(params, X, None), model.apply(params, X, None)
    inside = found.cdf(jnp.full((4, 2), 0.5)) - found.cdf(jnp.zeros((4, 2)))
    np.testing.assert_allclose(inside[:, 0], jax.nn.softmax(outputs[:, :3])[:, 1], rtol=1e-5)
    np.testing.assert_allclose(inside[:, 1], jax.nn.softmax(outputs[:, 3:])[:, 1], rtol=1e-5)


def test_statistics_are_those_of_the_network(key):
    images = jax.random.normal(key, (6, 16, 16, 1))
    network = models.conv4(3, num_filters=4, norm="support")
    model = models.binned_outputs(network, EDGES)
    params = model.init(key, images)
    assert network.calibrate is not None
    assert model.calibrate is not None
    outputs, expected = network.calibrate(params, images, None)
    found, calibrated = model.calibrate(params, images, None)
    np.testing.assert_array_equal(found.logits[:, 0], outputs)
    jax.tree.map(np.testing.assert_array_equal, calibrated, expected)


@pytest.mark.parametrize("edges", [[0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, np.inf], np.ones((1, 3))])
def test_edges_of_no_bins_are_refused(edges):
    with pytest.raises(ValueError, match="at least three finite, increasing numbers"):
        models.binned_outputs(models.mlp([2]), edges)


def test_outputs_that_make_no_whole_numbers_of_bins_are_refused(key):
    model = models.binned_outputs(models.mlp([4]), EDGES)
    with pytest.raises(ValueError, match="the model has 4 outputs; expected a multiple of the number of bins, 3"):
        model.apply(model.init(key, X), X, None)
