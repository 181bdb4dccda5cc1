"""Random tabular MDPs: moments of the distribution, frequencies of steps, and where rollouts end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.domains.rl import rollouts
from jmeta.domains.rl.baselines import uniformly_random
from jmeta.domains.rl.environments.tabular_mdp import TabularMDPParams, TabularMDPState, tabular_mdp


def test_moments_are_those_of_the_distribution(key):
    _, sample = tabular_mdp(num_states=4, num_actions=3)
    params = jax.vmap(sample)(jax.random.split(key, 3000))
    rewards, transitions = np.asarray(params.rewards), np.asarray(params.transitions)
    assert rewards.shape == (3000, 4, 3)
    assert transitions.shape == (3000, 4, 3, 4)
    assert abs(rewards.mean() - 1) < 0.02  # standard error 0.005
    assert abs(rewards.var() - 1) < 0.03
    np.testing.assert_allclose(transitions.sum(-1), 1, atol=1e-5)
    assert transitions.min() >= 0
    np.testing.assert_allclose(transitions.mean((0, 1, 2)), np.full(4, 0.25), atol=0.005)
    np.testing.assert_allclose(transitions.var((0, 1, 2)), np.full(4, 0.25 * 0.75 / 5), atol=0.001)


def test_steps_have_the_tasks_frequencies_and_rewards(key):
    mdp, _ = tabular_mdp(num_states=3, num_actions=2)
    transitions = jnp.full((3, 2, 3), 1 / 3).at[1, 1].set(jnp.array([0.7, 0.0, 0.3]))
    params = TabularMDPParams(jnp.zeros((3, 2)).at[1, 1].set(5.0), transitions)
    state = TabularMDPState(jnp.array(1), jnp.array(0))
    with jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        step = jax.jit(jax.vmap(lambda key: mdp.step(key, state, jnp.array(1), params)))
    observation, after, reward, terminated, truncated, _ = step(jax.random.split(key, 5000))
    frequencies = np.bincount(np.asarray(observation), minlength=3) / 5000
    np.testing.assert_allclose(frequencies, [0.7, 0.0, 0.3], atol=0.03)
    assert frequencies[1] == 0
    np.testing.assert_array_equal(after.position, observation)
    assert abs(reward.mean() - 5) < 0.06
    assert abs(reward.std() - 1) < 0.05
    assert not (terminated | truncated).any()


def test_rollouts_start_in_state_0_and_end_at_the_horizon(key):
    mdp, sample = tabular_mdp(num_states=5, num_actions=2, horizon=3)
    run = rollouts.run_episode(mdp, uniformly_random(2), num_steps=12)
    experience = jax.vmap(lambda key: run({}, sample(key), jax.random.fold_in(key, 1)))(jax.random.split(key, 50))
    np.testing.assert_array_equal(experience.is_over, np.tile([False, False, True], (50, 4)))
    observations = np.asarray(experience.inputs.observation)
    assert observations.dtype == np.int32
    assert (observations[:, ::3] == 0).all()
    assert set(observations[:, 1::3].ravel()) == set(range(5))


def test_the_last_observation_of_a_rollout_is_told_apart_from_the_next_ones_first(key):
    mdp, _ = tabular_mdp(num_states=2, num_actions=1, horizon=1)
    to_1 = TabularMDPParams(jnp.zeros((2, 1)), jnp.tile(jnp.array([0.0, 1.0]), (2, 1, 1)))
    _, state = mdp.reset(key, to_1)
    observation, state, _, _, truncated, info = mdp.step(key, state, jnp.array(0), to_1)
    assert bool(truncated)
    assert int(observation) == int(state.position) == int(state.time) == 0
    assert int(info["final_observation"]) == 1


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="horizon=0; expected at least 1"):
        tabular_mdp(horizon=0)
