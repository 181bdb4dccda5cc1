"""The optimum of Bernoulli bandits: against all policies, against plain recursion, and reached by its own policy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.domains.rl import baselines
from jmeta.domains.rl.baselines import bayes_optimal, bayes_optimal_value
from jmeta.domains.rl.policies import PolicyInput

from .histories import exact_value


def best_of_all_policies(num_arms, num_pulls):
    """The best of all deterministic functions from what was seen to an arm, each judged over all that can happen."""
    histories = [
        tuple(history)
        for length in range(num_pulls)
        for history in itertools.product(itertools.product(range(num_arms), (0, 1)), repeat=length)
    ]

    def value(choose, history):
        arm = choose[history]
        own = [paid for pulled, paid in history if pulled == arm]
        mean = (1 + sum(own)) / (2 + len(own))
        if len(history) + 1 == num_pulls:
            return mean
        paid, failed = (value(choose, (*history, (arm, reward))) for reward in (1, 0))
        return mean * (1 + paid) + (1 - mean) * failed

    choices = itertools.product(range(num_arms), repeat=len(histories))
    return max(value(dict(zip(histories, arms, strict=True)), ()) for arms in choices)


@pytest.mark.parametrize(("num_arms", "num_pulls"), [(1, 3), (2, 2), (3, 2)])
def test_no_policy_is_better(num_arms, num_pulls):
    best = best_of_all_policies(num_arms, num_pulls)
    np.testing.assert_allclose(bayes_optimal_value(num_arms, num_pulls=num_pulls), best, rtol=1e-12)


@pytest.mark.parametrize(("num_arms", "num_pulls"), [(1, 7), (2, 6), (3, 5), (4, 4)])
def test_the_order_of_arms_does_not_matter(num_arms, num_pulls):
    @functools.cache
    def value(counts, remaining):
        """By recursion over the counts of arms in their order."""
        if remaining == 0:
            return 0.0
        values = []
        for i, (s, f) in enumerate(counts):
            mean = (1 + s) / (2 + s + f)
            paid, failed = ((*counts[:i], arm, *counts[i + 1 :]) for arm in ((s + 1, f), (s, f + 1)))
            values.append(mean * (1 + value(paid, remaining - 1)) + (1 - mean) * value(failed, remaining - 1))
        return max(values)

    expected = value(((0, 0),) * num_arms, num_pulls)
    np.testing.assert_allclose(bayes_optimal_value(num_arms, num_pulls=num_pulls), expected, rtol=1e-12)


@pytest.mark.parametrize(("num_pulls", "num_arms", "value"), [(5, 5, 3.052), (10, 5, 6.660), (10, 10, 6.714)])
def test_values_of_the_sizes_that_policies_are_compared_on(num_pulls, num_arms, value):
    assert round(bayes_optimal_value(num_arms, num_pulls=num_pulls), 3) == value


def test_one_arm_or_one_pull_leaves_nothing_to_choose():
    np.testing.assert_allclose(bayes_optimal_value(1, num_pulls=6), 3, rtol=1e-12)
    np.testing.assert_allclose(bayes_optimal_value(6, num_pulls=1), 0.5, rtol=1e-12)
    more_arms_than_pulls = [bayes_optimal_value(count, num_pulls=4) for count in (4, 40)]
    assert more_arms_than_pulls[0] == more_arms_than_pulls[1]


def test_the_policy_reaches_the_value_and_others_do_not_exceed_it():
    optimum = bayes_optimal_value(2, num_pulls=5)
    np.testing.assert_allclose(exact_value(bayes_optimal(2, num_pulls=5), 2, 5), optimum, rtol=1e-6)
    others = [
        baselines.greedy(2),
        baselines.ucb1(2, scale=0.3),
        baselines.gittins(2, num_pulls=5, discount=0.7),
        baselines.finite_horizon_gittins(2, num_pulls=5),
    ]
    values = [exact_value(policy, 2, 5) for policy in others]
    assert max(values) < optimum + 1e-6
    assert min(values) < optimum - 1e-3
    assert values[3] > optimum - 1e-2  # the finite-horizon index is nearly optimal


def test_decisions_say_what_the_remaining_pulls_are_worth(key):
    policy = bayes_optimal(3, num_pulls=4)
    step = jax.jit(policy.step)
    memory, action, reward, values = policy.start({}, key), -1, 0.0, []
    for paid in (1.0, 0.0, 0.0, 1.0, 0.0):
        inputs = PolicyInput(jnp.zeros(1), jnp.array(action, jnp.int32), jnp.array(reward), jnp.array(action >= 0))
        memory, decision = step({}, memory, inputs, key)
        values.append(float(decision.value))
        action, reward = int(decision.distribution.mode()), paid
    np.testing.assert_allclose(values[0], bayes_optimal_value(3, num_pulls=4), rtol=1e-6)
    # Before the last pull: the best arm of one success and two failures (2/5) and two never pulled (1/2), or of such.
    assert values[3] == 0.5
    assert values[4] == 0  # nothing is known of a fifth pull
    np.testing.assert_array_equal(decision.distribution.logits, jnp.zeros(3))


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_arms=0; expected at least 1"):
        bayes_optimal_value(0, num_pulls=3)
    with pytest.raises(ValueError, match="num_pulls=0; expected at least 1"):
        bayes_optimal(3, num_pulls=0)
