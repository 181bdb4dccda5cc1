"""Robots of Brax as environments: what Brax itself does, with the body of the task, and under our policies."""

import doctest
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models
from jmeta.domains.rl.environments.from_brax import from_brax
from jmeta.domains.rl.policies import actor_critic
from jmeta.domains.rl.rollouts import init_policy, run_episode

# its code broadcasts ranks, and names what its own libraries have renamed
pytestmark = pytest.mark.filterwarnings("ignore")
NUM_STEPS = 6
from_brax_module = importlib.import_module("jmeta.domains.rl.environments.from_brax")  # the package has the function


@pytest.fixture(autouse=True)
def ranks_may_broadcast():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def brax():
    return pytest.importorskip("brax.envs", reason="Brax is not installed: pip install 'jmeta[brax]'")


def observations(env, params):
    """Of 10 steps under one rhythm of all motors."""

    def one_step(state, key):
        action = 0.7 * jnp.sin(jnp.arange(env.action_space(params).shape[0]) + 3.0 * state.time)
        observation, state, reward, terminated, truncated, _ = env.step(key, state, action, params)
        return state, (observation, reward, terminated, truncated)

    _, state = env.reset(jax.random.key(0), params)
    return jax.lax.scan(one_step, state, jax.random.split(jax.random.key(1), 10))[1]


def test_the_default_body_moves_as_in_brax(brax):
    env, _ = from_brax("halfcheetah", backend="spring", num_steps=100)
    seen, rewards, *_ = jax.jit(lambda: observations(env, env.default_params))()
    theirs = brax.get_environment("halfcheetah", backend="spring")
    state, step = jax.jit(theirs.reset)(jax.random.key(0)), jax.jit(theirs.step)
    for time, (observation, reward) in enumerate(zip(seen, rewards, strict=True)):
        state = step(state, 0.7 * jnp.sin(jnp.arange(6) + 3.0 * time))
        np.testing.assert_allclose(observation, state.obs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(reward, state.reward, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["spring", "generalized"])
def test_every_part_of_a_body_counts_and_rollouts_end_by_time(backend, brax):
    env, _ = from_brax("halfcheetah", backend=backend, num_steps=NUM_STEPS)
    run, default = jax.jit(lambda params: observations(env, params)), env.default_params
    seen, _, _, truncated = run(default)
    np.testing.assert_array_equal(np.flatnonzero(truncated), [NUM_STEPS - 1])
    heavy = default._replace(mass=2 * default.mass)
    slippery = default._replace(friction=0.1 * default.friction)
    lame = default._replace(motor_strength=default.motor_strength.at[0].set(0.0))
    for body in (heavy, slippery, lame):
        assert np.abs(run(body)[0] - seen).max() > 1e-2


def test_it_runs_under_our_policies(brax):
    env, sample = from_brax("ant", backend="generalized", num_steps=3, mass=(0.5, 0.6), motor_strength=(0.0, 1.0))
    policy = actor_critic(models.gru(4), env)
    params = jax.vmap(sample)(jax.random.split(jax.random.key(0), 2))
    assert 0.5 <= params.mass.min() < params.mass.max() <= 0.6
    assert params.motor_strength.shape == (2, 8)
    run = jax.jit(jax.vmap(run_episode(env, policy, num_steps=7), (None, 0, 0)))
    experience = run(init_policy(env, policy)(jax.random.key(1)), params, jax.random.split(jax.random.key(2), 2))
    assert experience.inputs.observation.shape == (2, 7, *env.observation_space(None).shape)
    assert np.isfinite(experience.reward).all()
    np.testing.assert_array_equal(np.flatnonzero(experience.is_over[0]), [2, 5])


def test_mistakes_are_refused(brax):
    with pytest.raises(ValueError, match="'horse' is none of Brax's environments: ant, halfcheetah"):
        from_brax("horse")
    with pytest.raises(ValueError, match="backend='mjx'; expected one of generalized, positional, spring"):
        from_brax("ant", backend="mjx")
    with pytest.raises(ValueError, match=r"friction=\(2.0, 1.0\); expected multiples"):
        from_brax("ant", friction=(2.0, 1.0))
    with pytest.raises(ValueError, match="a body without mass"):
        from_brax("ant", mass=(0.0, 1.0))
    with pytest.raises(ValueError, match="'ant' moves as if all masses were 1 under 'spring'"):
        from_brax("ant", backend="spring")


def test_the_example_of_the_docstring_runs(brax):
    """It is skipped elsewhere, where Brax may be missing."""
    (test,) = [test for test in doctest.DocTestFinder().find(from_brax_module) if test.examples]
    for example in test.examples:
        example.options.clear()
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


def test_without_brax_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax", None)
    with pytest.raises(ImportError, match=r"jmeta\[brax\]"):
        from_brax("ant")
