"""Policies for bandits: indices by hand, probabilities in closed form, exact values over all histories, and order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jmeta.domains.rl import baselines, environments, rollouts
from jmeta.domains.rl.baselines import draws
from jmeta.domains.rl.baselines.bandits import ArmCounts, counted, no_counts
from jmeta.domains.rl.policies import PolicyInput

from .histories import exact_value

FACTORIES = {
    "random": baselines.uniformly_random,
    "greedy": baselines.greedy,
    "epsilon_greedy": lambda num_arms: baselines.epsilon_greedy(num_arms, epsilon=0.1),
    "ucb1": lambda num_arms: baselines.ucb1(num_arms, scale=0.2),
    "thompson_sampling": baselines.thompson_sampling,
    "optimistic_thompson_sampling": baselines.optimistic_thompson_sampling,
    "gittins": lambda num_arms: baselines.gittins(num_arms, num_pulls=10, discount=0.9),
    "finite_horizon_gittins": lambda num_arms: baselines.finite_horizon_gittins(num_arms, num_pulls=10),
    "bayes_optimal": lambda num_arms: baselines.bayes_optimal(num_arms, num_pulls=10),
}


def told(action, reward):
    return PolicyInput(
        jnp.zeros(1), jnp.array(action, jnp.int32), jnp.array(reward, jnp.float32), jnp.array(action >= 0)
    )


def after(pulls, num_arms):
    """Counts after pulls `(arm, reward)`, the last of them not yet counted but in the returned input."""
    counts = no_counts(num_arms)
    for arm, reward in pulls[:-1]:
        counts = counted(counts, told(arm, reward))
    return counts, told(*pulls[-1])


def probabilities(policy, pulls, num_arms, key=None):
    _, decision = policy.step({}, *after(pulls, num_arms), jax.random.key(0) if key is None else key)
    return jax.nn.softmax(decision.distribution.logits)


def test_counts_are_of_what_was_pulled_and_nothing_at_the_first_step():
    counts = counted(no_counts(3), told(-1, 0.0))
    assert int(counts.time) == 0
    assert (counts.successes + counts.failures).sum() == 0
    for arm, reward in [(2, 1.0), (2, 0.0), (0, 0.0), (2, 1.0)]:
        counts = counted(counts, told(arm, reward))
    np.testing.assert_array_equal(counts.successes, [0, 0, 2])
    np.testing.assert_array_equal(counts.failures, [1, 0, 1])
    assert int(counts.time) == 4


@pytest.mark.parametrize("name", [name for name in FACTORIES if "thompson" not in name])
def test_all_arms_are_alike_at_first(name):
    np.testing.assert_allclose(probabilities(FACTORIES[name](4), [(-1, 0.0)], 4), [0.25] * 4, rtol=1e-6)


def test_greedy_leaves_an_arm_that_is_below_one_half_for_all_that_were_not_pulled():
    pulls = [(0, 1.0), (0, 0.0), (0, 0.0), (1, 0.0)]  # means 2/5, 1/3, 1/2, 1/2
    np.testing.assert_allclose(probabilities(baselines.greedy(4), pulls, 4), [0, 0, 0.5, 0.5])
    stays = [(0, 1.0), (0, 1.0), (0, 0.0)]  # mean 3/5
    np.testing.assert_allclose(probabilities(baselines.greedy(4), stays, 4), [1, 0, 0, 0])
    epsilon_greedy = baselines.epsilon_greedy(4, epsilon=0.2)
    np.testing.assert_allclose(probabilities(epsilon_greedy, pulls, 4), [0.05, 0.05, 0.45, 0.45], rtol=1e-5)


def test_ucb1_by_hand():
    """Means 2/3 after one pull and 1/2 after none, at the second pull: bonuses c √(2 ln 2 / 3) and c √(2 ln 2 / 2)."""
    equal = (2 / 3 - 1 / 2) / (np.sqrt(2 * np.log(2) / 2) - np.sqrt(2 * np.log(2) / 3))  # the c at which they tie
    stays = probabilities(baselines.ucb1(2, scale=equal - 1e-3), [(0, 1.0)], 2)
    leaves = probabilities(baselines.ucb1(2, scale=equal + 1e-3), [(0, 1.0)], 2)
    np.testing.assert_array_equal(stays, [1, 0])
    np.testing.assert_array_equal(leaves, [0, 1])
    greedy = [probabilities(policy, [(0, 0.0)], 3) for policy in (baselines.ucb1(3, scale=0.0), baselines.greedy(3))]
    np.testing.assert_array_equal(*greedy)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # P(X > Y) for X ~ Beta(2, 1), Y ~ U(0, 1) is E[X]
        (baselines.thompson_sampling, 2 / 3),
        # 1 − P(Y > max(X, 2/3)) = 1 − 4/9 · 1/3 − ∫ 2x (1 − x) from 2/3 to 1
        (baselines.optimistic_thompson_sampling, 1 - 4 / 27 - 7 / 81),
    ],
)
def test_thompson_sampling_pulls_with_the_probability_of_being_best(make, expected, key):
    choose = jax.vmap(lambda key: probabilities(make(2), [(0, 1.0)], 2, key)[0])
    assert abs(choose(jax.random.split(key, 8000)).mean() - expected) < 0.02  # standard error 0.005


def test_exact_values_of_two_pulls_of_two_arms():
    """Staying after a success and leaving after a failure is best: 1/2 + 1/2 · 2/3 + 1/2 · 1/2."""
    for name in ("greedy", "ucb1", "gittins", "finite_horizon_gittins"):
        np.testing.assert_allclose(exact_value(FACTORIES[name](2), 2, 2), 13 / 12, rtol=1e-6)
    np.testing.assert_allclose(exact_value(baselines.uniformly_random(2), 2, 2), 1, rtol=1e-6)
    mixed = exact_value(baselines.epsilon_greedy(2, epsilon=0.5), 2, 2)  # the second choice is right 3 times of 4
    np.testing.assert_allclose(mixed, 0.5 + 0.5 * (0.75 * 2 / 3 + 0.25 / 2) + 0.5 * (0.75 / 2 + 0.25 / 3), rtol=1e-6)


@pytest.mark.parametrize("name", FACTORIES)
def test_policies_run_in_episodes_and_unroll_as_they_step(name, key):
    bandit, sample = environments.bernoulli_bandit(3)
    policy = FACTORIES[name](3)
    with jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        experience = rollouts.run_episode(bandit, policy, num_steps=6)({}, sample(key), jax.random.key(1))
        memory = policy.start({}, key)
        unrolled, decisions = policy.unroll({}, memory, experience.inputs, jax.random.key(2))
    for i, key_step in enumerate(jax.random.split(jax.random.key(2), 6)):
        inputs = jax.tree.map(lambda leaf: leaf[i], experience.inputs)
        memory, decision = policy.step({}, memory, inputs, key_step)
        np.testing.assert_array_equal(decision.distribution.logits, decisions.distribution.logits[i])
        np.testing.assert_array_equal(decision.value, decisions.value[i])
    jax.tree.map(np.testing.assert_array_equal, memory, unrolled)
    if isinstance(memory, ArmCounts):
        assert int(memory.time) == 5
        assert int(memory.successes.sum()) == int(experience.reward[:-1].sum())
    assert policy.init(key, experience.inputs) == {}


def test_their_order_is_that_of_the_literature(key):
    bandit, sample = environments.bernoulli_bandit(5)

    def mean_reward(policy):
        run = rollouts.run_episode(bandit, policy, num_steps=10)
        # Regret varies less between tasks than reward; the best arm's mean is 5/6 on average.
        regret = lambda key: (
            sample(key).means.max() * 10 - run({}, sample(key), jax.random.fold_in(key, 1)).reward.sum()
        )
        return 50 / 6 - float(jax.jit(jax.vmap(regret))(jax.random.split(key, 4000)).mean())

    names = ("random", "thompson_sampling", "optimistic_thompson_sampling", "greedy", "gittins", "bayes_optimal")
    means = {name: mean_reward(FACTORIES[name](5)) for name in names}
    assert abs(means["random"] - 5) < 0.15  # standard errors are about 0.03
    assert abs(means["bayes_optimal"] - 6.660) < 0.1
    assert means["random"] + 0.5 < means["thompson_sampling"] < means["optimistic_thompson_sampling"]
    assert means["optimistic_thompson_sampling"] + 0.3 < min(means["greedy"], means["gittins"])
    assert max(means.values()) < 6.660 + 0.1


def test_numbers_may_be_traced_and_tried_together(key):
    bandit, sample = environments.bernoulli_bandit(3)

    def total(scale):
        return rollouts.run_episode(bandit, baselines.ucb1(3, scale=scale), num_steps=6)({}, sample(key), key).reward

    scales = jnp.array([0.0, 0.2, 2.0])
    together = jax.vmap(total)(scales)
    np.testing.assert_array_equal(together, jnp.stack([total(float(scale)) for scale in scales]))


@pytest.mark.parametrize("concentration", [1.0, 1.5, 40.0])
def test_gammas_are_gamma(concentration, key):
    numbers = draws.gamma(jnp.full((4, 1000), concentration), key)
    assert scipy.stats.kstest(np.asarray(numbers).ravel(), "gamma", args=(concentration,)).pvalue > 0.01


def test_betas_and_dirichlets_have_their_moments(float64, key):
    numbers = draws.beta(jnp.full(4000, 3.0), jnp.full(4000, 2.0), key)
    assert numbers.dtype == jnp.float64
    assert scipy.stats.kstest(np.asarray(numbers), "beta", args=(3, 2)).pvalue > 0.01
    concentration = np.array([1.0, 2.0, 5.0])
    vectors = np.asarray(draws.dirichlet(jnp.broadcast_to(concentration, (20000, 3)), key))
    mean = concentration / 8
    np.testing.assert_allclose(vectors.mean(0), mean, atol=0.005)
    np.testing.assert_allclose(np.cov(vectors.T), (np.diag(mean) - np.outer(mean, mean)) / 9, atol=0.001)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_arms=0; expected at least 1"):
        baselines.greedy(0)
    with pytest.raises(ValueError, match=r"epsilon=1\.5; expected a number in \[0\.0, 1\.0\]"):
        baselines.epsilon_greedy(2, epsilon=1.5)
    with pytest.raises(ValueError, match=r"scale=-1\.0; expected a number in \[0\.0, inf\]"):
        baselines.ucb1(2, scale=-1.0)
