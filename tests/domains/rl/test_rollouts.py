"""Episodes of rollouts: what is kept over the end of a rollout, what begins anew, and what belongs to which step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models
from jmeta.domains.rl.environments import Box, Discrete, bernoulli_bandit, environment
from jmeta.domains.rl.policies import Categorical, Normal, Policy, PolicyOutput, actor_critic
from jmeta.domains.rl.rollouts import init_policy, return_episode, run_episode

NUM_STEPS, LENGTH = 10, 3


def clock(action_space=None, is_terminated=True):
    """Shows the time since its start; pays ten times that and the action. A rollout has `LENGTH` steps."""

    def step(key, state, action, params):
        del key
        reward = 10.0 * state.astype(jnp.float32) + jnp.asarray(action, jnp.float32).sum() + params
        is_last = (state + 1 == LENGTH) & is_terminated
        return (state + 1).astype(jnp.float32)[None], state + 1, reward, is_last

    return environment(
        "clock",
        lambda key, params: (jnp.zeros(1), jnp.zeros((), jnp.int32)),
        step,
        lambda state, params: (state >= LENGTH) & (not is_terminated),
        observation_space=Box(0.0, float(LENGTH), (1,)),
        action_space=action_space or Discrete(4),
        default_params=jnp.zeros(()),
    )


def counting_policy(distribution=None):
    """Remembers how many steps it has seen; what it saw last; and says the count as its value."""
    distribution = Categorical(jnp.array([0.0, 0.5, 1.0, -0.5])) if distribution is None else distribution

    def step(params, memory, inputs, key):
        count = memory + 1
        return count, PolicyOutput(distribution, (count * params["scale"]).astype(jnp.float32))

    return Policy(
        init=lambda key, inputs: {"scale": jnp.ones(())},
        start=lambda params, key: jnp.zeros((), jnp.int32),
        step=step,
        unroll=lambda params, memory, inputs, key: jax.lax.scan(
            lambda memory, one: step(params, memory, one, key), memory, inputs
        ),
    )


def noisy():
    """Shows a random number at its start, another one after a step, and pays a third; a rollout is one step."""

    def step(key, state, action, params):
        key_observation, key_reward = jax.random.split(key)
        return jax.random.uniform(key_observation, (1,)), state, jax.random.uniform(key_reward), jnp.array(True)

    return environment(
        "noisy",
        lambda key, params: (jax.random.uniform(key, (1,)), jnp.zeros((), jnp.int32)),
        step,
        lambda state, params: jnp.array(False),
        observation_space=Box(0.0, 1.0, (1,)),
        action_space=Box(-9.0, 9.0, (1,)),
        default_params=(),
    )


def noisy_policy():
    """Its means and its values are random numbers of its key, and so is where its memory begins."""

    def step(params, memory, inputs, key):
        key_mean, key_value = jax.random.split(key)
        mean = jax.random.normal(key_mean, (1,)) + 100 * memory
        return memory, PolicyOutput(Normal(mean, jnp.zeros(1)), jax.random.uniform(key_value))

    return Policy(lambda key, inputs: (), lambda params, key: jax.random.uniform(key), step, step)


PARAMS = {"scale": jnp.ones(())}


@pytest.fixture(scope="module")
def trajectory():
    """Ten steps: rollouts of three, three, three, and the first step of a fourth."""
    run = run_episode(clock(), counting_policy(), num_steps=NUM_STEPS)
    return jax.jit(run)(PARAMS, jnp.array(0.25), jax.random.key(0))


def test_memory_is_kept_over_the_rollouts_of_an_episode(trajectory):
    np.testing.assert_array_equal(trajectory.outputs.value, np.arange(1, NUM_STEPS + 1))


def test_memory_begins_anew_with_each_episode():
    run = jax.jit(run_episode(clock(), counting_policy(), num_steps=4))
    for seed in range(2):
        np.testing.assert_array_equal(run(PARAMS, jnp.zeros(()), jax.random.key(seed)).outputs.value, [1, 2, 3, 4])


def test_observations_start_anew_with_each_rollout(trajectory):
    np.testing.assert_array_equal(trajectory.inputs.observation[:, 0], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0])


@pytest.mark.parametrize("is_terminated", [True, False], ids=["by its rules", "by its time limit"])
def test_the_end_of_a_rollout_is_told_whatever_ended_it(is_terminated):
    run = run_episode(clock(is_terminated=is_terminated), counting_policy(), num_steps=7)
    trajectory = jax.jit(run)(PARAMS, jnp.zeros(()), jax.random.key(0))
    np.testing.assert_array_equal(trajectory.is_over, [False, False, True, False, False, True, False])
    np.testing.assert_array_equal(trajectory.inputs.is_over[1:], trajectory.is_over[:-1])


def test_at_first_there_was_no_action(trajectory):
    assert trajectory.inputs.action[0] == -1
    assert trajectory.inputs.reward[0] == 0
    assert not trajectory.inputs.is_over[0]


def test_no_action_yet_is_for_the_episode_and_not_for_each_rollout(trajectory):
    assert (trajectory.inputs.action[1:] >= 0).all()


def test_rewards_are_those_of_their_actions_and_are_told_at_the_next_step(trajectory):
    expected = 10 * np.tile(np.arange(LENGTH), 4)[:NUM_STEPS] + np.asarray(trajectory.action) + 0.25
    np.testing.assert_allclose(trajectory.reward, expected, rtol=1e-6)
    np.testing.assert_array_equal(trajectory.inputs.reward[1:], trajectory.reward[:-1])
    np.testing.assert_array_equal(trajectory.inputs.action[1:], trajectory.action[:-1])
    assert len(set(trajectory.action.tolist())) > 1


def test_log_probabilities_are_of_the_actions_taken(trajectory):
    log_probs = jax.nn.log_softmax(jnp.array([0.0, 0.5, 1.0, -0.5]))
    np.testing.assert_allclose(trajectory.log_prob, log_probs[trajectory.action], rtol=1e-6)
    np.testing.assert_array_equal(trajectory.outputs.distribution.log_prob(trajectory.action), trajectory.log_prob)


def test_greedy_takes_the_most_probable_action_and_says_its_probability():
    run = run_episode(clock(), counting_policy(), num_steps=4, is_greedy=True)
    trajectory = run(PARAMS, jnp.zeros(()), jax.random.key(0))
    np.testing.assert_array_equal(trajectory.action, [2] * 4)
    np.testing.assert_allclose(trajectory.log_prob, jax.nn.log_softmax(jnp.array([0.0, 0.5, 1.0, -0.5]))[2], rtol=1e-6)
    normal = Normal(jnp.array([0.5, -0.25]), jnp.zeros(2))
    run = run_episode(clock(Box(-1.0, 1.0, (2,))), counting_policy(normal), num_steps=4, is_greedy=True)
    trajectory = run(PARAMS, jnp.zeros(()), jax.random.key(0))
    np.testing.assert_array_equal(trajectory.action, [[0.5, -0.25]] * 4)
    np.testing.assert_array_equal(trajectory.inputs.action, [[0, 0]] + [[0.5, -0.25]] * 3)


def test_actions_are_drawn_by_their_probabilities():
    run = run_episode(clock(), counting_policy(), num_steps=NUM_STEPS)
    keys = jax.random.split(jax.random.key(0), 1000)
    actions = jax.jit(jax.vmap(run, (None, None, 0)))(PARAMS, jnp.zeros(()), keys).action
    expected = jax.nn.softmax(jnp.array([0.0, 0.5, 1.0, -0.5]))
    for step in range(NUM_STEPS):  # standard errors are 0.016 at most
        np.testing.assert_allclose(np.bincount(actions[:, step], minlength=4) / 1000, expected, atol=0.06)


def test_nothing_random_is_drawn_from_the_same_key_twice():
    run = run_episode(noisy(), noisy_policy(), num_steps=6)
    with jax.debug_key_reuse(True):
        trajectory = run((), (), jax.random.key(0))
    mean = trajectory.outputs.distribution.mean
    assert np.ptp(mean) < 20  # the memory, which a hundred times is in all means, was drawn once
    drawn = [trajectory.inputs.observation, trajectory.reward, trajectory.outputs.value, trajectory.action - mean]
    numbers = np.concatenate([np.ravel(each) for each in (*drawn, mean)])
    assert len(np.unique(numbers)) == len(numbers) == 5 * 6


def test_keys_decide():
    run = jax.jit(run_episode(noisy(), noisy_policy(), num_steps=3))
    one, again, other = (run((), (), jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.intersect1d(one.reward, other.reward).size
    assert not np.intersect1d(one.action, other.action).size


def test_an_episode_has_as_many_steps_as_asked_for():
    for num_steps in (1, 5):
        trajectory = run_episode(clock(), counting_policy(), num_steps=num_steps)(
            PARAMS, jnp.zeros(()), jax.random.key(0)
        )
        assert {leaf.shape[0] for leaf in jax.tree.leaves(trajectory)} == {num_steps}


def test_compiled_and_batched_are_one_at_a_time(key):
    bandit, sample = bernoulli_bandit(3)
    policy = actor_critic(models.gru(4), bandit)
    run = run_episode(bandit, policy, num_steps=5)
    params = init_policy(bandit, policy)(key)
    tasks = jax.vmap(sample)(jax.random.split(jax.random.key(1), 4))
    keys = jax.random.split(jax.random.key(2), 4)
    together = jax.jit(jax.vmap(run, (None, 0, 0)))(params, tasks, keys)
    for i in range(4):
        alone = run(params, jax.tree.map(lambda leaf: leaf[i], tasks), keys[i])
        here = jax.tree.map(lambda leaf: leaf[i], together)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), alone, here)
    np.testing.assert_array_equal(alone.action, together.action[3])


def test_what_was_decided_while_acting_is_what_is_said_of_the_whole_episode_later(key):
    """A policy gradient takes log-probabilities from `unroll`; they have to be those that were acted by."""
    bandit, sample = bernoulli_bandit(3)
    policy = actor_critic(models.lstm(4), bandit)
    params = init_policy(bandit, policy)(key)
    trajectory = jax.jit(run_episode(bandit, policy, num_steps=8))(params, sample(key), jax.random.key(1))
    _, decisions = policy.unroll(params, policy.start(params, key), trajectory.inputs, None)
    np.testing.assert_allclose(decisions.distribution.log_prob(trajectory.action), trajectory.log_prob, rtol=1e-5)
    np.testing.assert_allclose(decisions.value, trajectory.outputs.value, rtol=1e-4, atol=1e-6)


def test_types_are_never_promoted(key):
    bandit, sample = bernoulli_bandit(3)
    policy = actor_critic(models.gru(4), bandit)
    with jax.numpy_dtype_promotion("strict"):
        run = run_episode(bandit, policy, num_steps=3)
        trajectory = run(init_policy(bandit, policy)(key), sample(key), jax.random.key(1))
        return_episode(run, num_rollouts=2)(init_policy(bandit, policy)(key), sample(key), jax.random.key(1))
    assert {leaf.dtype for leaf in (trajectory.reward, trajectory.log_prob)} == {jnp.dtype(jnp.float32)}


def test_returns_are_sums_over_the_episode_and_its_rollouts(trajectory):
    run = run_episode(clock(), counting_policy(), num_steps=NUM_STEPS)
    judge = return_episode(run, num_rollouts=5)
    loss, aux = jax.jit(judge)(PARAMS, jnp.array(0.25), jax.random.key(0))
    rewards = np.asarray(trajectory.reward)
    np.testing.assert_allclose(loss, -rewards.sum(), rtol=1e-6)
    np.testing.assert_allclose(aux["return"], rewards.sum(), rtol=1e-6)
    each = [aux[f"return_of_rollout_{i}"] for i in range(1, 6)]
    np.testing.assert_allclose(each, [rewards[i : i + 3].sum() for i in (0, 3, 6, 9)] + [0], rtol=1e-6)
    assert set(return_episode(run)(PARAMS, jnp.zeros(()), jax.random.key(0))[1]) == {"return"}


def test_policies_are_initialised_from_shapes_alone(key):
    bandit, _ = bernoulli_bandit(3)
    policy = actor_critic(models.gru(4), bandit)
    params = init_policy(bandit, policy)(key)
    features = 1 + 3 + 1 + 1  # observation, action, reward, end
    assert params["memory"]["input_kernel"].shape == (features, 3 * 4)
    jax.tree.map(np.testing.assert_array_equal, params, init_policy(bandit, policy)(key))


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_steps=0; an episode has at least one step"):
        run_episode(clock(), counting_policy(), num_steps=0)
