"""Every learner, sampler and adjoint of the registry through the same contract."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import learners, losses, models, tasks, testing

from .differences import trace_strictly
from .networks import regression_task
from .registry import ADJOINTS, LEARNERS, OF_NUMBERS, SAMPLERS, SEQUENCE_MODELS, WAYS


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_obeys_the_contract(name, key):
    entry = LEARNERS[name]
    testing.check_learner(
        entry.learner,
        entry.loss_fn,
        entry.sample,
        key,
        depends_on_order=entry.depends_on_order,
        has_meta_params=entry.has_meta_params,
        ignores_padding=entry.ignores_padding,
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_obeys_the_contract(name, key):
    testing.check_sampler(SAMPLERS[name], key, num_ways=None if name in OF_NUMBERS else WAYS)


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_a_network_with_memory_obeys_the_contract(name, key):
    testing.check_sequence_model(SEQUENCE_MODELS[name], key)


def test_a_network_that_looks_ahead_is_caught(key):
    gru = models.gru(4)

    def unroll(params, memory, x):
        return gru.unroll(params, memory, x + jnp.roll(x, -1, 0))

    with pytest.raises(AssertionError, match="steps in turn differ from `unroll`"):
        testing.check_sequence_model(gru._replace(unroll=unroll), key)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_promotes_no_dtype_and_uses_no_key_twice(name, key):
    learner, loss_fn, sample, *_ = LEARNERS[name]
    task = sample(key)._replace(progress=jnp.float32(0.5))

    def init_adapt_predict(task, key_init, key_adapt, key_predict):
        meta_params = learner.init(key_init, task)
        adapted = learner.adapt(meta_params, task.support, key_adapt)
        still = learner.predict(meta_params, adapted, task.query.x, None)
        return loss_fn(learner.predict(meta_params, adapted, task.query.x, key_predict), task.query), still

    trace_strictly(init_adapt_predict, task, *jax.random.split(key, 3))
    meta_params = jax.eval_shape(learner.init, key, task)
    trace_strictly(jax.value_and_grad(jmeta.episode(learner, loss_fn), has_aux=True), meta_params, task, key)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_promotes_no_dtype_and_uses_no_key_twice(name, key):
    trace_strictly(SAMPLERS[name], key)
    trace_strictly(tasks.stacked(SAMPLERS[name], 3), key)


def test_the_strict_checks_can_fail(key):
    with pytest.raises(jax.errors.KeyReuseError):
        trace_strictly(lambda key: jax.random.normal(key) + jax.random.uniform(key), key)
    with pytest.raises(jax.errors.KeyReuseError):
        trace_strictly(jax.grad(lambda x, key: x * jax.random.normal(key) * jax.random.uniform(key)), 1.0, key)
    with pytest.raises(jax.dtypes.TypePromotionError):
        trace_strictly(lambda x: x + jnp.arange(3), jnp.ones(3))


@pytest.mark.parametrize("name", LEARNERS)
def test_no_learner_leaks_between_queries_but_those_of_streams(name, key):
    entry = LEARNERS[name]
    task = entry.sample(key)
    meta_params = entry.learner.init(key, task)
    assert testing.leaks(entry.learner, meta_params, task, key).is_leaking == entry.is_stream


@pytest.mark.parametrize(
    "make",
    [
        lambda model, steps: learners.maml(model, losses.squared_error, optax.sgd(0.1), num_steps=steps),
        lambda model, steps: learners.first_order_maml(model, losses.squared_error, optax.sgd(0.1), num_steps=steps),
        lambda model, steps: learners.reptile(model, losses.squared_error, optax.sgd(0.1), num_steps=steps),
    ],
    ids=["maml", "first_order_maml", "reptile"],
)
def test_zero_inner_steps_is_the_initial_model(make, key):
    model, task = models.mlp([4, 1]), regression_task(key)
    learner = make(model, 0)
    meta_params = learner.init(key, task)
    adapted = learner.adapt(meta_params, task.support, key)
    jax.tree.map(np.testing.assert_array_equal, adapted, meta_params)


@pytest.mark.parametrize("name", ADJOINTS)
def test_every_adjoint_adapts_to_the_same_parameters(name, key):
    task = regression_task(key)
    make = lambda adjoint: learners.maml(
        models.mlp([4, 1]), losses.squared_error, optax.adam(0.1), num_steps=3, adjoint=adjoint
    )
    reference, learner = make(ADJOINTS["unrolled"]), make(ADJOINTS[name])
    meta_params = learner.init(key, task)
    adapted, expected = (each.adapt(meta_params, task.support, key) for each in (learner, reference))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), adapted, expected)
