"""Actions in [−1, 1] stand for the bounds, whoever states them: numbers, arrays, the task, gymnax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models
from jmeta.domains.rl.environments import Box, Discrete, environment, scaled_actions
from jmeta.domains.rl.policies import actor_critic
from jmeta.domains.rl.rollouts import init_policy, run_episode
from jmeta.domains.rl.testing import check_environment


def shows_its_action(action_space, params=(), shape=(2,)):
    """The observation is the action that came in."""
    nothing = jnp.zeros(shape, jnp.float32)
    return environment(
        "mirror",
        lambda key, params: (nothing, jnp.zeros((), jnp.int32)),
        lambda key, state, action, params: (action, state + 1, jnp.zeros(()), jnp.array(False)),
        lambda state, params: jnp.array(False),
        observation_space=Box(-jnp.inf, jnp.inf, shape),
        action_space=action_space,
        default_params=params,
    )


def seen(env, action, params=(), key=None):
    key = jax.random.key(0) if key is None else key
    _, state = env.reset(key, params)
    by_step = env.step(key, state, action, params)[0]
    np.testing.assert_array_equal(env.step_env(key, state, action, params)[0], by_step)
    return by_step


@pytest.mark.parametrize("as_bound", [np.array, jnp.array, list], ids=["numpy", "jax", "a list"])
def test_bounds_may_be_arrays(as_bound):
    env = scaled_actions(shows_its_action(Box(as_bound([-1.0, 0.0]), as_bound([3.0, 10.0]), (2,))))
    for action, expected in (([-1, -1], [-1, 0]), ([1, 1], [3, 10]), ([0, 0.5], [1, 7.5]), ([-9, 9], [-1, 10])):
        np.testing.assert_allclose(seen(env, jnp.array(action, jnp.float32)), expected, atol=1e-6)
    space = env.action_space(())
    assert bool(space.contains(jnp.array([-1.0, 1.0])))
    assert not bool(space.contains(jnp.array([0.0, 1.1])))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_actions_may_have_any_shape(shape):
    env = scaled_actions(shows_its_action(Box(-2.0, 6.0, shape), shape=shape))
    np.testing.assert_allclose(seen(env, jnp.full(shape, 0.5)), np.full(shape, 4.0))


def test_bounds_may_depend_on_the_task():
    env = scaled_actions(shows_its_action(lambda high: Box(-high, 2 * high, (2,)), jnp.float32(1)))
    one_step = lambda high: env.step(jax.random.key(0), jnp.int32(0), jnp.array([-1.0, 1.0]), high)[0]
    highs = jnp.array([1.0, 4.0])
    expected = [[-1, 2], [-4, 8]]
    np.testing.assert_allclose([one_step(high) for high in highs], expected)
    np.testing.assert_allclose(jax.jit(jax.vmap(one_step))(highs), expected)


def test_a_pendulum_of_gymnax_is_pushed_as_its_bounds_say():
    """Its torque is in [−2, 2]; in a task of greater torque, as far as that one's."""
    gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed: pip install 'jmeta[environments]'")
    theirs, params = gymnax.make("Pendulum-v1")
    env, key = scaled_actions(theirs), jax.random.key(0)
    assert env.name == theirs.name
    for torque in (2.0, 5.0):
        task = params.replace(max_torque=torque)
        _, state = env.reset(key, task)
        for action, meant in ((-1.0, -torque), (0.5, 0.5 * torque), (7.0, torque)):
            ours = env.step(key, state, jnp.array([action]), task)
            expected = theirs.step(key, state, jnp.array([meant]), task)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours[:5], expected[:5])


def test_a_policy_learns_in_a_scaled_pendulum_of_gymnax():
    gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed: pip install 'jmeta[environments]'")
    theirs, params = gymnax.make("Pendulum-v1")
    env = scaled_actions(theirs)
    with jax.numpy_rank_promotion("allow"):
        check_environment(env, jax.tree_util.Partial(lambda key: jax.tree.map(jnp.asarray, params)), jax.random.key(0))
        policy = actor_critic(models.gru(4), env)
        run = run_episode(env, policy, num_steps=4)
        trajectory = jax.jit(run)(init_policy(env, policy)(jax.random.key(0)), params, jax.random.key(1))
    assert trajectory.action.shape == (4, 1)
    assert np.isfinite(trajectory.reward).all()


@pytest.mark.parametrize(
    "space",
    [
        Box(-np.inf, 1.0, (2,)),
        Box(np.array([0.0, -np.inf]), np.array([1.0, 1.0]), (2,)),
        Box(1.0, -1.0, (2,)),
        Box(np.nan, 1.0, (2,)),
        Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,)),
        Box(0, 255, (2,), jnp.uint8),
        Discrete(3),
        {"arm": Box(-1.0, 1.0, (2,))},
    ],
)
def test_other_actions_cannot_be_scaled(space):
    with pytest.raises(ValueError, match="needs a bounded Box of floating-point actions, but mirror has"):
        scaled_actions(shows_its_action(space))
