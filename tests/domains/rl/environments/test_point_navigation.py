"""A point and its goal: the equations of motion and reward, where rollouts end, and where goals are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.domains.rl.environments.point_navigation import (
    PointParams,
    PointState,
    point_navigation,
    sparse_point_navigation,
)

FACTORIES = pytest.mark.parametrize("make", [point_navigation, sparse_point_navigation])


def follow(env, params, actions):
    """`(observations, rewards, terminated, truncated, infos)` of these actions, from the start on."""

    def one_step(state, action):
        observation, state, *rest = env.step(jax.random.key(1), state, action, params)
        return state, (observation, *rest)

    return jax.lax.scan(one_step, env.reset(jax.random.key(0), params)[1], jnp.asarray(actions, jnp.float32))[1]


@FACTORIES
def test_actions_are_velocities_clipped_in_each_coordinate(make):
    env, _ = make()
    observation, _ = env.reset(jax.random.key(0), PointParams(jnp.array([0.4, 0.4])))
    np.testing.assert_array_equal(observation, [0, 0])
    actions = [[0.05, -0.02], [5.0, -0.3], [-0.1, 0.0]]
    observations, *_ = follow(env, PointParams(jnp.array([0.4, 0.4])), actions)
    np.testing.assert_allclose(observations, np.clip(actions, -0.1, 0.1).cumsum(0), atol=1e-7)


@pytest.mark.parametrize("is_squared", [False, True])
def test_dense_rewards_are_of_the_position_after_the_step(key, is_squared):
    env, _ = point_navigation(is_squared=is_squared)
    goal, actions = np.array([0.3, -0.2]), 0.1 * np.random.default_rng(0).standard_normal((6, 2))
    _, rewards, terminated, *_ = follow(env, PointParams(jnp.asarray(goal, jnp.float32)), actions)
    distance = np.linalg.norm(np.clip(actions, -0.1, 0.1).cumsum(0) - goal, axis=1)
    np.testing.assert_allclose(rewards, -(distance**2) if is_squared else -distance, rtol=1e-5)
    assert not terminated.any()


def test_standing_still_returns_what_the_docstring_says():
    """Distances from the middle of a square of side 1: (√2 + ln(1 + √2)) / 6 on average; their squares 1/6."""
    mean_distance = (np.sqrt(2) + np.log(1 + np.sqrt(2))) / 6
    for is_squared, expected, stated in ((False, 100 * mean_distance, 38.3), (True, 100 / 6, 16.7)):
        assert round(expected, 1) == stated
        env, sample = point_navigation(is_squared=is_squared)
        params = jax.vmap(sample)(jax.random.split(jax.random.key(0), 2000))
        stay = lambda params: follow(env, params, np.zeros((100, 2)))[1].sum()
        returns = jax.jit(jax.vmap(stay))(params)
        np.testing.assert_allclose(returns.mean(), -expected, rtol=0.03)


def test_a_dense_rollout_terminates_at_the_goal_and_starts_anew():
    env, _ = point_navigation(goal_radius=0.01)
    params = PointParams(jnp.array([0.2, 0.0]))
    actions = [[0.1, 0.0], [0.092, 0.005], [0.05, 0.0]]  # the second ends √(0.008² + 0.005²) = 0.0094 away
    observations, rewards, terminated, truncated, info = follow(env, params, actions)
    np.testing.assert_array_equal(terminated, [False, True, False])
    assert not truncated.any()
    np.testing.assert_allclose(rewards, [-0.1, -0.00943, -0.15], rtol=1e-2)
    np.testing.assert_array_equal(observations[1], [0, 0])
    np.testing.assert_allclose(info["final_observation"][1], [0.192, 0.005], rtol=1e-5)
    corner = [[0.1, 0.0], [0.091, 0.009], [0.0, 0.0]]  # each coordinate within 0.01, but 0.0127 away
    assert not follow(env, params, corner)[2].any()


def test_without_a_radius_no_rollout_ends_early():
    env, _ = point_navigation(goal_radius=0.0, num_steps=4)
    _, rewards, terminated, truncated, _ = follow(env, PointParams(jnp.zeros(2)), np.zeros((8, 2)))
    assert not terminated.any()
    np.testing.assert_array_equal(truncated, [False, False, False, True] * 2)
    np.testing.assert_array_equal(rewards, 0)


@pytest.mark.parametrize(("make", "horizon"), [(point_navigation, 100), (sparse_point_navigation, 20)])
def test_horizons_are_those_of_the_papers(make, horizon):
    env, _ = make()
    *_, truncated, _ = follow(env, PointParams(jnp.array([0.5, 0.5])), np.zeros((horizon + 1, 2)))
    assert np.flatnonzero(truncated).tolist() == [horizon - 1]


def test_sparse_rewards_are_one_less_the_distance_near_the_goal_and_nothing_else():
    env, _ = sparse_point_navigation()
    params = PointParams(jnp.array([0.0, 1.0]))
    _, rewards, terminated, *_ = follow(env, params, [[0.0, 0.1]] * 10 + [[0.1, 0.0]] * 3)
    # up along the y axis: 0.8 is 0.2 away, in float32 by chance within or not; then sideways, at 0.1, 0.2 and 0.3
    np.testing.assert_allclose(rewards[:7], 0)
    np.testing.assert_allclose(rewards[8:11], [0.9, 1.0, 0.9], atol=1e-6)
    assert rewards[12] == 0
    assert not terminated.any()


def test_sparse_rewards_end_at_the_radius():
    env, _ = sparse_point_navigation(goal_radius=0.5)
    params = PointParams(jnp.array([1.0, 0.0]))
    for x, expected in ((0.499, 0.0), (0.501, 0.501)):
        state = PointState(jnp.array([x, 0.0]), jnp.int32(0))
        reward = env.step(jax.random.key(0), state, jnp.zeros(2), params)[2]
        np.testing.assert_allclose(reward, expected, rtol=1e-5)


def test_goals_are_uniform_in_the_square(key):
    for half_width in (0.5, 2.0):
        goals = jax.vmap(point_navigation(half_width=half_width)[1])(jax.random.split(key, 4000)).goal
        assert goals.dtype == jnp.float32
        assert abs(goals).max() <= half_width
        np.testing.assert_allclose(goals.mean(0), 0, atol=0.04 * half_width)
        np.testing.assert_allclose(goals.var(0), half_width**2 / 3, rtol=0.06)
        assert abs(np.corrcoef(goals.T)[0, 1]) < 0.07


def test_goals_are_uniform_on_the_half_circle(key):
    goals = jax.vmap(sparse_point_navigation()[1])(jax.random.split(key, 4000)).goal
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1, rtol=1e-5)
    angles = np.arctan2(goals[:, 1], goals[:, 0])
    assert angles.min() >= -1e-6
    np.testing.assert_allclose(angles.mean(), np.pi / 2, atol=0.06)
    np.testing.assert_allclose(angles.var(), np.pi**2 / 12, rtol=0.06)


@FACTORIES
def test_gradients_flow_through_the_motion_and_are_finite_on_the_goal(make):
    env, _ = make(goal_radius=0.25)
    params = PointParams(jnp.array([0.2, 0.0]))
    reward = lambda actions: follow(env, params, actions)[1].sum()
    gradient = jax.grad(reward)(jnp.array([[0.05, 0.0], [0.05, 0.02]]))
    assert jnp.isfinite(gradient).all()
    if make is point_navigation:  # the second step starts anew at the origin, for the first one ends at the goal
        assert gradient[0, 0] > 0
    state = PointState(params.goal, jnp.int32(0))
    on_goal = jax.grad(lambda action: env.step_env(jax.random.key(0), state, action, params)[2])(jnp.zeros(2))
    np.testing.assert_array_equal(on_goal, [0, 0])


@FACTORIES
def test_float64_and_strict_types(float64, make):
    env, sample = make()
    with jax.numpy_dtype_promotion("strict"):
        for dtype in (jnp.float32, jnp.float64):
            params = PointParams(sample(jax.random.key(0)).goal.astype(dtype))
            observation, state = env.reset(jax.random.key(0), params)
            after = env.step(jax.random.key(0), state, jnp.zeros(2, jnp.float32), params)
            assert observation.dtype == after[0].dtype == after[2].dtype == dtype
            assert [leaf.dtype for leaf in state] == [leaf.dtype for leaf in after[1]]


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"half_width=0\.0 is half the side"):
        point_navigation(half_width=0.0)
    with pytest.raises(ValueError, match="num_steps=0"):
        point_navigation(num_steps=0)
    with pytest.raises(ValueError, match=r"goal_radius=-1\.0 is a distance"):
        point_navigation(goal_radius=-1.0)
    with pytest.raises(ValueError, match=r"goal_radius=0\.0 is the distance with a reward"):
        sparse_point_navigation(goal_radius=0.0)
