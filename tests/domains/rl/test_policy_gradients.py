"""Advantages by two routes, and the losses of A2C and PPO by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Batch, Task, models
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.policies import Categorical, Normal, PolicyInput, PolicyOutput
from jmeta.domains.rl.policy_gradients import Acted
from jmeta.domains.rl.policy_gradients.returns import discounted_sums, generalized_advantages
from jmeta.domains.rl.rollouts import Trajectory

NUM_STEPS, NUM_ACTIONS = 6, 3


def trajectory_of(key, *, value=None):
    """Six steps, with a rollout that ends after the third one."""
    key_logits, key_value, key_action, key_reward = jax.random.split(key, 4)
    value = jax.random.normal(key_value, (NUM_STEPS,)) if value is None else value
    decisions = PolicyOutput(Categorical(jax.random.normal(key_logits, (NUM_STEPS, NUM_ACTIONS))), value)
    action = decisions.distribution.sample(key_action)
    reward = jax.random.normal(key_reward, (NUM_STEPS,))
    is_over = jnp.arange(NUM_STEPS) == 2
    inputs = PolicyInput(jnp.zeros((NUM_STEPS, 1)), action, reward, is_over)
    return Trajectory(inputs, decisions, action, decisions.distribution.log_prob(action), reward, is_over)


def decisions_and_batch(key, distribution="categorical", mask=None):
    """Decisions, and steps that another policy took."""
    key_new, key_old, key_action, key_rest = jax.random.split(key, 4)
    make = {
        "categorical": lambda key: Categorical(jax.random.normal(key, (NUM_STEPS, NUM_ACTIONS))),
        "normal": lambda key: Normal(jax.random.normal(key, (NUM_STEPS, 2)), jnp.full((NUM_STEPS, 2), -0.3)),
    }[distribution]
    old = make(key_old)
    action = old.sample(key_action)
    value, advantage, target, reward = jax.random.normal(key_rest, (4, NUM_STEPS))
    acted = Acted(action, old.log_prob(action), advantage, target, reward)
    return PolicyOutput(make(key_new), value), Batch(jnp.zeros(NUM_STEPS), acted, mask)


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.9, 0.7), (1.0, 1.0), (0.5, 0.0), (0.0, 1.0)])
def test_advantages_are_the_explicit_sum(float64, key, discount, gae_lambda):
    trajectory = trajectory_of(key)
    acted = policy_gradients.judged(trajectory, discount=discount, gae_lambda=gae_lambda).query.y
    values = np.append(trajectory.outputs.value, 0.0)
    reward = np.asarray(trajectory.reward)
    delta = [reward[t] + discount * values[t + 1] - values[t] for t in range(NUM_STEPS)]
    expected = [
        sum((discount * gae_lambda) ** (k - t) * delta[k] for k in range(t, NUM_STEPS)) for t in range(NUM_STEPS)
    ]
    np.testing.assert_allclose(acted.advantage, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(acted.target, np.array(expected) + values[:-1], rtol=1e-12, atol=1e-12)


def test_undiscounted_and_without_guesses_they_are_rewards_to_go_minus_values(float64, key):
    trajectory = trajectory_of(key)
    acted = policy_gradients.judged(trajectory, discount=1.0, gae_lambda=1.0).query.y
    to_go = np.cumsum(np.asarray(trajectory.reward)[::-1])[::-1]
    np.testing.assert_allclose(acted.advantage, to_go - np.asarray(trajectory.outputs.value), rtol=1e-12)
    np.testing.assert_allclose(acted.target, to_go, rtol=1e-12)


def test_perfect_guesses_leave_nothing_to_learn(float64, key):
    """With V the exact discounted reward to come, every advantage is 0 whatever λ."""
    reward = np.asarray(trajectory_of(key).reward)
    value = [sum(0.9 ** (k - t) * reward[k] for k in range(t, NUM_STEPS)) for t in range(NUM_STEPS)]
    trajectory = trajectory_of(key, value=jnp.array(value))
    for gae_lambda in (0.0, 0.6, 1.0):
        acted = policy_gradients.judged(trajectory, discount=0.9, gae_lambda=gae_lambda).query.y
        np.testing.assert_allclose(acted.advantage, np.zeros(NUM_STEPS), atol=1e-12)


def influence_of_rewards(key, **numbers):
    """Entry [t, k]: how much the reward at k moves the advantage at t."""

    def advantages(reward):
        return policy_gradients.judged(trajectory_of(key)._replace(reward=reward), **numbers).query.y.advantage

    return jax.jacobian(advantages)(jnp.zeros(NUM_STEPS))


def test_advantages_reach_over_rollouts_and_end_with_the_episode(float64, key):
    influence = influence_of_rewards(key, discount=0.9, gae_lambda=0.5)
    ago = np.arange(NUM_STEPS)[None] - np.arange(NUM_STEPS)[:, None]
    # the rollout that ends after the third step cuts nothing
    np.testing.assert_allclose(influence, np.where(ago >= 0, 0.45 ** np.maximum(ago, 0), 0.0), rtol=1e-12)
    last = policy_gradients.judged(trajectory_of(key), discount=0.9, gae_lambda=0.5).query.y
    np.testing.assert_allclose(last.target[-1], last.reward[-1], rtol=1e-12)  # nothing is guessed to come after it


def test_scaled_rewards_are_judged_as_such_and_reported_as_they_were(float64, key):
    trajectory = trajectory_of(key)
    numbers = {"discount": 0.9, "gae_lambda": 0.5}
    scaled = policy_gradients.judged(trajectory, **numbers, reward_scale=0.1).query.y
    expected = policy_gradients.judged(trajectory._replace(reward=0.1 * trajectory.reward), **numbers).query.y
    np.testing.assert_allclose(scaled.advantage, expected.advantage, rtol=1e-12)
    np.testing.assert_allclose(scaled.target, expected.target, rtol=1e-12)
    np.testing.assert_array_equal(scaled.reward, trajectory.reward)


def test_advantages_are_normalised_over_the_steps_of_all_tasks_that_are_real(float64, key):
    masks = jnp.array([[True] * 6, [True] * 4 + [False] * 2])
    one, other = (
        decisions_and_batch(each, mask=mask)[1] for each, mask in zip(jax.random.split(key), masks, strict=True)
    )
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, other)
    for mask in (None, masks):
        tasks = Task(batch, batch._replace(mask=mask))
        advantage = np.asarray(policy_gradients.with_normalized_advantages(tasks).query.y.advantage)
        real = advantage.ravel() if mask is None else advantage[np.asarray(mask)]
        np.testing.assert_allclose([real.mean(), real.std()], [0, 1], atol=1e-7)
        before = np.asarray(batch.y.advantage)
        slope = np.ptp(advantage[0]) / np.ptp(before[0])
        np.testing.assert_allclose(np.diff(advantage), slope * np.diff(before), rtol=1e-9)


def test_a_judged_episode_is_a_query_after_an_empty_support(key):
    trajectory = trajectory_of(key)
    task = policy_gradients.judged(trajectory, discount=0.9, gae_lambda=0.5)
    assert task.support.x.reward.shape == (0,)
    assert task.support.y.advantage.shape == (0,)
    assert task.query.mask is None
    jax.tree.map(np.testing.assert_array_equal, task.query.x, trajectory.inputs)
    for name in ("action", "log_prob", "reward"):
        np.testing.assert_array_equal(getattr(task.query.y, name), getattr(trajectory, name))


def test_no_gradient_flows_into_what_is_collected(key):
    bandit, sample = environments.bernoulli_bandit(2)
    policy = policies.actor_critic(models.gru(3), bandit)
    run = rollouts.run_episode(bandit, policy, num_steps=4)
    params = rollouts.init_policy(bandit, policy)(key)

    def total(params):
        task = policy_gradients.collect_episode(run, discount=0.9, gae_lambda=0.5)(params, sample(key), key)
        return task.query.y.advantage.sum() + task.query.y.log_prob.sum()

    assert all((leaf == 0).all() for leaf in jax.tree.leaves(jax.grad(total)(params)))


@pytest.mark.parametrize("distribution", ["categorical", "normal"])
def test_a2c_is_its_formula(float64, key, distribution):
    decisions, batch = decisions_and_batch(key, distribution)
    loss, aux = policy_gradients.a2c_loss(value_weight=0.7, entropy_weight=0.2)(decisions, batch)
    acted = batch.y
    log_prob, entropy = decisions.distribution.log_prob(acted.action), decisions.distribution.entropy()
    actor = -np.mean(np.asarray(acted.advantage * log_prob))
    value_loss = np.mean(0.5 * np.asarray(decisions.value - acted.target) ** 2)
    np.testing.assert_allclose(loss, actor + 0.7 * value_loss - 0.2 * np.mean(entropy), rtol=1e-12)
    np.testing.assert_allclose(aux["value_loss"], value_loss, rtol=1e-12)
    np.testing.assert_allclose(aux["entropy"], np.mean(entropy), rtol=1e-12)
    np.testing.assert_allclose(aux["reward"], acted.reward.mean(), rtol=1e-12)


@pytest.mark.parametrize("distribution", ["categorical", "normal"])
def test_ppo_is_its_formula(float64, key, distribution):
    decisions, batch = decisions_and_batch(key, distribution)
    loss, _ = policy_gradients.ppo_loss(clip=0.2, value_weight=0.7, entropy_weight=0.2)(decisions, batch)
    acted = batch.y
    ratio = np.exp(np.asarray(decisions.distribution.log_prob(acted.action) - acted.log_prob))
    terms = [min(r * a, np.clip(r, 0.8, 1.2) * a) for r, a in zip(ratio, np.asarray(acted.advantage), strict=True)]
    value_loss = np.mean(0.5 * np.asarray(decisions.value - acted.target) ** 2)
    entropy = np.mean(decisions.distribution.entropy())
    np.testing.assert_allclose(loss, -np.mean(terms) + 0.7 * value_loss - 0.2 * entropy, rtol=1e-12)


def test_the_clipped_value_loss_is_that_of_a_hand_computation(float64):
    """Old guesses 0, clip 0.5: free, moved too far towards the target, away from it, and just at the bound."""
    value, target = jnp.array([0.2, 2.0, -2.0, 0.5]), jnp.array([1.0, 3.0, 3.0, 3.0])
    zeros = jnp.zeros(4)
    acted = Acted(jnp.zeros(4, int), zeros, zeros, target, zeros, zeros)
    batch = Batch(zeros, acted)

    def value_loss(value, **numbers):
        outputs = PolicyOutput(Categorical(jnp.zeros((4, 2))), value)
        return policy_gradients.ppo_loss(value_weight=1.0, **numbers)(outputs, batch)[1]["value_loss"]

    # ½ [0.8², max(1², 2.5²), max(5², 3.5²), 2.5²] / 4
    np.testing.assert_allclose(value_loss(value, value_clip=0.5), 0.5 * (0.64 + 6.25 + 25 + 6.25) / 4, rtol=1e-12)
    np.testing.assert_allclose(value_loss(value), 0.5 * (0.64 + 1 + 25 + 6.25) / 4, rtol=1e-12)
    gradient = jax.grad(lambda value: value_loss(value, value_clip=0.5))(value)
    np.testing.assert_allclose(gradient[:3], [-0.8 / 4, 0, -5 / 4], rtol=1e-12)  # not moved further towards its target


def test_a_clipped_value_loss_takes_the_guesses_of_the_policy_that_acted(key):
    task = policy_gradients.judged(trajectory_of(key), discount=0.9, gae_lambda=0.5)
    np.testing.assert_array_equal(task.query.y.value, trajectory_of(key).outputs.value)
    outputs = trajectory_of(key).outputs
    at_once = [policy_gradients.ppo_loss(value_clip=clip)(outputs, task.query)[0] for clip in (None, 0.1)]
    np.testing.assert_array_equal(*at_once)  # where nothing has moved, nothing is clipped
    without = task.query._replace(y=task.query.y._replace(value=None))
    with pytest.raises(ValueError, match=r"value_clip=0\.1 needs the guesses of the policy that acted"):
        policy_gradients.ppo_loss(value_clip=0.1)(outputs, without)
    with pytest.raises(ValueError, match=r"value_clip=0\.0; expected a positive number"):
        policy_gradients.ppo_loss(value_clip=0.0)


def one_step(log_ratio, advantage):
    """PPO's loss of one step of two actions, as a function of the logarithm of the ratio."""
    log_prob = jnp.log(0.5)

    def loss(log_ratio):
        chosen = log_prob + log_ratio
        decisions = PolicyOutput(Categorical(jnp.stack([chosen, jnp.log1p(-jnp.exp(chosen))])[None]), jnp.zeros(1))
        acted = Acted(jnp.array([0]), log_prob[None], jnp.array([advantage]), jnp.zeros(1), jnp.zeros(1))
        return policy_gradients.ppo_loss(clip=0.2)(decisions, Batch(jnp.zeros(1), acted))[0]

    return jax.value_and_grad(loss)(log_ratio)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "has_gradient"),
    [
        (1.5, 2.0, -2.4, False),  # better, and far enough already
        (1.1, 2.0, -2.2, True),
        (0.5, 2.0, -1.0, True),  # better, but less likely: no clipping
        (0.5, -2.0, 1.6, False),  # worse, and far enough already
        (0.9, -2.0, 1.8, True),
        (1.5, -2.0, 3.0, True),  # worse, but more likely: no clipping
    ],
)
def test_clipping_by_hand(float64, ratio, advantage, loss, has_gradient):
    got, gradient = one_step(jnp.log(jnp.float64(ratio)), advantage)
    np.testing.assert_allclose(got, loss, rtol=1e-12)
    np.testing.assert_allclose(gradient, -ratio * advantage if has_gradient else 0.0, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("distribution", ["categorical", "normal"])
def test_on_policy_ppos_gradient_is_a2cs(float64, key, distribution):
    decisions, batch = decisions_and_batch(key, distribution)
    batch = batch._replace(y=batch.y._replace(log_prob=decisions.distribution.log_prob(batch.y.action)))
    weights = {"value_weight": 0.3, "entropy_weight": 0.1}
    gradients = [
        jax.grad(lambda decisions: loss_fn(decisions, batch)[0])(decisions)
        for loss_fn in (policy_gradients.ppo_loss(**weights), policy_gradients.a2c_loss(**weights))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), *gradients)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("make", [policy_gradients.a2c_loss, policy_gradients.ppo_loss])
