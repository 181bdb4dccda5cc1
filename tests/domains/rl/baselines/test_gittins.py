"""Gittins indices against published tables, against all rules of stopping, and against the optimum of two arms."""

import functools
import itertools

import numpy as np
import pytest

from jmeta.domains.rl.baselines import finite_horizon_indices, gittins_indices

# Gittins, "Multi-armed Bandit Allocation Indices", 1989, tables for Bernoulli arms: failures by rows, successes by
# columns, from none of either; four decimals.
PUBLISHED = {
    0.9: [
        [0.7029, 0.8001, 0.8452, 0.8723, 0.8905],
        [0.5001, 0.6346, 0.7072, 0.7539, 0.7869],
        [0.3796, 0.5163, 0.6010, 0.6579, 0.6996],
    ],
    0.99: [
        [0.8699, 0.9102, 0.9285, 0.9395, 0.9470],
        [0.7005, 0.7844, 0.8268, 0.8533, 0.8719],
    ],
}


def index_over_all_rules(successes, failures, *, remaining, discount):
    """The highest Σ γᵗ rewards / Σ γᵗ over all sets of states in which one goes on."""
    depths = range(1, remaining)
    states = [(s, depth - s) for depth in depths for s in range(depth + 1)]  # relative to the start

    def sums(going_on):
        @functools.cache
        def from_state(s, f, time):
            mean = (1 + successes + s) / (2 + successes + failures + s + f)
            reward, duration = discount**time * mean, discount**time
            for after, chance in (((s + 1, f), mean), ((s, f + 1), 1 - mean)):
                if after in going_on:
                    more = from_state(*after, time + 1)
                    reward, duration = reward + chance * more[0], duration + chance * more[1]
            return reward, duration

        return from_state(0, 0, 0)

    subsets = itertools.chain.from_iterable(itertools.combinations(states, n) for n in range(len(states) + 1))
    return max(reward / duration for reward, duration in map(sums, map(frozenset, subsets)))


@pytest.mark.parametrize("discount", PUBLISHED)
def test_discounted_indices_are_the_published_ones(discount):
    indices = gittins_indices(6, discount=discount)
    published = np.array(PUBLISHED[discount])
    np.testing.assert_allclose(indices[:5, : len(published)].T, published, atol=6e-5)


@pytest.mark.parametrize(("successes", "failures"), [(0, 0), (2, 0), (0, 1), (1, 2)])
def test_finite_horizon_indices_are_the_best_over_all_rules_of_stopping(successes, failures):
    indices = finite_horizon_indices(7, num_charges=1601)
    for remaining in (1, 2, 3, 4):
        expected = index_over_all_rules(successes, failures, remaining=remaining, discount=1.0)
        np.testing.assert_allclose(indices[remaining, successes, failures], expected, atol=5e-5)


def test_discounted_indices_are_the_best_over_all_rules_of_stopping():
    """With γ = 0.05, what comes after four pulls is worth 10⁻⁵ at most."""
    indices = gittins_indices(3, discount=0.05)
    for at in [(0, 0), (1, 0), (0, 2), (1, 1)]:
        expected = index_over_all_rules(*at, remaining=4, discount=0.05)
        np.testing.assert_allclose(indices[at], expected, atol=2e-5)


@pytest.mark.parametrize("discount", [0.9, 0.95])
def test_indices_of_a_few_pulls_are_as_exact_as_documented(discount):
    """Against a grid five times as fine, whose error is a 25th."""
    difference = np.abs(gittins_indices(5, discount=discount) - gittins_indices(5, discount=discount, num_charges=4001))
    assert 1e-5 < difference.max() < 3e-5  # so that the documented bound is neither too low nor far too high


def test_indices_of_many_pulls_are_as_exact_as_documented():
    difference = gittins_indices(200, discount=0.9) - gittins_indices(200, discount=0.9, num_charges=4001)
    assert 1.4e-4 < np.abs(difference).max() < 1.6e-4


def test_without_a_future_the_index_is_the_mean():
    counts = np.arange(5)
    means = (1 + counts[:, None]) / (2 + counts[:, None] + counts)
    np.testing.assert_allclose(gittins_indices(4, discount=0.0), means, atol=1e-5)
    finite = finite_horizon_indices(5)
    for successes, failures in [(0, 0), (3, 1), (0, 4)]:
        np.testing.assert_allclose(finite[1, successes, failures], means[successes, failures], atol=1e-5)


def test_indices_rise_with_successes_with_the_future_and_with_what_is_unknown():
    near, far = gittins_indices(20, discount=0.8), gittins_indices(20, discount=0.95)
    finite = finite_horizon_indices(20)
    for s, f in [(0, 0), (3, 1), (2, 7), (9, 9)]:
        mean = (1 + s) / (2 + s + f)
        assert mean < near[s, f] < far[s, f] < 1
        assert far[s, f + 1] < far[s, f] < far[s + 1, f]
        assert (np.diff(finite[1 : 21 - s - f, s, f]) > -1e-9).all()  # the more pulls remain
    assert far[9, 9] < far[1, 1] < far[0, 0]  # all of mean 1/2


def test_pulling_the_highest_index_is_optimal_for_two_discounted_arms():
    """The theorem itself, up to what comes after twelve pulls."""
    discount, num_pulls = 0.5, 12
    indices = gittins_indices(num_pulls, discount=discount)

    @functools.cache
    def value(arms, remaining, is_optimal):
        if remaining == 0:
            return 0.0
        values = []
        for i, (s, f) in enumerate(arms):
            mean = (1 + s) / (2 + s + f)
            paid, failed = (tuple(sorted([arms[1 - i], after])) for after in ((s + 1, f), (s, f + 1)))
            after = mean * value(paid, remaining - 1, is_optimal) + (1 - mean) * value(
                failed, remaining - 1, is_optimal
            )
            values.append(mean + discount * after)
        return max(values) if is_optimal else values[int(np.argmax([indices[arm] for arm in arms]))]

    start = ((0, 0), (0, 0))
    np.testing.assert_allclose(value(start, num_pulls, False), value(start, num_pulls, True), atol=discount**num_pulls)
    assert value(start, num_pulls, True) > 0.5 / (1 - discount) + 0.05  # and better than pulling any


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"discount=1\.0; expected a number in \[0, 1\)"):
        gittins_indices(3, discount=1.0)
    with pytest.raises(ValueError, match="num_pulls=0; expected at least 1"):
        finite_horizon_indices(0)
