"""What policies are told, as vectors; and that one step at a time says what a whole sequence says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models
from jmeta.domains.rl.environments import Box, Discrete, environment
from jmeta.domains.rl.policies import Categorical, Normal, PolicyInput, actor_critic, features, first_input

DISCRETE, CONTINUOUS = Discrete(3), Box(-1.0, 1.0, (2,))
SPACES = pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
MEMORIES = pytest.mark.parametrize("memory", [models.gru(6), models.lstm(6)], ids=["gru", "lstm"])


def silent(observation_space, action_space):
    """An environment of these spaces, in which nothing happens."""
    nothing = jnp.zeros(observation_space.shape, jnp.int32 if hasattr(observation_space, "n") else jnp.float32)
    return environment(
        "silent",
        lambda key, params: (nothing, jnp.zeros((), jnp.int32)),
        lambda key, state, action, params: (nothing, state + 1, jnp.zeros(()), jnp.array(False)),
        lambda state, params: jnp.array(False),
        observation_space=observation_space,
        action_space=action_space,
        default_params=(),
    )


def sequence(key, observation_space, action_space, num_steps=7):
    """`PolicyInput`s as they might come, the first one that of an episode's first step."""
    keys = jax.random.split(key, 4)
    draw = lambda space, key: jax.vmap(space.sample)(jax.random.split(key, num_steps))
    inputs = PolicyInput(
        draw(observation_space, keys[0]),
        draw(action_space, keys[1]),
        jax.random.normal(keys[2], (num_steps,)),
        jax.random.bernoulli(keys[3], 0.3, (num_steps,)),
    )
    first = first_input(inputs.observation[0], action_space)
    return jax.tree.map(lambda one, all: all.at[0].set(one), first, inputs)


def test_features_are_observation_action_reward_and_end():
    inputs = PolicyInput(jnp.array([[0.5, -2.0]]), jnp.array(2), jnp.array(1.5), jnp.array(True))
    vector = features(inputs, Box(-3.0, 3.0, (1, 2)), Discrete(4))
    assert vector.tolist() == [0.5, -2, 0, 0, 1, 0, 1.5, 1]
    inputs = PolicyInput(jnp.array(1), jnp.array([0.25, -0.25]), jnp.array(-1.0), jnp.array(False))
    assert features(inputs, Discrete(3), CONTINUOUS).tolist() == [0, 1, 0, 0.25, -0.25, -1, 0]


@SPACES
@pytest.mark.parametrize("observation_space", [Box(0.0, 1.0, (2, 3)), Box(0.0, 1.0, ()), Discrete(4)])
def test_features_of_a_sequence_are_those_of_its_steps(key, observation_space, action_space):
    inputs = sequence(key, observation_space, action_space)
    together = features(inputs, observation_space, action_space)
    alone = jax.vmap(lambda one: features(one, observation_space, action_space))(inputs)
    np.testing.assert_array_equal(together, alone)
    size = observation_space.n if hasattr(observation_space, "n") else int(np.prod(observation_space.shape))
    assert together.shape == (7, size + (3 if action_space is DISCRETE else 2) + 2)
    assert together.dtype == jnp.float32


@SPACES
def test_at_first_there_is_no_action(action_space):
    """Not even the first one of a discrete space, whose one-hot vector would be another."""
    observation = jnp.array([0.5])
    first = first_input(observation, action_space)
    vector = features(first, Box(0.0, 1.0, (1,)), action_space)
    np.testing.assert_array_equal(vector, [0.5] + [0] * (vector.size - 1))
    assert first.reward == 0
    assert not first.is_over
    acted = first._replace(action=jnp.zeros_like(first.action), reward=first.reward)
    differs = not np.array_equal(features(acted, Box(0.0, 1.0, (1,)), action_space), vector)
    assert differs == (action_space is DISCRETE)


@SPACES
def test_first_input_has_the_dtypes_of_later_ones(key, action_space):
    first = first_input(jnp.zeros(2), action_space)
    later = PolicyInput(jnp.zeros(2), action_space.sample(key), jnp.zeros(()), jnp.array(False))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == jax.tree.map(lambda x: (x.shape, x.dtype), later)