def test_masked_steps_change_neither_loss_nor_gradient(float64, key, make):
    loss_fn = make(entropy_weight=0.1)
    mask = jnp.array([True, True, False, True, False, False])
    decisions, batch = decisions_and_batch(key, mask=mask)
    kept = np.flatnonzero(mask)
    real = jax.tree.map(lambda leaf: leaf[kept], (decisions, batch._replace(mask=None)))
    (loss, _), gradient = jax.value_and_grad(loss_fn, has_aux=True)(decisions, batch)
    (expected, _), gradient_of_real = jax.value_and_grad(loss_fn, has_aux=True)(*real)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)

    def compare(all_steps, real_steps):
        np.testing.assert_allclose(all_steps[kept], real_steps, rtol=1e-12)
        np.testing.assert_array_equal(all_steps[~np.asarray(mask)], 0.0)

    jax.tree.map(compare, gradient, gradient_of_real)


@pytest.mark.parametrize("make", [policy_gradients.a2c_loss, policy_gradients.ppo_loss])
def test_weights_weigh(float64, key, make):
    """The loss is linear in both; entropy is to grow, and its gradient is that of the entropy."""
    decisions, batch = decisions_and_batch(key)
    loss = lambda **weights: make(**weights)(decisions, batch)[0]
    _, aux = make()(decisions, batch)
    bare = loss(value_weight=0.0)
    np.testing.assert_allclose(loss(value_weight=0.0, entropy_weight=0.3) - bare, -0.3 * aux["entropy"], rtol=1e-10)
    np.testing.assert_allclose(loss(value_weight=0.3) - bare, 0.3 * aux["value_loss"], rtol=1e-10)
    np.testing.assert_allclose(loss(), loss(value_weight=0.5, entropy_weight=0.0), rtol=1e-12)


