"""Learning happens: short runs on tasks without data that reach a stated number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import Batch, Task, learners, losses, models, tasks, training


def meta_trained(learner, loss_fn, start, sample, key, *, num_steps, tasks_per_step):
    grad_fn = jmeta.over_tasks(jax.value_and_grad(jmeta.episode(learner, loss_fn), has_aux=True))
    trainer = jmeta.meta_trainer(grad_fn, optax.adam(3e-3))
    run = training.sampled_steps(trainer, num_steps=num_steps)
    state, _ = run(trainer.init(start), tasks.stacked(sample, tasks_per_step), key)
    return state.meta_params


def test_one_step_from_a_learned_start_fits_a_new_sinusoid(key):
    """Four seeds had 0.62 to 0.81 after one step, where the untrained start had 6.4 to 8.4, and 2.8 before the step."""
    model, sample = models.mlp([40, 40, 1]), tasks.sinusoid(num_shots=10, num_queries=10)
    make = lambda num_steps: learners.maml(model, losses.squared_error, optax.sgd(0.01), num_steps=num_steps)
    start = make(1).init(key, sample(key))
    trained = meta_trained(make(1), losses.squared_error, start, sample, key, num_steps=2000, tasks_per_step=25)

    def loss_after(num_steps, params):
        arguments = {"protocol": "sinusoid 10-shot", "num_tasks": 400, "tasks_at_once": 100}
        result = jmeta.evaluate(make(num_steps), losses.squared_error, params, sample, jax.random.key(1), **arguments)
        return result.inductive["loss"].mean

    assert loss_after(1, trained) < 1.0
    assert loss_after(0, trained) > 2.0, "the start itself fits no wave: it is adaptation that does"
    assert loss_after(1, start) > 4.0


def test_prototypes_of_a_learned_embedding_beat_those_of_the_inputs(key):
    """Half of the features are noise, which a learned embedding leaves out."""

    def noisy(sample, key):
        key_task, key_support, key_query = jax.random.split(key, 3)
        task = sample(key_task)
        noise = lambda batch, key: batch._replace(
            x=jnp.concatenate([batch.x, 8 * jax.random.normal(key, (batch.x.shape[0], 4))], 1)
        )
        return task._replace(support=noise(task.support, key_support), query=noise(task.query, key_query))

    sample = jax.tree_util.Partial(noisy, tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=4, num_features=4))
    learner = learners.protonet(models.mlp([32, 8]), num_ways=3)
    start = learner.init(key, sample(key))
    trained = meta_trained(learner, losses.cross_entropy, start, sample, key, num_steps=400, tasks_per_step=8)
    results = [
        jmeta.evaluate(each, losses.cross_entropy, params, sample, key, protocol="noisy blobs", num_tasks=200)
        for each, params in ((learner, trained), (learners.nearest_mean(num_ways=3), {}))
    ]
    learned, raw = (result.inductive["accuracy"] for result in results)
    assert learned.mean - raw.mean > 0.1, (str(learned), str(raw))


def test_imaml_finds_the_centre_of_its_tasks(key):
    """Regressions whose weights lie around a centre, with fewer examples than weights; all meta-gradients are valid."""
    centre = 2 * jax.random.normal(key, (8,))

    def sample(key):
        key_weights, *keys = jax.random.split(key, 3)
        weights = centre + 0.2 * jax.random.normal(key_weights, (8,))
        batch = lambda x: Batch(x, (x @ weights)[:, None])
        return Task(*(batch(jax.random.normal(key, (6, 8))) for key in keys))

    model, inner = models.mlp([1]), optax.sgd(0.1)
    learner = learners.imaml(model, losses.squared_error, inner, num_steps=60)
    episode_fn = jmeta.episode(learner, losses.squared_error)
    trainer = jmeta.meta_trainer(jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True)), optax.adam(0.05))
    start = learner.init(key, sample(key))
    state, aux = training.sampled_steps(trainer, num_steps=300)(
        trainer.init(start), tasks.stacked(jax.tree_util.Partial(sample), 8), key
    )
    np.testing.assert_allclose(aux["implicit_is_valid"], 1)
    np.testing.assert_allclose(state.meta_params["params"]["head"]["kernel"][:, 0], centre, atol=0.15)
