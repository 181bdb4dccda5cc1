"""Bayesian MAML: SVGD against its equations in NumPy and on a known target; one particle is MAML."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, adjoints, learners, losses, models, tasks

from ..networks import regression_task, smooth_mlp
from .short_training import query_losses, starts_of_seeds
from .test_gradient_based import assert_trees_close

LOSS = losses.negative_log_likelihood
MODEL = models.normal_outputs(smooth_mlp(), scale=0.5)
LR = 0.02


def make(**numbers):
    return learners.bayesian_maml(MODEL, LOSS, optax.sgd(LR), num_steps=3, **numbers)


def in_numpy(particles, grads, temperature=1.0):
    """The update of a matrix of particles, one pair after another; the median is over pairs of different ones."""
    count = len(particles)
    squared = [np.sum((particles[i] - particles[j]) ** 2) for i in range(count) for j in range(i)]
    bandwidth = np.median(squared) / np.log(count + 1)
    updates = np.zeros_like(particles)
    for i in range(count):
        for j in range(count):
            kernel = np.exp(-np.sum((particles[i] - particles[j]) ** 2) / bandwidth)
            gradient_of_kernel = -2 / bandwidth * (particles[j] - particles[i]) * kernel  # in particle j
            updates[i] += (kernel * grads[j] - temperature * gradient_of_kernel) / count
    return updates


@pytest.mark.parametrize("count", [2, 5])
def test_svgd_is_its_equation(float64, key, count):
    particles, grads = jax.random.normal(key, (2, count, 7))
    as_tree = lambda matrix: {"w": matrix[:, :6].reshape(count, 2, 3), "b": matrix[:, 6]}
    move = learners.svgd(temperature=0.3)
    updates, _ = move.update(as_tree(grads), move.init(particles), as_tree(particles))
    assert_trees_close(updates, as_tree(in_numpy(np.array(particles), np.array(grads), 0.3)), rtol=1e-12)


def test_svgd_is_differentiated_at_a_constant_bandwidth(float64, key):
    """A line along which the median pair keeps its distance has the derivative of central differences."""
    particles = jnp.array([[0.0], [1.0], [5.0]])  # the median is that of the last two, which move together
    grads, along = jax.random.normal(key, (3, 1)), jnp.array([[0.0], [1.0], [1.0]])
    move = learners.svgd()
    update = lambda step: move.update(grads, move.init(particles), particles + step * along)[0]
    _, derivative = jax.jvp(update, (0.0,), (1.0,))
    np.testing.assert_allclose(derivative, (update(1e-5) - update(-1e-5)) / 2e-5, rtol=1e-8, atol=1e-9)
    apart = jnp.array([[0.0], [0.0], [1.0]])  # here it does not
    update = lambda step: move.update(grads, move.init(particles), particles + step * apart)[0]
    _, derivative = jax.jvp(update, (0.0,), (1.0,))
    assert np.abs(derivative - (update(1e-5) - update(-1e-5)) / 2e-5).max() > 0.01


def test_particles_become_samples_of_a_normal_distribution(float64, key):
    """Their mean is exact. The variance is that of a few particles, too small by a tenth."""
    mean, precision = jnp.array([1.0, -2.0]), jnp.array([[2.0, 0.6], [0.6, 1.0]])
    move = optax.chain(learners.svgd(), optax.sgd(0.3))
    energy = lambda particle: 0.5 * (particle - mean) @ precision @ (particle - mean)

    def step(carry, _):
        particles, state = carry
        updates, state = move.update(jax.vmap(jax.grad(energy))(particles), state, particles)
        return (optax.apply_updates(particles, updates), state), None

    start = 0.1 * jax.random.normal(key, (40, 2))
    (particles, _), _ = jax.jit(lambda start: jax.lax.scan(step, (start, move.init(start)), None, length=1000))(start)
    np.testing.assert_allclose(particles.mean(0), mean, atol=1e-3)
    np.testing.assert_allclose(jnp.cov(particles.T), jnp.linalg.inv(precision), atol=0.2)


def test_coinciding_particles_move_with_their_mean_gradient():
    grads, move = jnp.arange(12.0).reshape(3, 4), learners.svgd()
    update = jax.jit(lambda particles: move.update(grads, move.init(particles), particles)[0])
    derivative = jax.jit(jax.jacobian(update))
    together = jnp.ones((3, 4))
    np.testing.assert_array_equal(update(together), jnp.broadcast_to(grads.mean(0), (3, 4)))
    assert np.isfinite(derivative(together)).all()
    nearly = together.at[0].add(1e-5)  # a bandwidth without a smallest value would push by 10⁴
    assert np.abs(update(nearly)).max() < 1000
    assert np.isfinite(derivative(nearly)).all()


def test_one_particle_moves_with_its_gradient(key):
    particle, grad = jax.random.normal(key, (2, 1, 4))
    np.testing.assert_array_equal(learners.svgd().update(grad, optax.EmptyState(), particle)[0], grad)


def test_one_particle_with_a_flat_prior_and_the_query_loss_is_maml(float64, key):
    task = regression_task(key)
    maml = learners.maml(MODEL, LOSS, optax.sgd(LR), num_steps=3)
    bayesian = make(num_particles=1)
    meta_params = bayesian.init(jax.random.key(1), task)
    evaluated = [
        jax.jit(jax.value_and_grad(jmeta.episode(learner, LOSS), has_aux=True))(params, task, key)
        for learner, params in ((bayesian, meta_params), (maml, jax.tree.map(lambda leaf: leaf[0], meta_params)))
    ]
    ((loss, aux), grads), ((expected_loss, expected_aux), expected_grads) = evaluated
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    assert_trees_close(aux, expected_aux)
    assert_trees_close(jax.tree.map(lambda leaf: leaf[0], grads), expected_grads)


def test_the_prior_draws_particles_to_zero(float64, key):
    """One step of one particle: the gradient of the support loss, and τ θ over the number of real examples."""
    task = regression_task(key)
    support = task.support._replace(mask=jnp.array([True, True, True, False, False]))
    flat, normal = (
        learners.bayesian_maml(MODEL, LOSS, optax.sgd(LR), num_steps=1, num_particles=1, prior_precision=precision)
        for precision in (0.0, 2.5)
    )
    start = flat.init(jax.random.key(1), task)
    without, drawn = (learner.adapt(start, support, key) for learner in (flat, normal))
    expected = jax.tree.map(lambda leaf, theta: leaf - LR * 2.5 / 3 * theta, without, start)
    assert_trees_close(drawn, expected)


def test_predictions_are_those_of_the_mixture(float64, key):
    task, learner = regression_task(key), make(num_particles=4)
    meta_params = learner.init(jax.random.key(1), task)
    adapted = learner.adapt(meta_params, task.support, key)
    each = [MODEL.apply(jax.tree.map(lambda leaf: leaf[i], adapted), task.query.x, None) for i in range(4)]
    density = sum(jnp.exp(prediction.log_prob(task.query.y)) for prediction in each) / 4
    found = learner.predict(meta_params, adapted, task.query.x, None)
    np.testing.assert_allclose(found.log_prob(task.query.y), jnp.log(density), rtol=1e-10)


def test_the_leader_sees_support_and_query_with_their_masks(float64, key):
    """The chaser loss is that of the same task with its padding left out."""
    task, learner = regression_task(key), make(num_particles=3, num_leader_steps=2, prior_precision=0.5)
    meta_params = learner.init(jax.random.key(1), task)
    episode_fn = jax.jit(jmeta.episode(learner, LOSS))
    query = task.query._replace(mask=jnp.array([True, True, True, False, False]))
    found, _ = episode_fn(meta_params, task._replace(query=query), key)
    expected, _ = episode_fn(meta_params, task._replace(query=Batch(query.x[:3], query.y[:3])), key)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_an_exact_adjoint_has_the_same_meta_gradient(float64, key):
    """SVGD is part of the optimizer, which mixed mode differentiates apart from the particles' gradients."""
    task, numbers = regression_task(key), {"num_particles": 3, "num_leader_steps": 1}
    learner, reference = make(**numbers, adjoint=adjoints.mixed_mode()), make(**numbers)
    meta_params = learner.init(jax.random.key(1), task)
    found, expected = (
        jax.jit(jax.grad(jmeta.episode(each, LOSS), has_aux=True))(meta_params, task, key)[0]
        for each in (learner, reference)
    )
    assert_trees_close(found, expected, rtol=1e-9)


