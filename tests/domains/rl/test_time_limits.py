"""Time limits against closed forms: what a rollout that was cut off is worth, by choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models
from jmeta.domains.rl import policies, policy_gradients
from jmeta.domains.rl.environments import Box, Discrete, environment, with_previous_observation
from jmeta.domains.rl.policies import Categorical, Policy, PolicyOutput
from jmeta.domains.rl.policy_gradients import acting_episode, collect_episode, roll_out
from jmeta.domains.rl.policy_gradients.baseline import bootstrapped_baseline
from jmeta.domains.rl.rollouts import init_policy, run_episode

DISCOUNT, LIMIT = 0.99, 10
KEY = jax.random.key(0)
FOR_EVER = 1 / (1 - DISCOUNT)
OF_TEN = (1 - DISCOUNT**LIMIT) / (1 - DISCOUNT)  # 9.56


def endless(limit=LIMIT, dies_at=None):
    """Pays 1 a step, for ever; shows its time. A limit cuts it off; or its rules end it at some time."""
    return environment(
        "endless",
        lambda key, params: (jnp.zeros(1), jnp.int32(0)),
        lambda key, at, action, params: (
            (at + 1).astype(jnp.float32)[None],
            at + 1,
            jnp.float32(1),
            jnp.array(False) if dies_at is None else at + 1 >= dies_at,
        ),
        lambda at, params: at >= limit,
        observation_space=Box(0.0, 1000.0, (1,)),
        action_space=Discrete(2),
        default_params=(),
    )


def knowing(value=FOR_EVER):
    """Acts at random and says this value, everywhere; remembers how many steps it saw."""

    def step(params, memory, inputs, key):
        return memory + 1, PolicyOutput(Categorical(jnp.zeros(2)), jnp.full((), value, jnp.float32))

    unroll = lambda params, memory, inputs, key: jax.lax.scan(
        lambda memory, one: step(params, memory, one, key), memory, inputs
    )
    return Policy(lambda key, inputs: (), lambda params, key: jnp.int32(0), step, unroll)


def first_target(env, num_steps, policy=None, **numbers):
    numbers = {"discount": DISCOUNT, "gae_lambda": 1.0} | numbers
    run = run_episode(env, policy or knowing(), num_steps=num_steps, with_final_values=numbers.get("bootstraps", False))
    return float(jax.jit(collect_episode(run, **numbers))((), (), KEY).query.y.target[0])


def test_a_trajectory_keeps_both_ends_and_the_last_observation():
    trajectory = jax.jit(run_episode(endless(3), knowing(), num_steps=5, with_final_values=True))((), (), KEY)
    assert trajectory.truncated.tolist() == [False, False, True, False, False]
    assert not trajectory.terminated.any()
    assert trajectory.final_observation[:, 0].tolist() == [1, 2, 3, 1, 2]
    assert trajectory.inputs.observation[:, 0].tolist() == [0, 1, 2, 0, 1]
    assert trajectory.final_value.tolist() == [np.float32(FOR_EVER)] * 5
    died = run_episode(endless(100, dies_at=2), knowing(), num_steps=3)((), (), KEY)
    assert died.terminated.tolist() == [False, True, False]
    assert not died.truncated.any()
    assert died.final_value is None
    assert (died.is_over == (died.terminated | died.truncated)).all()


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_an_endless_task_is_worth_what_its_closed_form_says(gae_lambda):
    for num_steps in (LIMIT, LIMIT + 4, LIMIT - 3):  # the limit ends it; two rollouts; the episode ends it
        target = first_target(endless(), num_steps, gae_lambda=gae_lambda, bootstraps=True)
        np.testing.assert_allclose(target, FOR_EVER, rtol=1e-5)


def test_by_default_an_episode_is_the_whole_problem():
    """A limit within it ends nothing, since a memory goes on; and what follows it is nothing."""
    np.testing.assert_allclose(first_target(endless(), LIMIT), OF_TEN, rtol=1e-5)
    np.testing.assert_allclose(first_target(endless(5), LIMIT), OF_TEN, rtol=1e-5)


def test_nothing_follows_what_the_rules_ended():
    for dies_at in (1, 6, LIMIT):
        expected = (1 - DISCOUNT**dies_at) / (1 - DISCOUNT)
        target = first_target(endless(dies_at=dies_at), LIMIT + 3, bootstraps=True)
        np.testing.assert_allclose(target, expected, rtol=1e-5)


def test_each_rollout_is_judged_by_itself():
    """Entry [t, k] of the influence of rewards on advantages is 0 over the end of a rollout."""
    run = run_episode(endless(3), knowing(), num_steps=8, with_final_values=True)
    trajectory = run((), (), KEY)

    def advantages(reward):
        judged = policy_gradients.judged
        task = judged(trajectory._replace(reward=reward), discount=0.9, gae_lambda=0.5, bootstraps=True)
        return task.query.y.advantage

    influence = np.asarray(jax.jacobian(advantages)(jnp.zeros(8)))
    number = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    ago = np.arange(8)[None] - np.arange(8)[:, None]
    same = number[None] == number[:, None]
    np.testing.assert_allclose(influence, np.where((ago >= 0) & same, 0.45 ** np.maximum(ago, 0), 0), rtol=1e-5)


def test_scaled_rewards_are_bootstrapped_in_their_units():
    target = first_target(endless(), LIMIT, knowing(0.1 * FOR_EVER), reward_scale=0.1, bootstraps=True)
    np.testing.assert_allclose(target, 0.1 * FOR_EVER, rtol=1e-5)


def test_a_last_observation_is_valued_by_what_the_policy_remembers():
    """The value of the next step of an episode that no limit cut off, by another route: the same episode, longer."""
    env, longer = endless(4), endless(100)
    policy = policies.actor_critic(models.gru(4), env)
    params = init_policy(env, policy)(KEY)
    params = {**params, "critic": jax.tree.map(lambda leaf: 100 * leaf + 0.1, params["critic"])}
    run = run_episode(env, policy, num_steps=4, is_greedy=True, with_final_values=True)
    expected = jax.jit(run_episode(longer, policy, num_steps=5, is_greedy=True))(params, (), KEY)
    got = jax.jit(run)(params, (), KEY)
    np.testing.assert_array_equal(got.action, expected.action[:4])
    np.testing.assert_allclose(got.final_value, expected.outputs.value[1:], rtol=1e-5)
    assert np.ptp(got.final_value) > 1e-4


def test_no_gradient_flows_through_what_is_bootstrapped():
    env = endless(4)
    policy = policies.actor_critic(models.gru(4), env)
    params = init_policy(env, policy)(KEY)
    run = run_episode(env, policy, num_steps=6, with_final_values=True)
    loss_fn = policy_gradients.a2c_loss()
    acts = acting_episode(run, loss_fn, discount=0.9, gae_lambda=0.5, bootstraps=True)
    collect = collect_episode(run, discount=0.9, gae_lambda=0.5, bootstraps=True)
    task = jax.jit(collect)(params, (), KEY)

    def later(params):
        return loss_fn(policy.unroll(params, policy.start(params, None), task.query.x, None)[1], task.query)[0]

    got = jax.jit(jax.grad(lambda params: acts(params, (), KEY)[0]))(params)
    expected = jax.jit(jax.grad(later))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), got, expected)


@pytest.mark.parametrize("num_steps", [LIMIT, LIMIT + 5, LIMIT - 3])
def test_separate_rollouts_of_an_endless_task_are_worth_the_closed_form_too(num_steps):
    env = endless()
    policy = policies.memoryless(models.mlp([4, 2]), env)
    params = init_policy(env, policy)(KEY)
    targets = {
        bootstraps: jax.jit(
            roll_out(env, policy, num_rollouts=3, num_steps=num_steps, discount=DISCOUNT, bootstraps=bootstraps)
        )(params, (), KEY)
        for bootstraps in (False, True)
    }
    length = min(num_steps, LIMIT)
    is_real = np.asarray(targets[True].mask)
    np.testing.assert_array_equal(is_real.reshape(3, -1).sum(1), [length] * 3)
    np.testing.assert_allclose(targets[True].y.target[is_real], FOR_EVER, rtol=1e-3)
    expected = (1 - DISCOUNT**length) / (1 - DISCOUNT)
    np.testing.assert_allclose(targets[False].y.target[0], expected, rtol=1e-5)


def test_the_guess_of_what_was_cut_off_is_the_value_function_where_that_is_linear(float64, key):
    """A random walk around a ring whose rewards depend on the place: values by matrix inversion."""
    num_places, num_steps, num_rollouts, discount = 4, 6, 4000, 0.8
    moves = np.full((num_places, num_places), 0.05) + 0.8 * np.roll(np.eye(num_places), 1, 1)
    rewards = np.array([1.0, -2.0, 0.5, 3.0])
    expected = np.linalg.solve(np.eye(num_places) - discount * moves, rewards)

    def walk(key):
        key_start, key_walk = jax.random.split(key)
        step = lambda at, key: (jax.random.choice(key, num_places, p=jnp.asarray(moves)[at]), at)
        start = jax.random.randint(key_start, (), 0, num_places)
        return jax.lax.scan(step, start, jax.random.split(key_walk, num_steps))

    last, places = jax.vmap(walk)(jax.random.split(key, num_rollouts))
    paid = rewards[np.asarray(places)]
    powers = discount ** np.arange(num_steps)
    returns = np.stack([(paid[:, t:] * powers[: num_steps - t]).sum(1) for t in range(num_steps)], 1)
    cut = jnp.broadcast_to(discount ** np.arange(num_steps, 0, -1), returns.shape)
    one_hot = jax.nn.one_hot(jnp.arange(num_places), num_places)[:, :-1]  # the last place has zeros
    values, final = bootstrapped_baseline(one_hot[places], one_hot[last], jnp.asarray(returns), cut, jnp.ones_like(cut))
    np.testing.assert_allclose(final, expected[last], atol=0.25)
    np.testing.assert_allclose(values, expected[places], atol=0.25)
    assert np.ptp(expected) > 2


def test_separate_rollouts_that_the_rules_ended_are_worth_what_they_paid():
    env = endless(100, dies_at=4)
    policy = policies.memoryless(models.mlp([4, 2]), env)
    collect = roll_out(env, policy, num_rollouts=2, num_steps=7, discount=DISCOUNT, bootstraps=True)
    batch = jax.jit(collect)(init_policy(env, policy)(KEY), (), KEY)
    to_go = [(1 - DISCOUNT**n) / (1 - DISCOUNT) for n in (4, 3, 2, 1)] + [0, 0, 0]
    np.testing.assert_allclose(batch.y.target.reshape(2, 7), [to_go] * 2, rtol=1e-5)
    np.testing.assert_array_equal(batch.mask.reshape(2, 7), [[True] * 4 + [False] * 3] * 2)


def test_the_last_observation_survives_wrapping():
    env = with_previous_observation(endless(3))
    trajectory = run_episode(env, knowing(), num_steps=4)((), (), KEY)
    assert trajectory.final_observation.tolist() == [[1, 0], [2, 1], [3, 2], [1, 0]]


def test_mistakes_with_time_limits_are_refused():
    env = endless()
    silent = env._replace(step=lambda *a: (*env.step(*a)[:5], {}))
    run = run_episode(env, knowing(), num_steps=3)
    with pytest.raises(ValueError, match="with_final_values=True"):
        collect_episode(run, discount=0.9, gae_lambda=1.0, bootstraps=True)((), (), KEY)
    with pytest.raises(ValueError, match=r"of endless returns no info\['final_observation'\]"):
        run_episode(silent, knowing(), num_steps=3, with_final_values=True)((), (), KEY)
    policy = policies.memoryless(models.mlp([4, 2]), env)
    with pytest.raises(ValueError, match="pass discount < 1"):
        roll_out(env, policy, num_rollouts=2, num_steps=3, discount=1.0, bootstraps=True)
    rolls = roll_out(silent, policy, num_rollouts=2, num_steps=3, bootstraps=True)
    with pytest.raises(ValueError, match=r"needs info\['final_observation'\]"):
        rolls(init_policy(env, policy)(KEY), (), KEY)
