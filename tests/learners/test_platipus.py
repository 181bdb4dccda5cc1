"""PLATIPUS by other routes: MAML in the limit of certainty, moments of its prior, and averages written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta import Model, adjoints, learners, losses, models, tasks
from jmeta.params import path_name

from ..differences import assert_gradient_is_central_difference
from ..networks import regression_task, smooth_mlp
from .short_training import WAVES, query_losses

LOSS, INNER = losses.negative_log_likelihood, optax.sgd(0.05)


def gaussian_mlp():
    return models.normal_outputs(smooth_mlp(), scale=0.5)


def certain(meta_params):
    """Without noise and without steps of the mean."""
    alone = {"log_scale": -100.0, "log_lr": -jnp.inf}
    belief = lambda part: {
        name: jax.tree.map(lambda leaf: jnp.full_like(leaf, alone[name]), part[name]) for name in part
    }
    return {**meta_params, "prior": belief(meta_params["prior"]), "inference": belief(meta_params["inference"])}


@pytest.mark.parametrize("adjoint", [adjoints.unrolled(), adjoints.first_order()], ids=["unrolled", "first_order"])
def test_without_noise_steps_of_the_mean_and_divergence_it_is_maml(float64, adjoint, key):
    model, task = gaussian_mlp(), regression_task(key)
    common = {"num_steps": 3, "adjoint": adjoint}
    learner = learners.platipus(model, LOSS, INNER, num_samples=2, kl_weight=0.0, **common)
    maml = learners.maml(model, LOSS, INNER, **common)
    meta_params = certain(learner.init(key, task))
    params = meta_params["params"]
    compiled = lambda learner: jax.jit(jax.value_and_grad(jmeta.episode(learner, LOSS), has_aux=True))
    run = lambda learner, start: compiled(learner)(start, task, key)
    ((loss, _), grads), ((expected_loss, _), expected) = run(learner, meta_params), run(maml, params)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), grads["params"], expected)
    particles = jax.jit(learner.adapt)(meta_params, task.support, key)
    adapted = jax.jit(maml.adapt)(params, task.support, key)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), adapted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), particles, both)


def test_the_meta_gradient_is_the_central_difference(float64, key):
    learner, task = learners.platipus(gaussian_mlp(), LOSS, INNER, num_steps=2, num_samples=1), regression_task(key)
    meta_params = learner.init(jax.random.key(1), task)
    for make in (jmeta.episode, jmeta.plain_episode):
        episode_fn = make(learner, LOSS)
        assert_gradient_is_central_difference(lambda params: episode_fn(params, task, key)[0], meta_params)


def test_without_inner_steps_particles_are_draws_around_one_step_on_the_support(float64, key):
    model, task = gaussian_mlp(), regression_task(key)
    learner = learners.platipus(model, LOSS, INNER, num_steps=0, num_samples=4000, initial_scale=0.1, initial_lr=0.2)
    meta_params = learner.init(jax.random.key(1), task)
    params = meta_params["params"]
    grads = jax.grad(lambda params: LOSS(model.apply(params, task.support.x, None), task.support)[0])(params)
    mean, _ = ravel_pytree(jax.tree.map(lambda leaf, grad: leaf - 0.2 * grad, params, grads))
    particles = jax.vmap(lambda tree: ravel_pytree(tree)[0])(jax.jit(learner.adapt)(meta_params, task.support, key))
    np.testing.assert_allclose(particles.mean(0), mean, atol=4.5 * 0.1 / np.sqrt(4000))
    np.testing.assert_allclose(particles.std(0), 0.1, rtol=0.06)


def test_class_probabilities_are_averages_over_the_particles(key):
    model, task = models.mlp([8, 3]), tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=2)(key)
    learner = learners.platipus(model, losses.cross_entropy, INNER, num_steps=2, num_samples=4, initial_scale=0.3)
    meta_params = learner.init(jax.random.key(1), task)
    particles = jax.jit(learner.adapt)(meta_params, task.support, key)
    each = jax.nn.softmax(jax.vmap(lambda params: model.apply(params, task.query.x, None))(particles))
    assert np.abs(each - each.mean(0)[None]).max() > 0.01
    outputs = learner.predict(meta_params, particles, task.query.x, None)
    np.testing.assert_allclose(jnp.exp(outputs), each.mean(0), rtol=1e-4, atol=1e-7)


def test_shared_parameters_are_certain_and_the_others_drawn(key):
    model, task = models.normal_outputs(models.mlp([4, 1]), scale=0.5), regression_task(key)
    is_adapted = lambda path: "/head/" in path
    learner = learners.platipus(model, LOSS, INNER, num_steps=1, num_samples=3, is_adapted=is_adapted)
    meta_params = learner.init(jax.random.key(1), task)
    particles = jax.jit(learner.adapt)(meta_params, task.support, key)
    pairs = zip(jax.tree_util.tree_leaves_with_path(particles), jax.tree.leaves(meta_params["params"]), strict=True)
    for (path, leaf), start in pairs:
        if is_adapted(path_name(path)):
            assert (jnp.ptp(leaf, axis=0) > 0).all()
        else:
            np.testing.assert_array_equal(leaf, jnp.broadcast_to(start, leaf.shape))
    grads = jax.jit(jax.grad(jmeta.episode(learner, LOSS), has_aux=True))(meta_params, task, key)[0]
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


def test_every_particle_stores_the_statistics_of_the_support(key):
    def apply(params, x, key):
        return (x - params["stats"]["mean"]) @ params["params"]["w"]

    def calibrate(params, x, key):
        params = {**params, "stats": {"mean": x.mean(0, keepdims=True)}}
        return apply(params, x, key), params

    init = lambda key, x: {"params": {"w": jnp.ones((3, 1))}, "stats": {"mean": jnp.zeros((1, 3))}}
    model = models.normal_outputs(Model(init, apply, calibrate), scale=0.5)
    task = regression_task(key)
    learner = learners.platipus(model, LOSS, INNER, num_steps=1, num_samples=2)
    meta_params = learner.init(key, task)
    assert jax.tree.leaves(meta_params["prior"]["log_scale"]["stats"]) == []
    particles = jax.jit(learner.adapt)(meta_params, task.support, key)
    expected = jnp.stack(2 * [task.support.x.mean(0, keepdims=True)])
    np.testing.assert_allclose(particles["stats"]["mean"], expected, rtol=1e-6)


def test_short_trainings_on_sinusoids_learn_with_every_seed():
    model = models.normal_outputs(models.mlp([20, 20, 1]), scale=0.3)
    learner = learners.platipus(model, LOSS, optax.sgd(1e-3), num_steps=1, num_samples=2, initial_lr=1e-4)
    before, after, aux = query_losses(learner, LOSS, WAVES)
    np.testing.assert_array_less(after, 0.9 * before)
    assert (jnp.abs(aux["kl"]) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples=0; expected at least one"),
        ({"initial_scale": 0.0}, "initial_scale=0.0 .* expected positive numbers"),
        ({"initial_lr": -1.0}, "initial_lr=-1.0; expected positive numbers"),
        ({"kl_weight": -1.0}, "kl_weight=-1.0; expected a number of at least 0"),
        ({"num_steps": -1}, "num_steps=-1"),
        ({"adjoint": adjoints.implicit()}, "num_steps=1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, key):
    with pytest.raises(ValueError, match=message):
        learners.platipus(gaussian_mlp(), LOSS, INNER, **{"num_steps": 5, "num_samples": 2, **arguments})


def test_a_model_whose_particles_have_no_average_is_refused(key):
    learner = learners.platipus(models.mlp([4, 1]), losses.squared_error, INNER, num_steps=1, num_samples=2)
    task = regression_task(key)
    with pytest.raises(ValueError, match="wrap it with models.normal_outputs"):
        jax.eval_shape(
            lambda key: learner.predict(
                {}, learner.adapt(learner.init(key, task), task.support, key), task.query.x, None
            ),
            key,
        )
