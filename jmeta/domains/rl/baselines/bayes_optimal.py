"""The exact Bayes-optimal policy of Bernoulli bandits with uniform priors: no learner can beat it on average.

The state of knowledge is each arm's successes and failures. Arms are interchangeable, so their order does not matter:
states are multisets of counts, few enough to list for ten or twenty pulls. From the last pull backwards, with
p = (1 + s) / (2 + s + f) the posterior mean of an arm,

    Vₘ(state) = max over arms of  p [1 + Vₘ₋₁(with a success)] + (1 − p) Vₘ₋₁(with a failure),   V₀ = 0.

Reference: Bellman, "A Problem in the Sequential Design of Experiments", 1956; the values are those that policies
trained on `environments.bernoulli_bandit` may be compared with.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt32

from jmeta.tasks.class_arrays import check_positive
from jmeta.types import RandomKey

from ..policies import Categorical, Policy, PolicyInput, PolicyOutput
from .acting import uniform_over_best, untrained
from .bandits import ArmCounts, counted, no_counts

__all__ = ["Arms", "bayes_optimal_value", "bayes_optimal"]

Arms = tuple[tuple[int, int], ...]  # (successes, failures) of the arms that were pulled, sorted


class _Plan(NamedTuple):
    value: float  # value of the remaining pulls
    arm: tuple[int, int]  # counts of the arm to pull


def bayes_optimal_value(num_arms: int, *, num_pulls: int) -> float:
    """Return the expected total reward of the optimal policy, over arms with probabilities uniform in [0, 1].

    Time and memory grow by half or more with each pull: there are 2,000 states for ten pulls of five arms, and 45,000,
    a second's work, for sixteen.

    Args:
      num_arms: number of arms.
      num_pulls: pulls of an episode.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> round(bayes_optimal_value(2, num_pulls=2), 4)  # 1/2 · (1 + 2/3) + 1/2 · 1/2
      1.0833
    """
    return _plans(num_arms, num_pulls)[()].value


def bayes_optimal(num_arms: int, *, num_pulls: int) -> Policy:
    """Build the policy that reaches `bayes_optimal_value`, by table lookup.

    Among several arms with the counts to pull, it chooses any; among several equally good counts, those with more
    successes. The `value` of its decisions is the expected reward of the remaining pulls. After `num_pulls` pulls it
    knows nothing, and pulls any arm.

    Args:
      num_arms: number of arms.
      num_pulls: pulls of an episode.

    Raises:
      ValueError: if a number is not positive, or there are more states than 32 bits can distinguish.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(3)
      >>> run = rollouts.run_episode(bandit, bayes_optimal(3, num_pulls=4), num_steps=4)
      >>> trajectory = run({}, sample(jax.random.key(0)), jax.random.key(1))
      >>> round(float(trajectory.outputs.value[0]), 4) == round(bayes_optimal_value(3, num_pulls=4), 4)
      True
    """
    table = _table(_plans(num_arms, num_pulls), num_pulls)

    def decide(counts: ArmCounts, inputs: PolicyInput, key: RandomKey) -> tuple[ArmCounts, PolicyOutput]:
        del key
        counts = counted(counts, inputs)
        successes, failures = (jnp.minimum(count, num_pulls) for count in (counts.successes, counts.failures))
        name = table.codes[successes, failures].sum(dtype=jnp.uint32)
        row = jnp.minimum(jnp.searchsorted(table.names, name), table.names.shape[0] - 1)
        is_known = (table.names[row] == name) & (counts.time < num_pulls)
        is_best = is_known & (counts.successes == table.successes[row]) & (counts.failures == table.failures[row])
        value = jnp.where(is_known, table.values[row], jnp.zeros((), jnp.float32))
        return counts, PolicyOutput(Categorical(uniform_over_best(is_best)), value)

    return untrained(lambda: no_counts(num_arms), decide)


class _Table(NamedTuple):
    """All states, sorted by name.

    A state's name is the sum of its arms' codes, random 32-bit numbers of their counts, modulo 2³²: finding it needs no
    sorting of arms. When the table is built, it is checked that no two states share a name.
    """

    codes: UInt32[Array, "successes failures"]
    names: UInt32[Array, "states"]
    successes: Int32[Array, "states"]  # of the arm to pull
    failures: Int32[Array, "states"]
    values: Float32[Array, "states"]


def _table(plans: dict[Arms, _Plan], num_pulls: int) -> _Table:
    states = list(plans)
    for seed in range(100):
        codes = np.random.default_rng(seed).integers(0, 2**32, (num_pulls + 1, num_pulls + 1), np.uint32)
        codes[0, 0] = 0  # arms that were not pulled are not listed
        names = np.array([sum(int(codes[arm]) for arm in arms) % 2**32 for arms in states], np.uint32)
        if len(np.unique(names)) == len(names):
            order = np.argsort(names)
            arms = np.array([plans[state].arm for state in states], np.int32)[order]
            values = np.array([plans[state].value for state in states], np.float32)[order]
            return _Table(*map(jnp.asarray, (codes, names[order], arms[:, 0], arms[:, 1], values)))
    raise ValueError(f"num_pulls={num_pulls} has {len(states)} states, too many to tell apart by 32 bits; pass fewer")


def _plans(num_arms: int, num_pulls: int) -> dict[Arms, _Plan]:
    """Return the best arm in every state that can be reached before the last pull."""
    check_positive({"num_arms": num_arms, "num_pulls": num_pulls})
    layers: list[set[Arms]] = [{()}]
    for _ in range(num_pulls - 1):
        pulls = [(arms, arm) for arms in layers[-1] for arm in _options(arms, num_arms)]
        layers.append({_pulled(*pull, paid) for pull in pulls for paid in (0, 1)})
    plans: dict[Arms, _Plan] = {}
    for layer in reversed(layers):
        plans |= {arms: max(_judged(arms, arm, plans) for arm in _options(arms, num_arms)) for arms in layer}
    return plans


def _judged(arms: Arms, arm: tuple[int, int], plans: dict[Arms, _Plan]) -> _Plan:
    """Return the expected reward of pulling an arm and continuing as planned."""
    mean = (1 + arm[0]) / (2 + sum(arm))
    after = [plans[state].value if (state := _pulled(arms, arm, paid)) in plans else 0.0 for paid in (0, 1)]
    return _Plan(mean * (1 + after[1]) + (1 - mean) * after[0], arm)


def _options(arms: Arms, num_arms: int) -> set[tuple[int, int]]:
    """Return the distinct counts of arms, including an arm never pulled if there is one."""
    return set(arms) | ({(0, 0)} if len(arms) < num_arms else set())


def _pulled(arms: Arms, arm: tuple[int, int], paid: int) -> Arms:
    others = list(arms)
    if arm in others:
        others.remove(arm)
    return tuple(sorted([*others, (arm[0] + paid, arm[1] + 1 - paid)]))
