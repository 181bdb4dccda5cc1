"""The core: one episode, averaged over tasks in any batching."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import learners, losses, models, tasks

from .networks import regression_task, smooth_mlp, stacked_regression_tasks

INNER = optax.sgd(0.1)


def make_maml():
    return learners.maml(smooth_mlp(), losses.squared_error, INNER, num_steps=2)


def test_a_plain_episode_is_adapt_then_predict_then_judge(key):
    learner, task = make_maml(), regression_task(key)
    meta_params = learner.init(key, task)
    loss, aux = jmeta.plain_episode(learner, losses.squared_error)(meta_params, task, key)
    key_adapt, key_predict = jax.random.split(key)
    adapted = learner.adapt(meta_params, task.support, key_adapt)
    outputs = learner.predict(meta_params, adapted, task.query.x, key_predict)
    np.testing.assert_array_equal(loss, jnp.mean((outputs - task.query.y) ** 2))
    assert set(aux) == {"squared_error"}


@pytest.mark.parametrize("batching", ["auto", "vmap", "scan", 1, 2, 4])
@pytest.mark.parametrize("of", ["episode", "gradient"])
def test_every_batching_is_the_mean_of_a_python_loop(float64, batching, of, key):
    learner = make_maml()
    tasks = stacked_regression_tasks(key)
    meta_params = learner.init(key, regression_task(key))
    fn = jmeta.episode(learner, losses.squared_error)
    if of == "gradient":
        fn = jax.value_and_grad(fn, has_aux=True)
    got = jax.jit(jmeta.over_tasks(fn, batching=batching))(meta_params, tasks, key)
    each = [
        fn(meta_params, jax.tree.map(lambda leaf, i=i: leaf[i], tasks), task_key)
        for i, task_key in enumerate(jax.random.split(key, 4))
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 4, *each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), got, expected)


def test_counts_in_aux_are_averaged_as_floats(key):
    fn = jmeta.over_tasks(lambda meta_params, task, key: {"hits": task, "done": task > 1}, batching="scan")
    assert fn(None, jnp.array([1, 2]), key) == {"hits": 1.5, "done": 0.5}


@pytest.mark.parametrize("batching", ["scan", 2])
def test_every_batching_has_one_result_type(batching, key):
    """Else a state in half precision would change its dtype in a scan over meta-steps."""
    fn = lambda meta_params, task, key: {"half": task, "count": task > 1, "nested": (task.astype(int), task + 0.5j)}
    stacked = jnp.arange(4, dtype=jnp.bfloat16)
    types = [jax.eval_shape(jmeta.over_tasks(fn, each), None, stacked, key) for each in ("vmap", batching)]
    assert types[0] == types[1]


@pytest.mark.parametrize("batching", ["map", 0, -2, True])
def test_unknown_batching_is_refused(batching):
    with pytest.raises(ValueError, match="expected 'auto', 'vmap', 'scan' or a positive number"):
        jmeta.over_tasks(lambda *_: 0.0, batching=batching)


def test_a_chunk_that_does_not_divide_the_tasks_is_refused(key):
    with pytest.raises(ValueError, match="batching=3 does not divide the 4 tasks"):
        jmeta.over_tasks(lambda m, task, key: task, batching=3)(None, jnp.zeros(4), key)


@pytest.mark.parametrize("tasks", [(jnp.zeros(3), jnp.zeros(4)), (jnp.zeros(3), jnp.zeros(()))])
def test_tasks_that_are_not_stacked_are_refused(tasks, key):
    with pytest.raises(ValueError, match="expected stacked tasks"):
        jmeta.over_tasks(lambda m, task, key: 0.0)(None, tasks, key)


def test_reptiles_gradient_is_the_way_to_the_adapted_parameters(float64, key):
    learner = learners.reptile(smooth_mlp(), losses.squared_error, INNER, num_steps=3)
    task = regression_task(key)
    meta_params = learner.init(key, task)
    grads, aux = jax.grad(jmeta.episode(learner, losses.squared_error), has_aux=True)(meta_params, task, key)
    adapted = learner.adapt(meta_params, task.support, jax.random.split(key)[0])
    jax.tree.map(lambda g, theta, phi: np.testing.assert_allclose(g, theta - phi), grads, meta_params, adapted)
    outputs = learner.predict(meta_params, adapted, task.query.x, None)
    np.testing.assert_allclose(aux["squared_error"], jnp.mean((outputs - task.query.y) ** 2))


def test_a_learner_is_trained_by_its_own_episode_and_evaluated_by_the_plain_one(key):
    own = lambda loss_fn: lambda meta_params, task, key: (jnp.float32(3.0), {"of": loss_fn})
    learner, task = make_maml()._replace(episode=own), regression_task(key)
    meta_params = learner.init(key, task)
    loss, aux = jmeta.episode(learner, losses.squared_error)(meta_params, task, key)
    assert (loss, aux) == (3.0, {"of": losses.squared_error})
    evaluated, expected = (jmeta.plain_episode(each, losses.squared_error) for each in (learner, make_maml()))
    assert evaluated(meta_params, task, key) == expected(meta_params, task, key)


@pytest.mark.parametrize("judge", ["episode", "plain_episode", "evaluate"])
def test_a_loss_without_aux_is_refused(key, judge):
    loss_fn = lambda outputs, batch: jnp.square(outputs - batch.y).mean()
    sample = tasks.sinusoid(num_shots=2, num_queries=2)
    learner = learners.reptile(models.mlp([4, 1]), losses.squared_error, optax.sgd(0.1), num_steps=1)
    task = sample(key)
    meta_params = learner.init(key, task)
    judges = {
        "episode": lambda: jmeta.episode(learner, loss_fn)(meta_params, task, key),
        "plain_episode": lambda: jmeta.plain_episode(learner, loss_fn)(meta_params, task, key),
        "evaluate": lambda: jmeta.evaluate(
            learner, loss_fn, meta_params, sample, key, protocol="sinusoid", num_tasks=2
        ),
    }
    with pytest.raises(ValueError, match=r"what loss_fn returns must be \(loss, aux\)"):
        judges[judge]()


@pytest.mark.optimized
def test_tasks_can_be_rematerialized(key):
    """The gradient of an average of checkpointed episodes: the same, with what one task computes in memory."""
    layers = jax.random.normal(key, (8, 64, 64)) / 8

    def episode_fn(meta_params, task, key):
        return jax.lax.scan(lambda x, layer: (jnp.tanh(x @ layer), None), task, meta_params)[0].sum(), {}

    def compiled(fn):
        mean = lambda layers, tasks: jmeta.over_tasks(fn, "scan")(layers, tasks, key)[0]
        return jax.jit(jax.grad(mean)).lower(layers, stacked).compile()

    stacked = jax.random.normal(key, (16, 32, 64))
    plain, rematerialized = compiled(episode_fn), compiled(jax.checkpoint(episode_fn))
    np.testing.assert_allclose(rematerialized(layers, stacked), plain(layers, stacked), rtol=1e-4, atol=1e-5)
    of_a_task = 8 * stacked[0].nbytes
    stored = [fn.memory_analysis().temp_size_in_bytes for fn in (plain, rematerialized)]
    assert stored[0] - stored[1] > 14 * of_a_task


@pytest.mark.parametrize("batching", ["vmap", "scan", 2])
def test_no_key_is_used_twice_by_a_mean_over_tasks(key, batching):
    mean = jmeta.over_tasks(lambda meta_params, task, key: meta_params * task * jax.random.normal(key), batching)
    with jax.debug_key_reuse(True):
        assert np.isfinite(jax.jit(mean)(2.0, jnp.arange(4.0), key))
