"""What all neural processes share: sets without order, points that are added later, contexts without points."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, learners, losses, models, training
from jmeta.learners.point_sets import pairs, represent
from jmeta.tasks import gaussian_process, kernels, stacked

from ..networks import in_default_precision
from ..registry import LEARNERS
from ..slow import slow

PROCESSES = [name for name in LEARNERS if "neural_process" in name and "transformer" not in name]
NOISE = 0.1


def started(name, key):
    """A learner, its meta-parameters in double precision and away from zeros, and a task."""
    learner, _, sample, *_ = LEARNERS[name]
    task = jax.jit(sample)(key)
    start = jax.jit(learner.init)(jax.random.key(1), task)
    start = jax.tree.map(lambda leaf: leaf.astype("float64") + 0.1, start)
    return learner, start, task


def predicted(learner, meta_params, support, x):
    @jax.jit
    def run(meta_params, support, x):
        adapted = learner.adapt(meta_params, support, jax.random.key(2))
        prediction = learner.predict(meta_params, adapted, x, None)
        return jnp.concatenate([prediction.mean(), prediction.variance()], 1)

    return run(meta_params, support, x)


def test_points_can_join_a_representation(float64, key):
    """r of all points is that of some, joined by the rest one after another; padding counts for nothing."""
    model = in_default_precision(models.mlp([5, 3], activation=jnp.tanh))
    x, y = jax.random.normal(key, (6, 2)), jax.random.normal(jax.random.key(1), (6, 1))
    params = model.init(key, jnp.zeros((1, 3)))
    whole = represent(model, params, Batch(x, y), None)
    mask = jnp.array([True, False, True, False, False, False])
    some = represent(model, params, Batch(jnp.where(mask[:, None], x, jnp.nan), y, mask), None)
    for i in (1, 3, 4, 5):
        some = some.joined(represent(model, params, Batch(x[i : i + 1], y[i : i + 1]), None))
    np.testing.assert_allclose(some.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(whole.mean, model.apply(params, jnp.concatenate([x, y], 1), None).mean(0), rtol=1e-12)
    assert (some.num_points, whole.num_points) == (6, 6)
    nothing = represent(model, params, Batch(x[:0], y[:0]), None)
    assert nothing.joined(nothing).mean.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(whole.joined(nothing).mean, nothing.joined(whole).mean)


@pytest.mark.parametrize(
    ("x", "y", "found"),
    [
        (jnp.zeros((3, 1)), jnp.zeros(3, int), r"targets \[points, numbers\], but they are int32\[3\]"),
        (jnp.zeros((3, 2, 2)), jnp.zeros((3, 1)), r"inputs \[points, features\], but they are float32\[3, 2, 2\]"),
        ({"left": jnp.zeros((3, 1))}, jnp.zeros((3, 1)), "inputs .*, but they are a dict"),
    ],
)
def test_points_of_another_form_are_refused(x, y, found):
    with pytest.raises(ValueError, match=found):
        pairs(Batch(x, y))


@pytest.mark.parametrize("name", PROCESSES)
def test_queries_of_another_form_are_refused(name, key):
    learner, _, sample, *_ = LEARNERS[name]

    def predict(key):
        task = sample(key)
        meta_params = learner.init(key, task)
        return learner.predict(meta_params, learner.adapt(meta_params, task.support, key), task.query.x[:, 0], None)

    with pytest.raises(ValueError, match=r"expects floating-point inputs .*, but they are float32\[4\]"):
        jax.eval_shape(predict, key)


def test_networks_of_another_form_are_refused(key):
    vectors, numbers = models.mlp([4]), models.normal_outputs(models.mlp([2]))
    task = LEARNERS["neural_process"].sample(key)
    with pytest.raises(ValueError, match="one vector for each point.*a Normal"):
        learners.conditional_neural_process(numbers, numbers).init(key, task)
    with pytest.raises(ValueError, match="must predict normal distributions.*wrap its network"):
        learners.neural_process(vectors, vectors, numbers).init(key, task)
    with pytest.raises(ValueError, match="num_samples=0"):
        learners.neural_process(vectors, numbers, numbers, num_samples=0)
    with pytest.raises(ValueError, match="num_elbo_samples=0"):
        learners.neural_process(vectors, numbers, numbers, num_elbo_samples=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda stored, plain: learners.conditional_neural_process(stored, plain),
        lambda stored, plain: learners.conditional_neural_process(plain, stored),
        lambda stored, plain: learners.neural_process(plain, stored, plain),
        lambda stored, plain: learners.neural_process(plain, plain, stored),
        lambda stored, plain: learners.attentive_neural_process(plain, stored, plain),
        lambda stored, plain: learners.attentive_neural_process(
            plain, plain, plain, latent=learners.LatentPath(stored, plain)
        ),
        lambda stored, plain: learners.convolutional_neural_process(stored, plain, inputs=(0.0, 1.0), num_grid=9),
    ],
)
def test_networks_that_store_statistics_are_refused(make):
    plain = models.mlp([4])
    stored = plain._replace(calibrate=lambda params, x, key: (x, params))
    with pytest.raises(ValueError, match="stores statistics of examples"):
        make(stored, plain)


WIDE = models.mlp([32, 32])
NORMAL = models.normal_outputs(models.mlp([32, 2]), min_scale=0.05)
LATENT = models.normal_outputs(models.mlp([32, 16]), min_scale=0.1)
PATH = learners.LatentPath(WIDE, LATENT, 8)
LEARNED = {
    "conditional_neural_process": learners.conditional_neural_process(WIDE, NORMAL),
    "neural_process": learners.neural_process(*PATH[:2], NORMAL, num_samples=8),
    "attentive_neural_process": learners.attentive_neural_process(WIDE, WIDE, NORMAL, num_heads=4),
    "attentive_neural_process_with_latents": learners.attentive_neural_process(
        WIDE, WIDE, NORMAL, num_heads=4, latent=PATH
    ),
    "convolutional_neural_process": learners.convolutional_neural_process(
        models.conv1d([16, 16, 16]), NORMAL, inputs=(-3.0, 3.0), num_grid=33
    ),
}


@pytest.mark.parametrize("name", ["conditional_neural_process", *slow(*PROCESSES[1:])])
def test_a_short_training_beats_the_prior(name):
    """The prior of every target is normal with mean 0 and variance 1 + noise²."""
    learner = LEARNED[name]
    sample = gaussian_process(kernels.rbf(length_scale=1.0), num_shots=(0, 10), num_queries=10, noise=NOISE)
    key_init, key_train, key_test = jax.random.split(jax.random.key(0), 3)
    episode_fn = jmeta.episode(learner, losses.negative_log_likelihood)
    grad_fn = jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True))
    trainer = jmeta.meta_trainer(grad_fn, optax.adam(3e-3))
    run = training.sampled_steps(trainer, num_steps=100)
    meta_params = jax.jit(learner.init)(key_init, sample(key_init))
    state, aux = run(trainer.init(meta_params), stacked(sample, 16), key_train)
    assert np.isfinite(aux["loss"]).all()
    evaluate = jmeta.over_tasks(jmeta.plain_episode(learner, losses.negative_log_likelihood))
    loss, _ = jax.jit(evaluate)(state.meta_params, stacked(sample, 256)(key_test), key_test)
    prior = 0.5 * np.log(2 * np.pi * np.e * (1 + NOISE**2))
    assert loss < prior - 0.1, (float(loss), prior)