@pytest.mark.parametrize("kind", ["bandit", "robot"])
def test_acting_and_learning_in_one_pass_is_collecting_first(float64, key, kind):
    """The same actions, loss and gradient, with discrete actions and with continuous ones."""
    if kind == "bandit":
        environment, sample = environments.bernoulli_bandit(3)
    else:
        environment, sample = environments.point_navigation(num_steps=3)
    policy = policies.actor_critic(models.gru(4), environment)
    run = rollouts.run_episode(environment, policy, num_steps=6)
    numbers = {"discount": 0.9, "gae_lambda": 0.7, "reward_scale": 0.5}
    loss_fn = policy_gradients.a2c_loss(entropy_weight=0.1)
    params, env_params = rollouts.init_policy(environment, policy)(key), sample(key)
    collect = policy_gradients.collect_episode(run, **numbers)
    afterwards = jmeta.episode(rl.learners.rl2(policy), loss_fn)
    at_once = policy_gradients.acting_episode(run, loss_fn, **numbers)
    value_and_grad = lambda loss: jax.jit(jax.value_and_grad(loss, has_aux=True))
    expected = value_and_grad(afterwards)(params, jax.jit(collect)(params, env_params, key), key)
    got = value_and_grad(at_once)(params, env_params, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(got[1])) > 1e-3


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_a_fading_entropy_is_a_weight_that_shrinks(float64, key, progress):
    decisions, batch = decisions_and_batch(key)

    def gradient_of(loss_fn, wrap):
        episode_fn = wrap(
            lambda logits, task, key: loss_fn(PolicyOutput(Categorical(logits), decisions.value), task.query)
        )
        task = Task(batch, batch, progress=jnp.array(progress))
        return jax.value_and_grad(episode_fn, has_aux=True)(decisions.distribution.logits, task, key)

    faded = gradient_of(
        policy_gradients.ppo_loss(), lambda episode_fn: policy_gradients.with_fading_entropy(episode_fn, 0.2)
    )
    constant = gradient_of(
        policy_gradients.ppo_loss(entropy_weight=0.2 * (1 - progress)), lambda episode_fn: episode_fn
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), faded, constant)


