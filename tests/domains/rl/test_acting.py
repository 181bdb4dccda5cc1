"""Methods that act, against the same written out from their parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import models, sharding
from jmeta.domains import rl
from jmeta.domains.rl import acting, environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.on_policy import on_policy_trainer
from jmeta.sharding import Sharing

NUM_TASKS, NUM_STEPS, HORIZON, NUM_ROLLOUTS = 4, 5, 6, 3
SGD = optax.sgd(0.1)


def with_memory(**changes):
    environment, sample = environments.bernoulli_bandit(2)
    policy = policies.actor_critic(models.gru(4), environment)
    episode_fn = jmeta.episode(rl.learners.rl2(policy), policy_gradients.ppo_loss(entropy_weight=0.01))
    numbers = {"num_steps": NUM_STEPS, "discount": 0.9, "gae_lambda": 0.5, "reward_scale": 0.5, **changes}
    return acting.with_memory(environment, policy, episode_fn, SGD, **numbers), environment, policy, episode_fn, sample


def adapting():
    """`(inner, sample)`: a policy of short rollouts on point navigation."""
    navigation, sample = environments.point_navigation(num_steps=HORIZON)
    policy = policies.memoryless(models.mlp([4, 2]), navigation)
    numbers = {"num_rollouts": NUM_ROLLOUTS, "horizon": HORIZON}
    return acting.adapting(navigation, policy, policy_gradients.reinforce, SGD, **numbers), sample


def updated(trainer, init, sample):
    """`(meta_params, aux)` after one meta-step."""

    @jax.jit
    def one_step(key):
        key_init, key_tasks, key_update = jax.random.split(key, 3)
        env_params = jax.vmap(sample)(jax.random.split(key_tasks, NUM_TASKS))
        state, aux = trainer.update(trainer.init(init(key_init)), env_params, key_update)
        return state.meta_params, aux

    return one_step(jax.random.key(0))


def assert_close(first, second, **tolerances):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 1e-5} | tolerances)), first, second)


def test_a_policy_with_memory_is_trained_as_written_out():
    numbers = {"num_epochs": 2, "num_minibatches": 2, "num_total_steps": 7}
    method, environment, policy, episode_fn, sample = with_memory(**numbers)
    run = rollouts.run_episode(environment, policy, num_steps=NUM_STEPS)
    by_hand = on_policy_trainer(
        jmeta.meta_trainer(jax.value_and_grad(jmeta.over_tasks(episode_fn, "vmap"), has_aux=True), SGD),
        policy_gradients.collect_episode(run, discount=0.9, gae_lambda=0.5, reward_scale=0.5),
        prepare=policy_gradients.with_normalized_advantages,
        **numbers,
    )
    init = rollouts.init_policy(environment, policy)
    assert_close(updated(method.trainer, method.init, sample), updated(by_hand, init, sample), atol=1e-7)


def test_tasks_with_memory_in_chunks_are_tasks_all_at_once():
    method, *_, sample = with_memory()
    chunked, *_ = with_memory(batching="scan")
    both = [updated(each.trainer, each.init, sample) for each in (method, chunked)]
    assert_close(*both, rtol=1e-4, atol=1e-6)


def test_devices_that_share_tasks_train_the_same():
    method, *_, sample = with_memory()
    shared = Sharing(sharding.make_mesh({"tasks": 1})).trainer(method.trainer)
    assert_close(*[updated(each, method.init, sample) for each in (method.trainer, shared)], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_greedy", [True, False])
def test_a_policy_with_memory_is_judged_by_its_returns(is_greedy, key):
    method, environment, policy, _, sample = with_memory(is_greedy=is_greedy, num_rollouts=2)
    params, env_params = method.init(key), sample(key)
    run = rollouts.run_episode(environment, policy, num_steps=NUM_STEPS, is_greedy=is_greedy)
    loss, aux = method.tested(params, env_params, key)
    assert float(aux["return"]) == -float(loss) == float(run(params, env_params, key).reward.sum())
    assert "return_of_rollout_2" in aux


def test_an_episode_collects_what_it_is_judged_on(key):
    method, environment, policy, episode_fn, sample = with_memory()
    params, env_params = method.init(key), sample(key)
    key_collect, key_episode = jax.random.split(key)
    run = rollouts.run_episode(environment, policy, num_steps=NUM_STEPS)
    collect = policy_gradients.collect_episode(run, discount=0.9, gae_lambda=0.5, reward_scale=0.5)
    expected = episode_fn(params, collect(params, env_params, key_collect), key_episode)
    assert_close(method.episode_fn(params, env_params, key), expected)


def test_an_entropy_that_fades_is_whole_at_the_beginning(key):
    method, environment, policy, _, sample = with_memory()
    plain = jmeta.episode(rl.learners.rl2(policy), policy_gradients.ppo_loss())
    fading = policy_gradients.with_fading_entropy(plain, 0.01)
    numbers = {"num_steps": NUM_STEPS, "discount": 0.9, "gae_lambda": 0.5, "reward_scale": 0.5, "num_total_steps": 5}
    faded = acting.with_memory(environment, policy, fading, SGD, **numbers)
    params, env_params = method.init(key), sample(key)
    assert_close(faded.episode_fn(params, env_params, key), method.episode_fn(params, env_params, key))
    first = updated(faded.trainer, faded.init, sample)
    assert_close(first, updated(method.trainer, method.init, sample), atol=1e-6)


def test_maml_with_ppo_is_trained_as_written_out():
    inner, sample = adapting()
    method = acting.maml_with_ppo(inner, SGD, num_steps=1, clip=0.2, num_epochs=2, kl_weight=0.1, batching="vmap")
    learner = rl.learners.maml_rl(inner.policy, inner.surrogate, SGD, num_steps=1, kl_weight=0.1)
    episode_fn = jmeta.episode(learner, policy_gradients.ppo_loss(clip=0.2, value_weight=0.0))
    by_hand = on_policy_trainer(
        jmeta.meta_trainer(jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True), "vmap"), SGD),
        rl.learners.collect_adaptation(inner.policy, inner.surrogate, SGD, inner.roll_out, num_steps=1),
        num_epochs=2,
    )
    assert_close(updated(method.trainer, method.init, sample), updated(by_hand, method.init, sample), atol=1e-7)


def test_no_inner_step_is_the_policy_as_it_is(key):
    inner, sample = adapting()
    params, env_params = rollouts.init_policy(inner.environment, inner.policy)(key), sample(key)
    loss, aux = jax.jit(acting.returns_after(inner, 0))(params, env_params, key)
    (key_query,) = jax.random.split(key, 1)
    batch = jax.jit(inner.roll_out)(params, env_params, key_query)
    np.testing.assert_allclose(aux["return"], batch.y.reward.sum() / NUM_ROLLOUTS, rtol=1e-6)
    assert float(loss) == -float(aux["return"])


def test_a_method_is_judged_after_as_many_inner_steps_as_in_training(key):
    inner, sample = adapting()
    method = acting.maml_with_trpo(inner, num_steps=2)
    params, env_params = method.init(key), sample(key)
    expected = jax.jit(acting.returns_after(inner, 2))(params, env_params, key)
    assert_close(jax.jit(method.tested)(params, env_params, key), expected)


def test_a_trust_region_bounds_the_adapted_policies_and_its_tasks_may_come_in_chunks():
    """Decisions and objective go over the tasks apart from each other; a solve amplifies rounding."""
    inner, sample = adapting()
    methods = {batching: acting.maml_with_trpo(inner, num_steps=1, batching=batching) for batching in ("vmap", 2)}
    after = {batching: updated(each.trainer, each.init, sample) for batching, each in methods.items()}
    (params, aux), (others, facts) = after["vmap"], after[2]
    assert 0 < float(aux["divergence"]) <= 0.01 * 1.001
    np.testing.assert_allclose(facts["grad_norm"], aux["grad_norm"], rtol=1e-5)
    np.testing.assert_allclose(facts["divergence"], aux["divergence"], rtol=0.1)
    assert_close(others, params, atol=5e-3, rtol=0)


def test_a_trust_region_is_refused_on_several_devices():
    inner, _ = adapting()
    with pytest.raises(ValueError, match="this trainer has no `share`"):
        Sharing(sharding.make_mesh({"tasks": 1})).trainer(acting.maml_with_trpo(inner, num_steps=1).trainer)


def test_numbers_out_of_their_range_are_refused():
    inner, _ = adapting()
    with pytest.raises(ValueError, match="expected a number in"):
        with_memory(discount=2.0)
    with pytest.raises(ValueError, match="num_steps=-1"):
        acting.maml_with_trpo(inner, num_steps=-1)
    with pytest.raises(ValueError, match="num_epochs=0"):
        acting.maml_with_ppo(inner, SGD, num_steps=1, num_epochs=0)


def test_tasks_of_environments_differ_by_their_keys_alone():
    _, sample = environments.bernoulli_bandit(3)
    source = environments.source(sample, "bandits")
    assert source.meta_train() == source.meta_valid == source.meta_test == sample
    assert source.describe(7) == "bandits, 7 tasks"
    assert jnp.shape(source.meta_test(jax.random.key(0)).means) == (3,)