def starts(learner, sample):
    """Five seeds, and one whose particles coincide."""
    stacked = starts_of_seeds(learner, sample)
    together = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1, :1], leaf[:1].shape), stacked)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), stacked, together)


def test_the_query_loss_teaches_sinusoids():
    model = models.normal_outputs(models.mlp([20, 1]), scale=0.3)
    learner = learners.bayesian_maml(model, LOSS, optax.sgd(0.01), num_steps=1, num_particles=3)
    sample = tasks.sinusoid(num_shots=10, num_queries=10)
    before, after, _ = query_losses(learner, LOSS, sample, starts=starts(learner, sample))
    assert after.mean() < 0.9 * before.mean(), (before, after)


@pytest.mark.slow
def test_the_chaser_loss_teaches_blobs():
    learner = learners.bayesian_maml(
        models.mlp([16, 3]),
        losses.cross_entropy,
        optax.sgd(0.1),
        num_steps=2,
        num_particles=3,
        num_leader_steps=1,
        prior_precision=0.1,
    )
    sample = tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=4, num_features=4)
    before, after, _ = query_losses(learner, losses.cross_entropy, sample, starts=starts(learner, sample))
    assert (after < before).all(), (before, after)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_particles": 0}, "num_particles=0"),
        ({"num_particles": 2, "num_leader_steps": 0}, "num_leader_steps=0"),
        ({"num_particles": 2, "prior_precision": -1.0}, "prior_precision=-1.0"),
        ({"num_particles": 2, "prior_precision": float("nan")}, "prior_precision=nan"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        make(**numbers)


def test_predictions_that_are_no_distribution_are_refused(key):
    task = regression_task(key)
    learner = learners.bayesian_maml(smooth_mlp(), losses.squared_error, optax.sgd(LR), num_steps=1, num_particles=2)
    with pytest.raises(ValueError, match="wrap it with models.normal_outputs"):
        learner.adapt(learner.init(key, task), task.support, key)
