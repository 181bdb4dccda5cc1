"""Pixels and choices as observations, from the environment to the update: scaled, encoded, and given to a baseline."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import models
from jmeta.domains import rl
from jmeta.domains.rl import policies, policy_gradients
from jmeta.domains.rl.environments import Box, Discrete, environment
from jmeta.domains.rl.policy_gradients.baseline import linear_baseline
from jmeta.domains.rl.rollouts import init_policy, run_episode
from jmeta.domains.rl.testing import check_environment, check_policy

KEY, SIZE = jax.random.key(0), 16
SAMPLE = jax.tree_util.Partial(lambda key: jnp.zeros(()))


def screen(dtype=jnp.uint8, count=None):
    """A bright half of a dark image, left or right, or its number; pays 1 for naming it. Four steps."""
    highest = 255 if dtype == jnp.uint8 else 1.0
    image = Box(0 if dtype == jnp.uint8 else 0.0, highest, (SIZE, SIZE, 1), dtype)

    def observed(side):
        if count is not None:
            return side
        left = jnp.arange(SIZE, dtype=jnp.int32) < SIZE // 2
        bright = jnp.broadcast_to((left == (side == 0))[None, :, None], (SIZE, SIZE, 1))
        return jnp.where(bright, jnp.asarray(highest, dtype), jnp.zeros((), dtype))

    def reset(key, params):
        side = jax.random.randint(key, (), 0, 2, jnp.int32)
        return observed(side), (side, jnp.int32(0))

    def step(key, state, action, params):
        side = jax.random.randint(key, (), 0, 2, jnp.int32)
        return observed(side), (side, state[1] + 1), (action == state[0]).astype(jnp.float32), jnp.array(False)

    return environment(
        "screen",
        reset,
        step,
        lambda state, params: state[1] >= 4,
        observation_space=image if count is None else Discrete(count),
        action_space=Discrete(2),
        default_params=jnp.zeros(()),
    )


def convolutions(norm="batch"):
    return models.conv4(None, num_filters=2, norm=norm, conv="xla")


POLICIES = {
    "memoryless": lambda env: policies.memoryless(models.mlp([4, 2]), env),
    "memoryless, an encoder": lambda env: policies.memoryless(models.mlp([2]), env, encoder=convolutions()),
    "a memory": lambda env: policies.actor_critic(models.gru(3), env),
    "a memory after an encoder": lambda env: policies.actor_critic(models.gru(3), env, encoder=convolutions()),
    "a memory after an encoder, normalised by layer": lambda env: policies.actor_critic(
        models.lstm(3), env, encoder=convolutions("layer")
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_see_pixels_step_by_step_as_all_at_once(name):
    """Even where an encoder's norm would mix the steps of a sequence: each step is encoded by itself."""
    env = screen()
    check_policy(POLICIES[name](env), env, jnp.zeros(()), KEY)


def test_an_environment_of_pixels_obeys_the_contract():
    check_environment(screen(), SAMPLE, KEY)
    check_environment(screen(jnp.float32), SAMPLE, KEY)
    check_environment(screen(count=2), SAMPLE, KEY)


