"""What every environment does at the end of a rollout; spaces; bandits; and gymnax, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models
from jmeta.domains.rl.environments import (
    BanditParams,
    Box,
    Discrete,
    bernoulli_bandit,
    environment,
    gaussian_bandit,
    with_previous_observation,
)
from jmeta.domains.rl.environments.meta_maze import meta_maze
from jmeta.domains.rl.environments.point_navigation import point_navigation, sparse_point_navigation
from jmeta.domains.rl.environments.tabular_mdp import tabular_mdp
from jmeta.domains.rl.policies import actor_critic
from jmeta.domains.rl.rollouts import init_policy, run_episode

LIMIT = 5
NEEDS_GYMNAX = "gymnax is not installed: pip install 'jmeta[environments]'"


def walk():
    """Counts steps from a random start in 0.0 .. 0.5; ends by its rules after `length` steps, and by time after 5."""

    def reset(key, length):
        at = jax.random.uniform(key, maxval=0.5)
        return at, (at, jnp.int32(0))

    def step(key, state, action, length):
        at, time = state[0] + 1, state[1] + 1
        return at, (at, time), jax.random.uniform(key), time == length

    return environment(
        "walk",
        reset,
        step,
        lambda state, length: state[1] >= LIMIT,
        observation_space=Box(0.0, 100.0, ()),
        action_space=Discrete(2),
        default_params=jnp.int32(3),
    )


def steps(env, params, num_steps, key=None):
    """`(observations, states, rewards, terminated, truncated, infos)`, from a reset on; the action is 0."""
    key_reset, key_steps = jax.random.split(jax.random.key(0) if key is None else key)

    def one_step(state, key):
        observation, state, *rest = env.step(key, state, jnp.int32(0), params)
        return state, (observation, state, *rest)

    return jax.lax.scan(one_step, env.reset(key_reset, params)[1], jax.random.split(key_steps, num_steps))[1]


@pytest.mark.parametrize(
    ("length", "terminated", "truncated"),
    [
        (2, [0, 1, 0, 1, 0, 1], [0] * 6),
        (9, [0] * 6, [0, 0, 0, 0, 1, 0]),
        (LIMIT, [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0]),
    ],
)
def test_a_rollout_ends_by_its_rules_or_its_time_limit_and_the_next_one_starts(length, terminated, truncated):
    observations, (at, time), _, is_terminated, is_truncated, info = steps(walk(), jnp.int32(length), 6)
    np.testing.assert_array_equal(is_terminated, np.array(terminated, bool))
    np.testing.assert_array_equal(is_truncated, np.array(truncated, bool))
    period = min(length, LIMIT)
    np.testing.assert_array_equal(time, (np.arange(6) + 1) % period)
    np.testing.assert_array_equal(np.floor(observations), time)
    np.testing.assert_array_equal(observations, at)
    np.testing.assert_array_equal(np.floor(info["final_observation"]), np.arange(6) % period + 1)


def test_the_last_observation_is_that_of_the_rollout_that_ended():
    observations, *_, terminated, _, info = steps(walk(), jnp.int32(3), 7)
    start = np.asarray(observations) % 1
    last = np.asarray(info["final_observation"]) % 1
    np.testing.assert_allclose(last[terminated], start[np.flatnonzero(terminated) - 1], atol=1e-6)
    goes_on = ~np.asarray(terminated)
    np.testing.assert_array_equal(info["final_observation"][goes_on], observations[goes_on])
    assert len(np.unique(start.round(4))) == 3  # each rollout has a start of its own


def test_without_time_limit_and_new_start_a_rollout_goes_on(key):
    env = walk()
    observation, state = env.reset_env(key, jnp.int32(2))
    np.testing.assert_array_equal(observation, env.reset(key, jnp.int32(2))[0])
    ends = []
    for _ in range(7):
        observation, state, _, terminated, _ = env.step_env(key, state, 0, jnp.int32(2))
        ends.append(bool(terminated))
    assert ends == [False, True] + [False] * 5
    assert int(state[1]) == 7
    assert int(observation) == 7


def test_a_step_and_the_next_start_are_drawn_from_different_keys(key):
    env = walk()
    with jax.debug_key_reuse(True):
        _, state = env.reset(key, jnp.int32(1))
        observation, _, reward, *_ = env.step(jax.random.key(1), state, 0, jnp.int32(1))
    assert abs(float(observation) - 0.5 * float(reward)) > 1e-6


def test_a_batch_of_tasks_is_one_at_a_time():
    lengths = jnp.array([1, 2, 3, 9], jnp.int32)
    together = jax.jit(jax.vmap(lambda length: steps(walk(), length, 6)))(lengths)
    for i, length in enumerate(lengths):
        alone = steps(walk(), length, 6)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), alone, jax.tree.map(lambda x: x[i], together)
        )


def test_discrete_spaces_hold_all_numbers_alike(key):
    space = Discrete(5)
    drawn = jax.jit(jax.vmap(space.sample))(jax.random.split(key, 5000))
    assert drawn.dtype == space.dtype
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 5000, 0.2, atol=0.03)
    assert [bool(space.contains(jnp.array(x))) for x in (-1, 0, 4, 5)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("low", "high", "mean", "variance"),
    [(-1.0, 3.0, 1.0, 16 / 12), (-np.inf, np.inf, 0.0, 1.0), (0.0, np.inf, 1 / np.sqrt(2 * np.pi), 0.5 - 0.5 / np.pi)],
)
def test_boxes_are_uniform_normal_or_clipped(key, low, high, mean, variance):
    space = Box(low, high, (2, 3))
    drawn = jax.vmap(space.sample)(jax.random.split(key, 2000))
    assert drawn.shape == (2000, 2, 3)
    assert drawn.dtype == space.dtype
    assert bool(space.contains(drawn))
    np.testing.assert_allclose(drawn.mean(), mean, atol=0.05)
    np.testing.assert_allclose(drawn.var(), variance, atol=0.06)


def test_boxes_know_what_is_outside():
    space = Box(-1.0, 1.0, (2,))
    assert [bool(space.contains(jnp.array(x))) for x in ([-1.0, 1.0], [0.0, 1.1], [-1.1, 0.0])] == [True, False, False]


def test_spaces_are_sampled_in_compiled_functions(key):
    for space in (Discrete(3), Box(0.0, 1.0, (2,)), Box(-np.inf, np.inf, (2,))):
        np.testing.assert_array_equal(jax.jit(space.sample)(key), space.sample(key))


def test_bernoulli_arms_pay_as_often_as_the_task_says(key):
    bandit, _ = bernoulli_bandit(3)
    params = BanditParams(jnp.array([0.0, 0.3, 1.0]))
    _, state = bandit.reset(key, params)
    pull = jax.jit(jax.vmap(lambda key, arm: bandit.step(key, state, arm, params)[2], (0, None)))
    for arm, mean in enumerate([0.0, 0.3, 1.0]):
        rewards = pull(jax.random.split(jax.random.key(1), 4000), jnp.int32(arm))
        assert set(np.unique(rewards)) <= {0.0, 1.0}
        np.testing.assert_allclose(rewards.mean(), mean, atol=0.03)  # four standard errors
        np.testing.assert_allclose(rewards.var(), mean * (1 - mean), atol=0.02)


def test_gaussian_arms_pay_their_means_with_the_stated_noise(key):
    bandit, _ = gaussian_bandit(2, noise=0.5)
    exact, _ = gaussian_bandit(2, noise=0.0)
    params = BanditParams(jnp.array([-2.0, 1.5]))
    _, state = bandit.reset(key, params)
    pull = jax.jit(jax.vmap(lambda key, arm: bandit.step(key, state, arm, params)[2], (0, None)))
    for arm, mean in enumerate([-2.0, 1.5]):
        rewards = pull(jax.random.split(jax.random.key(1), 4000), jnp.int32(arm))
        np.testing.assert_allclose(rewards.mean(), mean, atol=0.035)
        np.testing.assert_allclose(rewards.std(), 0.5, atol=0.025)
        assert exact.step(key, state, jnp.int32(arm), params)[2] == mean


def test_arms_of_tasks_are_distributed_as_stated(key):
    keys = jax.random.split(key, 4000)
    uniform = jax.vmap(bernoulli_bandit(3)[1])(keys).means
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    np.testing.assert_allclose(uniform.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(uniform.var(0), 1 / 12, atol=0.005)
    normal = jax.vmap(gaussian_bandit(3, spread=2.0)[1])(keys).means
    np.testing.assert_allclose(normal.mean(0), 0, atol=0.13)
    np.testing.assert_allclose(normal.std(0), 2, rtol=0.05)
    for means in (uniform, normal):
        np.testing.assert_allclose(np.corrcoef(means.T), np.eye(3), atol=0.07)


@pytest.mark.parametrize("make", [bernoulli_bandit, gaussian_bandit])
def test_every_pull_is_a_rollout_and_shows_nothing(make):
    bandit, sample = make(3)
    observations, states, _, terminated, truncated, info = steps(bandit, sample(jax.random.key(1)), 4)
    assert terminated.all()
    assert not truncated.any()
    for nothing in (observations, states, info["final_observation"]):
        np.testing.assert_array_equal(nothing, jnp.zeros_like(nothing))


def test_mistakes_in_bandits_are_refused():
    with pytest.raises(ValueError, match="num_arms=0"):
        bernoulli_bandit(0)
    with pytest.raises(ValueError, match=r"spread=1\.0 and noise=-1\.0 are standard deviations"):
        gaussian_bandit(2, noise=-1.0)


OURS = {
    "bernoulli_bandit": lambda: bernoulli_bandit(3),
    "meta_maze": lambda: meta_maze(size=5, num_steps=4),
    "point_navigation": lambda: point_navigation(num_steps=4),
    "sparse_point_navigation": lambda: sparse_point_navigation(num_steps=4),
}


@pytest.mark.parametrize("name", OURS)
def test_samplers_cross_compiled_functions_and_make_the_parameters_of_their_environment(name):
    env, sample = OURS[name]()
    params = jax.jit(lambda sample, key: sample(key))(sample, jax.random.key(0))
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert shapes(params) == shapes(env.default_params)
    assert jax.tree.structure(OURS[name]()[1]) == jax.tree.structure(sample)  # so nothing is compiled twice
    observation, _ = env.reset(jax.random.key(1), params)
    space = env.observation_space(params)
    assert observation.shape == space.shape
    assert observation.dtype == space.dtype


@pytest.mark.parametrize("name", OURS)
def test_ours_run_under_code_written_for_gymnax(name):
    """Its wrapper that logs returns and lengths of rollouts; and its batched rollouts."""
    wrappers = pytest.importorskip("gymnax.wrappers", reason=NEEDS_GYMNAX)
    env, sample = OURS[name]()
    params = sample(jax.random.key(0))
    logged = wrappers.LogWrapper(env)
    assert logged.name == env.name
    assert logged.action_space(params) == env.action_space(params)

    def one_step(state, key):
        key_action, key_step = jax.random.split(key)
        action = env.action_space(params).sample(key_action)
        _, state, reward, terminated, truncated, info = logged.step(key_step, state, action, params)
        return state, (reward, terminated | truncated, info)

    _, state = logged.reset(jax.random.key(1), params)
    _, (rewards, is_over, info) = jax.lax.scan(one_step, state, jax.random.split(jax.random.key(2), 9))
    ends = np.flatnonzero(is_over)
    lengths = np.diff([-1, *ends])
    np.testing.assert_array_equal(info["returned_episode_lengths"][ends], lengths)
    sums = [rewards[end - length + 1 : end + 1].sum() for end, length in zip(ends, lengths, strict=True)]
    np.testing.assert_allclose(info["returned_episode_returns"][ends], sums, rtol=1e-5)
    assert len(ends) >= 2


@pytest.mark.parametrize("name", OURS)
def test_ours_run_under_the_older_interface_and_flattened(name):
    wrappers = pytest.importorskip("gymnax.wrappers", reason=NEEDS_GYMNAX)
    env, sample = OURS[name]()
    params, key = sample(jax.random.key(0)), jax.random.key(1)
    _, state = env.reset(key, params)
    action = jnp.zeros_like(env.action_space(params).sample(key))
    observation, _, reward, terminated, truncated, _ = env.step(key, state, action, params)
    old = wrappers.LegacyStepAPIWrapper(env).step(key, state, action, params)
    assert bool(old[3]) == bool(terminated | truncated)
    np.testing.assert_array_equal(old[2], reward)
    flat = wrappers.FlattenObservationWrapper(env).step(key, state, action, params)
    np.testing.assert_array_equal(flat[0], observation.reshape(-1))


GYMNAX = [
    "BernoulliBandit-misc",
    "GaussianBandit-misc",
    "CartPole-v1",
    "MetaMaze-misc",
    "PointRobot-misc",
    "Reacher-misc",
]


@pytest.mark.parametrize("name", GYMNAX)
def test_environments_of_gymnax_run_under_our_policies(name):
    """Their code broadcasts ranks, so it is run as its users run it."""
    gymnax = pytest.importorskip("gymnax", reason=NEEDS_GYMNAX)
    env, params = gymnax.make(name)
    with jax.numpy_rank_promotion("allow"):
        policy = actor_critic(models.gru(4), env)
        run = run_episode(env, policy, num_steps=12)
        experience = jax.jit(run)(init_policy(env, policy)(jax.random.key(0)), params, jax.random.key(1))
    assert experience.reward.shape == experience.is_over.shape == (12,)
    assert experience.reward.dtype == jnp.float32
    assert experience.is_over.dtype == bool
    assert experience.action.shape == (12, *env.action_space(params).shape)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(experience))
    np.testing.assert_array_equal(experience.inputs.reward[1:], experience.reward[:-1])


def test_a_task_of_gymnax_is_its_parameters():
    """Tasks are batched over gymnax's parameters as over ours: here, how long a rollout is."""
    gymnax = pytest.importorskip("gymnax", reason=NEEDS_GYMNAX)
    env, params = gymnax.make("CartPole-v1")
    policy = actor_critic(models.gru(4), env)
    run = run_episode(env, policy, num_steps=8)
    tasks = params.replace(max_steps_in_episode=jnp.array([2, 4]))
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, tasks)
    with jax.numpy_rank_promotion("allow"):
        policy_params = init_policy(env, policy)(jax.random.key(0))
        experience = jax.vmap(run, (None, axes, None))(policy_params, tasks, jax.random.key(1))
    np.testing.assert_array_equal(experience.is_over, [[False, True] * 4, [False, False, False, True] * 2])


