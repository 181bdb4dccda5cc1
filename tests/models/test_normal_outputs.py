"""Networks that predict normal distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, distributions, learners, losses, models, tasks

X = jnp.linspace(-1.0, 1.0, 4)[:, None]


@pytest.mark.parametrize("min_scale", [0.0, 0.5])
def test_half_of_the_outputs_are_standard_deviations(key, min_scale):
    network = models.mlp([8, 4])
    model = models.normal_outputs(network, min_scale=min_scale)
    params = model.init(key, X)
    outputs, found = network.apply(params, X, None), model.apply(params, X, None)
    np.testing.assert_array_equal(found.loc, outputs[:, :2])
    np.testing.assert_allclose(found.scale, min_scale + np.log1p(np.exp(outputs[:, 2:])), rtol=1e-6)


def test_with_a_fixed_scale_the_loss_is_the_squared_error_scaled(key):
    network = models.mlp([8, 2])
    model = models.normal_outputs(network, scale=0.5)
    params, batch = network.init(key, X), Batch(X, jnp.cos(X * jnp.arange(1.0, 3.0)[None]))
    loss, aux = losses.negative_log_likelihood(model.apply(params, X, None), batch)
    squared, _ = losses.squared_error(network.apply(params, X, None), batch)
    assert float(aux["squared_error"]) == float(squared)
    of_a_number = 0.5 * np.log(2 * np.pi * 0.25) + squared / (2 * 0.25)  # the squared error is a mean over both numbers
    np.testing.assert_allclose(loss, 2 * of_a_number, rtol=1e-6)


def test_statistics_are_those_of_the_network(key):
    images = jax.random.normal(key, (6, 16, 16, 1))
    network = models.conv4(2, num_filters=4, norm="support")
    model = models.normal_outputs(network)
    params = model.init(key, images)
    assert network.calibrate
    assert model.calibrate
    outputs, expected = network.calibrate(params, images, None)
    found, calibrated = model.calibrate(params, images, None)
    np.testing.assert_array_equal(found.loc, outputs[:, :1])
    jax.tree.map(np.testing.assert_array_equal, calibrated, expected)


def test_maml_meta_learns_with_it(key):
    model = models.normal_outputs(models.mlp([8, 2], activation=jnp.tanh))
    learner = learners.maml(model, losses.negative_log_likelihood, optax.sgd(0.05), num_steps=1)
    task = tasks.sinusoid(num_shots=5, num_queries=5)(key)
    meta_params = learner.init(key, task)
    grads = jax.grad(jmeta.episode(learner, losses.negative_log_likelihood), has_aux=True)(meta_params, task, key)[0]
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale": 0.0}, "scale=0.0"), ({"scale": float("nan")}, "scale=nan"), ({"min_scale": -1.0}, "min_scale=-1.0")],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.normal_outputs(models.mlp([2]), **options)


def test_an_odd_number_of_outputs_is_refused(key):
    model = models.normal_outputs(models.mlp([3]))
    with pytest.raises(ValueError, match="the model has 3 outputs; expected an even number"):
        model.apply(model.init(key, X), X, None)


def test_a_mixture_of_particles_is_their_average(key):
    key_loc, key_scale = jax.random.split(key)
    particles = distributions.Normal(
        jax.random.normal(key_loc, (5, 3, 1)), jnp.exp(jax.random.normal(key_scale, (5, 3, 1)))
    )
    mixture = distributions.mix(particles)
    y = jnp.ones((3, 1))
    densities = jax.vmap(lambda particle: jnp.exp(particle.log_prob(y)))(particles)
    np.testing.assert_allclose(jnp.exp(mixture.log_prob(y)), densities.mean(0), rtol=1e-5)
    np.testing.assert_allclose(mixture.mean(), particles.loc.mean(0), rtol=1e-5)


def test_classes_of_particles_are_averaged_as_probabilities(key):
    logits = jax.random.normal(key, (5, 3, 4))
    np.testing.assert_allclose(jax.nn.softmax(distributions.mix(logits)), jax.nn.softmax(logits).mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (jnp.zeros((5, 3)), r"float32\[5, 3\]"),
        (jnp.zeros((5, 3, 1)), r"float32\[5, 3, 1\]"),
        (jnp.zeros((5, 3, 2), int), "int32"),
        ((), "tuple"),
    ],
)
def test_plain_values_have_no_mixture(outputs, found):
    with pytest.raises(ValueError, match=f"particles that predict {found}"):
        distributions.mix(outputs)
