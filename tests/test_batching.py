"""How many tasks are computed at once on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import accelerators, adjoints, batching, learners, losses, models, tasks
from jmeta.models import primitives
from jmeta.models.primitives import convolution, patch_conv


def test_what_calls_and_loops_compute_counts_once_and_results_of_loops_beside():
    def fn(x):
        doubled = jax.jit(lambda x: 2 * x)(x)
        return jax.lax.scan(lambda carry, _: (carry + 1, 2.0), doubled, None, length=7)

    doubled, body, results = 40, 40, 40 + 7 * 4
    assert batching.computed_bytes(fn, (jax.ShapeDtypeStruct((10,), jnp.float32),)) == doubled + body + results


@pytest.mark.parametrize("adjoint", [adjoints.unrolled(), adjoints.mixed_mode()], ids=["unrolled", "mixed_mode"])
def test_small_networks_take_many_tasks_at_once_and_convolutions_one(adjoint):
    def at_once(model, loss_fn, sample, num_tasks):
        learner = learners.maml(model, loss_fn, optax.sgd(0.01), num_steps=5, adjoint=adjoint)
        keys = jax.random.split(jax.random.key(0), num_tasks)
        stacked = jax.eval_shape(lambda keys: jax.vmap(sample)(keys), keys)
        first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), stacked)
        shapes = jax.eval_shape(learner.init, jax.random.key(0), first)
        meta_params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        grad_fn = jax.value_and_grad(jmeta.episode(learner, loss_fn), has_aux=True)
        one = lambda task, key: grad_fn(meta_params, task, key)
        return batching.tasks_at_once(one, (stacked, keys), num_tasks)

    sinusoids = tasks.sinusoid(num_shots=10, num_queries=10)
    assert at_once(models.mlp([40, 40, 1]), losses.squared_error, sinusoids, 25) == 25
    assert 25 <= at_once(models.mlp([40, 40, 1]), losses.squared_error, sinusoids, 1000) <= 250
    assert at_once(models.mlp([40, 40, 1]), losses.squared_error, sinusoids, 997) == 997, "a prime, and all at once"
    images = lambda key: jax.tree.map(
        lambda leaf: leaf.reshape(-1, 28, 28, 1) if leaf.ndim == 2 else leaf,
        tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3, num_features=784)(key),
    )
    assert at_once(models.conv4(5), losses.cross_entropy, images, 8) == 1


def test_chunks_of_many_tasks_are_their_mean(monkeypatch, key):
    """With a cache of two tasks."""
    monkeypatch.setattr(batching, "CACHE_BYTES", 2 * 40)
    stacked = jax.random.normal(key, (6, 10))
    fn = lambda meta_params, task, key: jnp.sin(task)
    assert batching.tasks_at_once(lambda task: fn(None, task, None), (stacked,), 6) == 2
    got = jmeta.over_tasks(fn)(None, stacked, key)
    np.testing.assert_allclose(got, jnp.sin(stacked).mean(0), rtol=1e-6, atol=1e-7)


def test_cards_do_as_was_measured_on_them_and_others_as_is_guessed(monkeypatch):
    measured = {"a card": accelerators.Choice("patches", tasks_at_once=4, measured="2030-01-31")}
    assert accelerators.choice("a card", measured) == measured["a card"]
    assert accelerators.choice("another card", measured) == accelerators.GUESS
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rows = jax.ShapeDtypeStruct((12, 10), jnp.float32)
    assert batching.tasks_at_once(jnp.sin, (rows,), 12) == 12
    assert convolution("auto") is jax.lax.conv_general_dilated
    for module in (batching, primitives):
        monkeypatch.setattr(module, "choice", lambda kind: measured["a card"])
    assert batching.tasks_at_once(jnp.sin, (rows,), 12) == 4
    assert convolution("auto") is patch_conv