@pytest.mark.parametrize("name", ["memoryless", "a memory", "memoryless, an encoder", "a memory after an encoder"])
def test_pixels_of_uint8_are_the_same_image_as_numbers_in_0_to_1(name):
    made = {}
    for dtype in (jnp.uint8, jnp.float32):
        env = screen(dtype)
        policy = POLICIES[name](env)
        params = init_policy(env, policy)(KEY)
        made[dtype] = params, jax.jit(run_episode(env, policy, num_steps=5))(params, jnp.zeros(()), KEY)
    assert made[jnp.uint8][1].inputs.observation.dtype == jnp.uint8
    assert int(made[jnp.uint8][1].inputs.observation.max()) == 255
    for a, b in zip(*(jax.tree.leaves((p, t.outputs)) for p, t in made.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_every_parameter_of_an_encoder_is_learned():
    env = screen()
    for name in ("memoryless, an encoder", "a memory after an encoder, normalised by layer"):
        policy = POLICIES[name](env)
        params = init_policy(env, policy)(KEY)
        trajectory = jax.jit(run_episode(env, policy, num_steps=4))(params, jnp.zeros(()), KEY)

        def total(params, policy=policy, trajectory=trajectory):
            start = policy.start(params, None)
            outputs = policy.unroll(params, start, trajectory.inputs, None)[1]
            return 100 * outputs.distribution.log_prob(trajectory.action).sum() + outputs.value.sum()

        gradients = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(params)["encoder"])
        still = [jax.tree_util.keystr(path) for path, leaf in gradients if not jnp.any(leaf)]
        assert [path for path in still if "kernel" in path] == []


@pytest.mark.parametrize(("kind", "bootstraps"), [("pixels", False), ("choices", False), ("an encoder", True)])
def test_maml_rolls_out_adapts_and_updates(kind, bootstraps):
    env = screen(count=2) if kind == "choices" else screen()
    policy = POLICIES["memoryless, an encoder" if kind == "an encoder" else "memoryless"](env)
    rolls = policy_gradients.roll_out(env, policy, num_rollouts=3, num_steps=5, bootstraps=bootstraps)
    inner = rl.acting.Adapting(env, policy, policy_gradients.likelihood_ratio, optax.sgd(0.1), rolls, 3)
    method = rl.acting.maml_with_ppo(inner, optax.adam(1e-2), num_steps=1)
    trainer = method.trainer
    state, aux = jax.jit(trainer.update)(trainer.init(method.init(KEY)), jnp.zeros(2), KEY)
    assert int(aux["is_skipped"]) == 0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((state, aux)))
    batch = jax.jit(rolls)(state.meta_params, jnp.zeros(()), KEY)
    assert float(batch.y.advantage.std()) > 0.5  # there is something to learn from


def test_a_policy_learns_what_it_sees():
    """Naming the bright half: chance earns a half of the rewards, ten gradient steps nearly all."""
    env = screen()
    policy = policies.memoryless(models.mlp([2]), env)
    rolls = policy_gradients.roll_out(env, policy, num_rollouts=16, num_steps=4, discount=0.0)
    learner = rl.learners.maml_rl(policy, policy_gradients.reinforce, optax.adam(0.1), num_steps=10, roll_out=rolls)
    params = init_policy(env, policy)(KEY)
    adapted = jax.jit(learner.adapt)(params, jmeta.Batch(jnp.zeros(()), ()), KEY)
    rolled = [jax.jit(rolls)(each, jnp.zeros(()), jax.random.key(1)) for each in (params, adapted)]
    rewards = [float(batch.y.reward.mean()) for batch in rolled]
    assert rewards[0] < 0.75
    assert rewards[1] > 0.9


def test_a_baseline_leaves_observations_out_that_would_fit_everything(key):
    """With more coefficients than steps a fit repeats the returns; the guess is then that of time alone."""
    returns = jax.random.normal(key, (3, 5))
    wide = jax.random.normal(jax.random.key(1), (3, 5, 100))
    alone = linear_baseline(jnp.zeros((3, 5, 0)), returns, jnp.ones((3, 5)))
    np.testing.assert_array_equal(linear_baseline(wide, returns, jnp.ones((3, 5))), alone)
    assert float(jnp.abs(returns - alone).mean()) > 0.2


def test_a_baseline_of_choices_is_their_mean(float64, key):
    """One-hot features, their squares and the constant say the same thrice: the guess is still the best one."""
    choices = jax.random.randint(key, (8, 50), 0, 3)
    returns = jnp.array([1.0, -2.0, 5.0])[choices] + 0.1 * jax.random.normal(key, (8, 50))
    guess = linear_baseline(jax.nn.one_hot(choices, 3), returns, jnp.ones((8, 50)))
    for dtype in (jnp.float32, jnp.float64):
        at = linear_baseline(*(leaf.astype(dtype) for leaf in (jax.nn.one_hot(choices, 3), returns, jnp.ones((8, 50)))))
        np.testing.assert_allclose(at, guess, atol=2e-2)
    for choice in range(3):
        np.testing.assert_allclose(guess[choices == choice].mean(), returns[choices == choice].mean(), atol=1e-3)