def test_a_fading_entropy_needs_progress(key):
    _, batch = decisions_and_batch(key)
    episode_fn = policy_gradients.with_fading_entropy(lambda params, task, key: (params, {"entropy": params}), 0.1)
    with pytest.raises(ValueError, match="pass num_total_steps to on_policy_trainer"):
        episode_fn(jnp.zeros(()), Task(batch, batch), key)
    without = policy_gradients.with_fading_entropy(lambda params, task, key: (params, {}), 0.1)
    with pytest.raises(ValueError, match=r"needs aux\['entropy'\]"):
        without(jnp.zeros(()), Task(batch, batch, jnp.zeros(())), key)


def test_mistakes_are_refused():
    for name in ("discount", "gae_lambda"):
        numbers = {"discount": 0.9, "gae_lambda": 0.5, name: 1.5}
        with pytest.raises(ValueError, match=rf"{name}=1\.5; expected a number in \[0, 1\]"):
            policy_gradients.collect_episode(lambda params, env_params, key: None, **numbers)
    with pytest.raises(ValueError, match=r"reward_scale=0\.0; expected a positive"):
        policy_gradients.collect_episode(lambda *_: None, discount=1.0, gae_lambda=1.0, reward_scale=0.0)
    with pytest.raises(ValueError, match=r"clip=0\.0; expected a positive"):
        policy_gradients.ppo_loss(clip=0.0)


