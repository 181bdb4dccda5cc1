"""Planners for tabular MDPs: exact planning, the posterior in closed form, and what each plans when it is certain."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jmeta.domains.rl import baselines, rollouts
from jmeta.domains.rl.baselines.mdp_posterior import MDPPosterior, experienced, posterior_mean, posterior_sample, prior
from jmeta.domains.rl.baselines.value_iteration import optimistic_expected
from jmeta.domains.rl.environments.tabular_mdp import tabular_mdp
from jmeta.domains.rl.policies import PolicyInput

SIZES = {"num_states": 3, "num_actions": 2, "horizon": 4}
FACTORIES = {
    "epsilon_greedy": lambda **given: baselines.epsilon_greedy_planning(epsilon=0.0, **given),
    "psrl": baselines.psrl,
    "optimistic_psrl": lambda **given: baselines.optimistic_psrl(num_samples=3, **given),
    "ucrl2": lambda **given: baselines.ucrl2(reward_scale=0.05, transition_scale=0.01, **given),
}


def told(observation, action, reward, is_over):
    return PolicyInput(
        jnp.array(observation, jnp.int32),
        jnp.array(action, jnp.int32),
        jnp.array(reward, jnp.float32),
        jnp.array(is_over),
    )


def small_mdp(key, num_states=2, num_actions=2):
    return tabular_mdp(num_states=num_states, num_actions=num_actions)[1](key)


def test_value_iteration_is_the_best_of_all_policies(key):
    """All 64 functions from state and time to an action, in an MDP of 2 states, 2 actions and 3 steps."""
    params = jax.tree.map(np.asarray, small_mdp(key))

    def value_of(actions):
        values = np.zeros(2)
        for time in (2, 1, 0):
            chosen = [actions[2 * time + state] for state in (0, 1)]
            values = np.array([params.rewards[s, a] + params.transitions[s, a] @ values for s, a in enumerate(chosen)])
        return values[0]

    best = max(value_of(actions) for actions in itertools.product((0, 1), repeat=6))
    np.testing.assert_allclose(baselines.optimal_value(small_mdp(key), 3), best, rtol=1e-5)


def test_the_mean_optimum_of_the_distribution(key):
    _, sample = tabular_mdp()
    values = jax.jit(jax.vmap(lambda key: baselines.optimal_value(sample(key), 10)))(jax.random.split(key, 3000))
    assert abs(values.mean() - 21.84) < 0.2  # standard error 0.04


def test_plans_are_by_time(key):
    params = small_mdp(key, num_states=3)
    long, short = baselines.value_iteration(params, 5), baselines.value_iteration(params, 2)
    np.testing.assert_allclose(long[3:], short, rtol=1e-6)
    np.testing.assert_array_equal(long[4], params.rewards)


def test_optimistic_transitions_are_the_solution_of_the_linear_programme():
    """max p·v over p ≥ 0, Σ p = 1, ‖p − p̂‖₁ ≤ d, with p = p̂ + u − w."""
    rng = np.random.default_rng(0)
    for radius in (0.0, 0.3, 1.0, 3.0):
        mean, values = rng.dirichlet(np.ones(4)), rng.standard_normal(4)
        gain = np.concatenate([values, -values])
        solution = scipy.optimize.linprog(
            -gain,
            A_ub=np.concatenate([np.ones((1, 8)), np.hstack([-np.eye(4), np.eye(4)])]),
            b_ub=np.concatenate([[radius], mean]),
            A_eq=np.concatenate([np.ones((1, 4)), -np.ones((1, 4))], 1),
            b_eq=[0.0],
        )
        best = optimistic_expected(
            jnp.asarray(mean, jnp.float32)[None, None], jnp.full((1, 1), radius), jnp.asarray(values, jnp.float32)
        )
        np.testing.assert_allclose(best[0, 0], mean @ values - solution.fun, rtol=1e-4, atol=1e-6)


def test_the_posterior_by_hand():
    posterior = prior(3, 2)
    for step in [(0, 1, 3.0, 2, False), (0, 1, 2.0, 2, False), (2, 0, -1.0, 0, True), (0, -1, 9.0, 1, False)]:
        state, action, reward, following, is_over = step
        inputs = told(following, action, reward, is_over)
        posterior = experienced(
            posterior, jnp.array(state), inputs.action, inputs.reward, inputs.observation, inputs.is_over
        )
    mean = posterior_mean(posterior)
    np.testing.assert_allclose(mean.rewards, [[1, (1 + 3 + 2) / 3], [1, 1], [(1 - 1) / 2, 1]], rtol=1e-6)
    np.testing.assert_allclose(mean.transitions[0, 1], [1 / 5, 1 / 5, 3 / 5], rtol=1e-6)
    third = np.full(3, 1 / 3)
    np.testing.assert_allclose(mean.transitions[2, 0], third, rtol=1e-6)  # the next rollout's start is no next state
    np.testing.assert_array_equal(posterior.precision, [[1, 3], [1, 1], [2, 1]])
    np.testing.assert_allclose(posterior_mean(prior(3, 2, reward_mean=0.0)).rewards, np.zeros((3, 2)))


def test_samples_have_the_posteriors_moments(key):
    posterior = MDPPosterior(jnp.array([[[1.0, 2.0, 5.0]]]), jnp.array([[6.0]]), jnp.array([[4.0]]))
    drawn = jax.vmap(lambda key: posterior_sample(posterior, key))(jax.random.split(key, 20000))
    assert abs(drawn.rewards.mean() - 1.5) < 0.02
    assert abs(drawn.rewards.var() - 0.25) < 0.02
    mean = np.array([1, 2, 5]) / 8
    np.testing.assert_allclose(drawn.transitions[:, 0, 0].mean(0), mean, atol=0.005)
    np.testing.assert_allclose(drawn.transitions[:, 0, 0].var(0), mean * (1 - mean) / 9, atol=0.001)


@pytest.mark.parametrize("name", FACTORIES)
def test_who_is_nearly_certain_plans_as_is_optimal(name, key):
    params = small_mdp(key, num_states=3)
    certain = jnp.full((3, 2), 1e7)
    posterior = MDPPosterior(1e7 * params.transitions + 1, 1e7 * params.rewards, certain)
    policy = FACTORIES[name](**SIZES)
    memory = policy.start({}, key)._replace(posterior=posterior)
    memory, decision = policy.step({}, memory, told(0, 1, 0.0, True), key)
    np.testing.assert_allclose(memory.plan, baselines.value_iteration(params, 4), atol=0.02)
    assert int(decision.distribution.mode()) == int(baselines.value_iteration(params, 4)[0, 0].argmax())


def test_without_bounds_or_with_one_sample_they_are_each_other(key):
    memory = baselines.psrl(**SIZES).start({}, key)
    memory = memory._replace(posterior=memory.posterior._replace(rewards=jax.random.normal(key, (3, 2))))
    plan_of = lambda policy: policy.step({}, memory, told(0, 1, 0.0, True), key)[0].plan
    greedy = plan_of(FACTORIES["epsilon_greedy"](**SIZES))
    no_bounds = plan_of(baselines.ucrl2(reward_scale=0.0, transition_scale=0.0, **SIZES))
    np.testing.assert_allclose(no_bounds, greedy, rtol=1e-6)
    assert (plan_of(FACTORIES["ucrl2"](**SIZES)) > greedy).all()
    means = [
        jax.vmap(lambda key: policy.step({}, memory, told(0, 1, 0.0, True), key)[0].plan)(keys).mean(0)
        for policy in (baselines.optimistic_psrl(num_samples=1, **SIZES), baselines.psrl(**SIZES))
        for keys in [jax.random.split(key, 2000)]
    ]
    np.testing.assert_allclose(*means, atol=0.2)  # standard error 0.04


def test_a_plan_is_made_for_a_rollout_and_followed_by_its_time(key):
    """The plan says at time t: action t; and which rollout it was made for, by the rewards of those before."""

    def make_plan(posterior, key):
        by_time = jnp.broadcast_to(jnp.eye(3)[:, None], (3, 2, 3))
        return 10 * by_time + posterior.rewards.sum()

    policy = baselines.planning_policy(make_plan, num_states=2, num_actions=3, horizon=3, reward_mean=0.0)
    memory, key_step = policy.start({}, key), jax.random.key(1)
    steps = [(-1, 0.0, False), (0, 1.0, False), (1, 1.0, False), (2, 1.0, True), (0, 1.0, False), (1, 1.0, True)]
    actions, made_for = [], []
    for action, reward, is_over in steps:  # the second rollout ends early
        memory, decision = policy.step({}, memory, told(0, action, reward, is_over), key_step)
        actions.append(int(decision.distribution.mode()))
        made_for.append(float(memory.plan.min()))
    assert actions == [0, 1, 2, 0, 1, 0]
    assert made_for == [0, 0, 0, 3, 3, 5]
    assert float(memory.posterior.precision.sum()) == 6 + 5


@pytest.mark.parametrize("name", FACTORIES)
def test_policies_run_in_episodes_and_unroll_as_they_step(name, key):
    mdp, sample = tabular_mdp(**SIZES)
    policy = FACTORIES[name](**SIZES)
    run = rollouts.run_episode(mdp, policy, num_steps=9)
    with jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        experience = run({}, sample(key), jax.random.key(1))
        memory = policy.start({}, key)
        unrolled, decisions = policy.unroll({}, memory, experience.inputs, jax.random.key(2))
    for i, key_step in enumerate(jax.random.split(jax.random.key(2), 9)):
        inputs = jax.tree.map(lambda leaf: leaf[i], experience.inputs)
        memory, decision = policy.step({}, memory, inputs, key_step)
        np.testing.assert_allclose(decision.distribution.logits, decisions.distribution.logits[i], rtol=1e-6)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), memory, unrolled)
    np.testing.assert_array_equal(memory.posterior.precision.sum(), 6 + 8)


def test_planning_is_done_in_the_dtype_of_the_mdp(float64, key):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), small_mdp(key))
    assert baselines.value_iteration(params, 3).dtype == jnp.float64
    np.testing.assert_allclose(
        baselines.optimal_value(params, 3), baselines.optimal_value(small_mdp(key), 3), rtol=1e-6
    )


@pytest.mark.slow
@pytest.mark.optimized
def test_the_order_of_planners(key):
    """The posterior mean explores enough for five rollouts; sampling explores too much, and pessimism too little."""
    mdp, sample = tabular_mdp()

    def mean_reward(policy):
        run = rollouts.run_episode(mdp, policy, num_steps=50)
        gained = lambda key: run({}, sample(key), jax.random.fold_in(key, 1)).reward.sum()
        regret = lambda key: 5 * baselines.optimal_value(sample(key), 10) - gained(key)
        return 5 * 21.84 - float(jax.jit(jax.vmap(regret))(jax.random.split(key, 500)).mean())

    means = [
        mean_reward(policy)
        for policy in (
            baselines.uniformly_random(5),
            baselines.psrl(),
            baselines.epsilon_greedy_planning(epsilon=0.0, reward_mean=0.0),
            baselines.epsilon_greedy_planning(epsilon=0.0),
        )
    ]
    assert abs(means[0] - 50) < 3  # standard errors are below 1
    assert means[0] + 5 < means[1] < means[3] - 5
    assert means[2] < means[3] - 3


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="horizon=0; expected at least 1"):
        baselines.psrl(horizon=0)
    with pytest.raises(ValueError, match="num_samples=0; expected at least 1"):
        baselines.optimistic_psrl(num_samples=0)
    with pytest.raises(ValueError, match=r"transition_scale=-1\.0; expected a number in \[0\.0, inf\]"):
        baselines.ucrl2(transition_scale=-1.0)
    with pytest.raises(ValueError, match=r"confidence=0\.0; expected a probability"):
        baselines.ucrl2(confidence=0.0)
    with pytest.raises(ValueError, match=r"epsilon=2\.0"):
        baselines.epsilon_greedy_planning(epsilon=2.0)
