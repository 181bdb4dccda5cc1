"""RL²: its memory is what it adapts, for four kinds of memory; and it learns to explore a bandit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Task, models, testing
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.on_policy import on_policy_trainer
from jmeta.models.causal_transformer import causal_transformer
from jmeta.models.snail import snail
from jmeta.training import sampled_steps

from ....slow import slow

NUM_ARMS, NUM_STEPS, NUM_SUPPORT = 3, 8, 3
BANDIT, SAMPLE_BANDIT = environments.bernoulli_bandit(NUM_ARMS)
MEMORIES = {
    "gru": models.gru(6),
    "lstm": models.lstm(6),
    "causal_transformer": causal_transformer(width=8, num_layers=1, num_heads=2, max_steps=NUM_STEPS + 2),
    "snail": snail(width=4, num_blocks=1, num_filters=3, key_width=4, value_width=3, max_steps=NUM_STEPS),
}


@functools.cache
def policy_of(name):
    return policies.actor_critic(MEMORIES[name], BANDIT)


@functools.cache
def sample_with(policy):
    """Episodes of a new policy, the first steps as support and the others as query."""
    run = rollouts.run_episode(BANDIT, policy, num_steps=NUM_STEPS)
    collect = policy_gradients.collect_episode(run, discount=0.9, gae_lambda=0.5)
    init = rollouts.init_policy(BANDIT, policy)

    @jax.jit
    def sample(key):
        key_init, key_task, key_collect = jax.random.split(key, 3)
        task = collect(init(key_init), SAMPLE_BANDIT(key_task), key_collect)
        part = lambda steps: Batch(*jax.tree.map(lambda leaf: leaf[steps], (task.query.x, task.query.y)))
        return Task(part(slice(None, NUM_SUPPORT)), part(slice(NUM_SUPPORT, None)))

    return sample


def params_and_task(policy, key):
    """With heads as large as other weights, so that decisions differ."""
    task = sample_with(policy)(key)
    params = jax.jit(policy.init)(key, task.query.x)
    louder = lambda path, leaf: 100 * leaf if path[0].key in ("actor", "critic") else leaf
    return jax.tree_util.tree_map_with_path(louder, params), task


def whole(task):
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), task.support.x, task.query.x)


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


@pytest.mark.parametrize("name", ["gru", *slow("causal_transformer", "snail")])
def test_it_obeys_the_contract(name, key):
    policy = policy_of(name)
    loss_fn = policy_gradients.ppo_loss(entropy_weight=0.1)
    testing.check_learner(rl.learners.rl2(policy), loss_fn, sample_with(policy), key, depends_on_order=True)


@pytest.mark.parametrize("name", MEMORIES)
def test_no_dtype_is_promoted_and_no_key_used_twice(name, key):
    policy = policy_of(name)
    learner, task = rl.learners.rl2(policy), sample_with(policy)(key)
    loss_fn = policy_gradients.ppo_loss()

    def init_adapt_predict(task, key_init, key_adapt, key_predict):
        meta_params = learner.init(key_init, task)
        adapted = learner.adapt(meta_params, task.support, key_adapt)
        return loss_fn(learner.predict(meta_params, adapted, task.query.x, key_predict), task.query)

    run = rollouts.run_episode(BANDIT, policy, num_steps=NUM_STEPS)
    with jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True):
        jax.jit(init_adapt_predict).trace(task, *jax.random.split(key, 3))
        params = jax.eval_shape(policy.init, key, task.query.x)
        jax.jit(run).trace(params, BANDIT.default_params, key)
        episode_fn = jax.value_and_grad(jmeta.episode(learner, loss_fn), has_aux=True)
        jax.jit(episode_fn).trace(params, task, key)


@pytest.mark.parametrize("name", MEMORIES)
def test_folding_steps_and_predicting_the_rest_is_predicting_all(name, key):
    policy = policy_of(name)
    learner = rl.learners.rl2(policy)
    params, task = params_and_task(policy, key)
    steps = whole(task)
    adapt, predict = jax.jit(learner.adapt), jax.jit(learner.predict)
    empty = adapt(params, Batch(jax.tree.map(lambda leaf: leaf[:0], steps), None), key)
    everything = predict(params, empty, steps, None)
    assert np.ptp(everything.distribution.logits) > 0.1
    for t in (1, NUM_STEPS // 2):
        before, after = (jax.tree.map(lambda leaf: leaf[part], steps) for part in (slice(t), slice(t, None)))
        adapted = adapt(params, Batch(before, None), key)
        assert_same(predict(params, adapted, after, None), jax.tree.map(lambda leaf: leaf[t:], everything))


@pytest.mark.parametrize("name", MEMORIES)
def test_deciding_step_by_step_is_predicting_the_episode_that_it_makes(name, key):
    policy = policy_of(name)
    params, _ = params_and_task(policy, key)
    run = rollouts.run_episode(BANDIT, policy, num_steps=NUM_STEPS)
    experience = jax.jit(run)(params, SAMPLE_BANDIT(key), key)
    learner = rl.learners.rl2(policy)
    empty = learner.adapt(params, Batch(jax.tree.map(lambda leaf: leaf[:0], experience.inputs), None), key)
    decisions = jax.jit(learner.predict)(params, empty, experience.inputs, None)
    assert_same(decisions, experience.outputs)
    assert_same(decisions.distribution.log_prob(experience.action), experience.log_prob)


@pytest.mark.parametrize("name", MEMORIES)
def test_masked_steps_change_nothing_wherever_they_stand(name, key):
    policy = policy_of(name)
    learner = rl.learners.rl2(policy)
    params, task = params_and_task(policy, key)
    place = jnp.array([0, 0, 1, 2, 2])  # rows of the support, of which the first of each pair is a wrong one
    mask = jnp.array([False, True, True, False, True])
    mixed = jax.tree.map(lambda leaf: leaf[place], task.support.x)
    mixed = mixed._replace(reward=jnp.where(mask, mixed.reward, 1e3), action=jnp.where(mask, mixed.action, 0))
    adapt = jax.jit(learner.adapt)
    expected = adapt(params, task.support, key)
    assert_same(adapt(params, Batch(mixed, None, mask), key), expected)
    different = adapt(params, Batch(mixed, None, jnp.ones(5, bool)), key)
    assert any(not np.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, (different, expected)), strict=True))


def test_a_decision_depends_on_the_steps_before_it_by_design(key):
    """The query is a stream and not a set, so what tells transductive from inductive says so."""
    policy = policy_of("gru")
    params, task = params_and_task(policy, key)
    report = testing.leaks(rl.learners.rl2(policy), params, task, key)
    assert report.is_leaking
    assert min(report.change_when_dropped, report.change_when_permuted) > 1e-3
    # of the first step of the query alone, nothing comes before
    first, later = (jax.tree.map(lambda leaf: leaf[:n], task.query.x) for n in (1, 4))
    learner = rl.learners.rl2(policy)
    adapted = learner.adapt(params, task.support, key)
    first, later = (learner.predict(params, adapted, x, None) for x in (first, later))
    assert_same(first, jax.tree.map(lambda leaf: leaf[:1], later))


OPTIMUM = 6.0218  # of 10 pulls of 2 arms, uniform in [0, 1], by dynamic programming over their wins and losses


@pytest.mark.slow
@pytest.mark.optimized
def test_it_learns_to_explore_a_bandit_nearly_as_well_as_can_be(key):
    """About 5.93 of 6.02 after 300 collections of 256 tasks, for any seed; pulling at random gets 5."""
    bandit, sample = environments.bernoulli_bandit(2)
    policy = policies.actor_critic(models.gru(32), bandit)
    run = rollouts.run_episode(bandit, policy, num_steps=10)
    collect = policy_gradients.collect_episode(run, discount=1.0, gae_lambda=0.3)
    loss_fn = policy_gradients.ppo_loss(entropy_weight=0.05)
    mean_grad = jax.value_and_grad(
        jmeta.over_tasks(jmeta.episode(rl.learners.rl2(policy), loss_fn), "vmap"), has_aux=True
    )
    num_steps, num_epochs, num_minibatches = 300, 4, 2
    schedule = optax.linear_schedule(1e-2, 0.0, num_steps * num_epochs * num_minibatches)
    trainer = on_policy_trainer(
        jmeta.meta_trainer(mean_grad, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))),
        collect,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        prepare=policy_gradients.with_normalized_advantages,
    )
    sample_tasks = lambda key: jax.vmap(sample)(jax.random.split(key, 256))
    state = trainer.init(rollouts.init_policy(bandit, policy)(key))
    state, aux = sampled_steps(trainer, num_steps=num_steps)(state, sample_tasks, key)
    assert abs(10 * aux["reward"][0] - 5) < 0.4  # standard error 0.16
    assert state.num_skipped == 0

    def judge(key):
        key_sample, key_run = jax.random.split(key)
        return run(state.meta_params, sample(key_sample), key_run).reward.sum()

    final = jax.jit(jax.vmap(judge))(jax.random.split(jax.random.key(1), 20_000)).mean()
    assert 5.87 < final < OPTIMUM + 0.06  # standard error 0.02