def test_advantages_returns_and_ppo_are_those_of_rlax():
    rlax = pytest.importorskip("rlax")
    keys = jax.random.split(jax.random.key(0), 4)
    reward, values = jax.random.normal(keys[0], (6,)), jax.random.normal(keys[1], (7,))
    discounts = jax.random.uniform(keys[2], (6,))
    np.testing.assert_array_equal(
        generalized_advantages(reward, discounts, values, 0.7),
        rlax.truncated_generalized_advantage_estimation(reward, discounts, 0.7, values),
    )
    np.testing.assert_array_equal(
        discounted_sums(reward, discounts), rlax.discounted_returns(reward, discounts, jnp.zeros(6))
    )
    decisions, batch = decisions_and_batch(keys[3])
    loss = lambda logits: policy_gradients.ppo_loss(value_weight=0.0)(
        PolicyOutput(Categorical(logits), decisions.value), batch
    )[0]
    theirs = lambda logits: rlax.clipped_surrogate_pg_loss(
        jnp.exp(Categorical(logits).log_prob(batch.y.action) - batch.y.log_prob), batch.y.advantage, 0.2
    )
    logits = decisions.distribution.logits
    np.testing.assert_allclose(jax.grad(loss)(logits), jax.grad(theirs)(logits), rtol=1e-6)
