"""Networks that predict the probability of a 1."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta import Batch, losses, models


def test_outputs_are_log_odds_and_the_loss_is_the_cross_entropy_of_two_classes(key):
    x, labels = jnp.linspace(-1.0, 1.0, 4)[:, None], jnp.array([0, 1, 1, 0])
    network = models.mlp([8, 1])
    model = models.bernoulli_outputs(network)
    params = model.init(key, x)
    logits = network.apply(params, x, None)
    outputs = model.apply(params, x, None)
    np.testing.assert_array_equal(outputs.logits, logits)
    loss, _ = losses.negative_log_likelihood(outputs, Batch(x, labels[:, None].astype(x.dtype)))
    expected, _ = losses.cross_entropy(jnp.concatenate([jnp.zeros_like(logits), logits], 1), Batch(x, labels))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_statistics_are_those_of_the_network(key):
    images = jax.random.normal(key, (6, 16, 16, 1))
    network = models.conv4(2, num_filters=4, norm="support")
    model = models.bernoulli_outputs(network)
    params = model.init(key, images)
    assert network.calibrate
    assert model.calibrate
    expected, found = network.calibrate(params, images, None), model.calibrate(params, images, None)
    np.testing.assert_array_equal(found[0].logits, expected[0])
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])
