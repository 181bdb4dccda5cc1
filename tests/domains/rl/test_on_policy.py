"""Meta-steps on what the learner collects: the same updates as by hand, counted as one step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Task, models
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.on_policy import on_policy_trainer


@pytest.fixture
def parts():
    environment, sample = environments.bernoulli_bandit(2)
    policy = policies.actor_critic(models.gru(4), environment)
    run = rollouts.run_episode(environment, policy, num_steps=5)
    collect = policy_gradients.collect_episode(run, discount=0.9, gae_lambda=0.5)
    episode_fn = jmeta.episode(rl.learners.rl2(policy), policy_gradients.ppo_loss(entropy_weight=0.01))
    trainer = jmeta.meta_trainer(
        jax.value_and_grad(jmeta.over_tasks(episode_fn, "vmap"), has_aux=True), optax.adam(1e-2)
    )
    params = rollouts.init_policy(environment, policy)(jax.random.key(0))
    return trainer, collect, params, jax.vmap(sample)(jax.random.split(jax.random.key(1), 6))


def test_one_epoch_is_one_update_on_what_was_collected(parts, key):
    trainer, collect, params, env_params = parts
    state, aux = jax.jit(on_policy_trainer(trainer, collect).update)(trainer.init(params), env_params, key)
    key_collect, _ = jax.random.split(key)
    collect_all = jax.jit(jax.vmap(collect, in_axes=(None, 0, 0)))
    tasks = collect_all(params, env_params, jax.random.split(key_collect, 6))
    by_hand, aux_by_hand = jax.jit(trainer.update)(trainer.init(params), tasks, key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.meta_params, by_hand.meta_params
    )
    np.testing.assert_allclose(aux["loss"], aux_by_hand["loss"], rtol=1e-5)


def test_a_collection_is_one_meta_step_of_several_updates(parts, key):
    trainer, collect, params, env_params = parts
    several = on_policy_trainer(trainer, collect, num_epochs=3, num_minibatches=2)
    state, aux = several.update(trainer.init(params), env_params, key)
    assert int(state.step) == 1
    assert int(state.optimizer_state[0].count) == 6
    assert int(state.num_skipped) == int(aux["is_skipped"]) == 0


def test_collected_tasks_know_how_far_the_run_is(parts, key):
    """All updates of a meta-step have its progress, though an update counts steps of its own."""
    _, collect, params, env_params = parts
    mean = lambda meta_params, tasks, key: ((tasks.progress.mean(), {}), jax.tree.map(jnp.zeros_like, meta_params))
    trainer = jmeta.meta_trainer(mean, optax.sgd(1.0))
    carrying = on_policy_trainer(trainer, collect, num_epochs=2, num_minibatches=3, num_total_steps=4)
    state = trainer.init(params)
    for step in range(3):
        state, aux = carrying.update(state, env_params, key)
        assert float(aux["loss"]) == step / 4


def test_every_task_is_in_one_minibatch_of_an_epoch(key):
    """The updates of an epoch of SGD at a rate of 1 on the tasks' own numbers add up to the sum over all of them."""
    collect = lambda meta_params, number, key: Task(Batch((), ()), Batch((), number))
    mean = lambda meta_params, tasks, key: (
        (tasks.query.y.mean(), {}),
        jax.tree.map(lambda leaf: tasks.query.y.sum(), meta_params),
    )
    trainer = on_policy_trainer(jmeta.meta_trainer(mean, optax.sgd(1.0)), collect, num_epochs=2, num_minibatches=3)
    state, _ = trainer.update(trainer.init(jnp.zeros(())), jnp.arange(6.0), key)
    assert float(state.meta_params) == -2 * 15


def test_a_step_with_a_bad_update_is_counted_as_skipped_once(key):
    collect = lambda meta_params, number, key: Task(Batch((), ()), Batch((), number))
    bad = lambda meta_params, tasks, key: ((jnp.nan * tasks.query.y.mean(), {}), meta_params)
    trainer = on_policy_trainer(jmeta.meta_trainer(bad, optax.sgd(1.0)), collect, num_epochs=4)
    state, _ = trainer.update(trainer.init(jnp.ones(())), jnp.arange(6.0), key)
    state, _ = trainer.update(state, jnp.arange(6.0), key)
    assert (int(state.step), int(state.num_skipped), int(state.num_skipped_in_a_row)) == (2, 2, 2)
    assert int(state.last_skipped_step) == 1
    assert float(state.meta_params) == 1.0


def test_advantages_are_normalized_over_all_tasks(parts, key):
    _, collect, params, env_params = parts
    tasks = jax.vmap(collect, in_axes=(None, 0, 0))(params, env_params, jax.random.split(key, 6))
    scaled = policy_gradients.with_normalized_advantages(tasks).query.y.advantage
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-5)
    raw = np.asarray(tasks.query.y.advantage)
    np.testing.assert_allclose(scaled, (raw - raw.mean()) / raw.std(), rtol=1e-4, atol=1e-5)


def test_numbers_that_do_not_fit_are_refused(parts, key):
    trainer, collect, params, env_params = parts
    with pytest.raises(ValueError, match="expected at least 1"):
        on_policy_trainer(trainer, collect, num_epochs=0)
    with pytest.raises(ValueError, match="num_minibatches=4 does not divide the 6 tasks"):
        on_policy_trainer(trainer, collect, num_minibatches=4).update(trainer.init(params), env_params, key)