def test_a_previous_observation_is_that_of_the_state_that_was_left():
    pairs, (before, state), rewards, terminated, _, info = steps(with_previous_observation(walk()), jnp.int32(3), 7)
    observations, inner, expected_rewards, expected_terminated, _, expected_info = steps(walk(), jnp.int32(3), 7)
    (first, zero), _ = with_previous_observation(walk()).reset(jax.random.split(jax.random.key(0))[0], jnp.int32(3))
    assert float(zero) == 0
    np.testing.assert_array_equal(pairs[:, 0], observations)
    np.testing.assert_array_equal(pairs[:, 1], np.concatenate([first[None], observations[:-1]]))
    np.testing.assert_array_equal(info["final_observation"][:, 0], expected_info["final_observation"])
    np.testing.assert_array_equal(info["final_observation"][:, 1], pairs[:, 1])
    np.testing.assert_array_equal(before[:, 0], observations)
    jax.tree.map(np.testing.assert_array_equal, (state, rewards), (inner, expected_rewards))
    np.testing.assert_array_equal(terminated, expected_terminated)


def test_pairs_of_choices_are_one_hot_and_in_their_space(key):
    mdp, sample = tabular_mdp(num_states=3, num_actions=2, horizon=4)
    mdp, params = with_previous_observation(mdp), sample(key)
    assert mdp.observation_space(params) == Box(0.0, 1.0, (6,))
    pairs, *_ = steps(mdp, params, 9)
    np.testing.assert_array_equal(pairs.reshape(9, 2, 3).sum(-1), 1)
    observation, state = mdp.reset_env(key, params)
    np.testing.assert_array_equal(observation, [1, 0, 0, 0, 0, 0])
    for _ in range(6):  # past the time limit, where nothing begins anew
        previous, (observation, state, *_) = observation, mdp.step_env(key, state, 0, params)
        np.testing.assert_array_equal(observation[3:], previous[:3])
    assert int(state[1].time) == 6


def test_a_policy_on_pairs_acts(key):
    env = with_previous_observation(point_navigation()[0])
    assert env.observation_space(env.default_params).shape == (4,)
    policy = actor_critic(models.gru(4), env)
    experience = run_episode(env, policy, num_steps=5)(init_policy(env, policy)(key), env.default_params, key)
    assert np.isfinite(experience.reward).all()


def test_pairs_of_observations_of_gymnax(key):
    gymnax = pytest.importorskip("gymnax", reason=NEEDS_GYMNAX)
    theirs, params = gymnax.make("CartPole-v1")
    env = with_previous_observation(theirs)
    first, state = env.reset(key, params)
    pair, *_ = env.step(key, state, 1, params)
    assert env.observation_space(params).shape == (8,)
    np.testing.assert_array_equal(first[4:], 0)
    np.testing.assert_array_equal(pair[4:], first[:4])