@MEMORIES
@SPACES
def test_steps_are_the_unrolled_sequence(key, memory, action_space):
    observation_space = Box(0.0, 1.0, (2,))
    policy = actor_critic(memory, silent(observation_space, action_space))
    inputs = sequence(key, observation_space, action_space)
    params = jax.jit(policy.init)(jax.random.key(1), inputs)
    # heads begin near zero: made to say something, so that it can be seen to be the same
    params = {**params, "actor": jax.tree.map(lambda leaf: 100 * leaf, params["actor"])}
    last, unrolled = jax.jit(policy.unroll)(params, policy.start(params, None), inputs, None)
    state, decisions, one_step = policy.start(params, None), [], jax.jit(policy.step)
    for step in range(7):
        state, decision = one_step(params, state, jax.tree.map(lambda leaf: leaf[step], inputs), None)
        decisions.append(decision)
    stepped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *decisions)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), stepped, unrolled)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), state, last)
    assert np.ptp(unrolled.value) > 0


@MEMORIES
def test_memory_is_what_joins_two_halves_of_a_sequence(key, memory):
    policy = actor_critic(memory, silent(CONTINUOUS, DISCRETE))
    inputs = sequence(key, CONTINUOUS, DISCRETE)
    params = jax.jit(policy.init)(jax.random.key(1), inputs)
    start, unroll = policy.start(params, None), jax.jit(policy.unroll)
    _, whole = unroll(params, start, inputs, None)
    first, rest = (jax.tree.map(lambda leaf: leaf[part], inputs) for part in (slice(3), slice(3, None)))
    middle, _ = unroll(params, start, first, None)
    _, joined = unroll(params, middle, rest, None)
    _, forgetful = unroll(params, start, rest, None)
    np.testing.assert_allclose(joined.value, whole.value[3:], rtol=1e-4, atol=1e-6)
    assert abs(forgetful.value[0] - whole.value[3]) > 1e-5


@SPACES
def test_a_new_policy_acts_at_random(key, action_space):
    policy = actor_critic(models.gru(6), silent(CONTINUOUS, action_space), initial_log_std=-0.5)
    inputs = sequence(key, CONTINUOUS, action_space)
    params = jax.jit(policy.init)(jax.random.key(1), inputs)
    distribution = policy.unroll(params, policy.start(params, None), inputs, None)[1].distribution
    if action_space is DISCRETE:
        assert isinstance(distribution, Categorical)
        np.testing.assert_allclose(jax.nn.softmax(distribution.logits), 1 / 3, atol=0.01)
    else:
        assert isinstance(distribution, Normal)
        np.testing.assert_allclose(distribution.mean, 0, atol=0.03)
        np.testing.assert_array_equal(distribution.log_std, jnp.full((7, 2), -0.5))


@SPACES
def test_every_parameter_matters_to_actions_or_values(key, action_space):
    policy = actor_critic(models.gru(6), silent(CONTINUOUS, action_space))
    inputs = sequence(key, CONTINUOUS, action_space)
    params = jax.jit(policy.init)(jax.random.key(1), inputs)

    def total(params):
        _, decisions = policy.unroll(params, policy.start(params, None), inputs, None)
        return decisions.distribution.log_prob(inputs.action % 3).sum() + decisions.value.sum()

    gradients = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(params))
    assert [jax.tree_util.keystr(path) for path, leaf in gradients if not jnp.any(leaf)] == []


def test_init_depends_on_shapes_alone(key):
    policy = actor_critic(models.gru(6), silent(CONTINUOUS, DISCRETE))
    inputs = sequence(key, CONTINUOUS, DISCRETE)
    blank = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:1]), inputs)
    one, other = jax.jit(policy.init)(key, inputs), jax.jit(policy.init)(key, blank)
    jax.tree.map(np.testing.assert_array_equal, one, other)
