"""Hand-designed policies for Bernoulli bandits, as a yardstick for meta-learned ones.

All of them count the successes and failures of each arm, from which its posterior is Beta(1 + successes, 1 + failures):
the prior is uniform, exactly the distribution of the arms of `environments.bernoulli_bandit`. Most assign an index to
every arm and pull one of the highest, each with equal probability. The distribution that they return is that of the
pull given the index: a posterior sample behind the index is drawn in `step`, with its key.

Reference: Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel, "RL²: Fast Reinforcement Learning via Slow Reinforcement
Learning", 2016, arXiv:1611.02779, section 3.1, which compares itself with these.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmeta.tasks.class_arrays import check_positive
from jmeta.types import RandomKey

from ..policies import Policy, PolicyInput, PolicyOutput
from .acting import Scalar, check_range, choice, mixed_with_uniform, uniform_over_best, untrained
from .draws import beta
from .gittins import finite_horizon_indices, gittins_indices

__all__ = [
    "ArmCounts",
    "Index",
    "index_policy",
    "greedy",
    "epsilon_greedy",
    "ucb1",
    "thompson_sampling",
    "optimistic_thompson_sampling",
    "gittins",
    "tabled",
    "finite_horizon_gittins",
    "no_counts",
    "counted",
]


class ArmCounts(NamedTuple):
    """The memory of the policies.

    Attributes:
      successes: number of pulls of each arm that paid.
      failures: number of pulls of each arm that did not.
      time: number of pulls of all arms.
    """

    successes: Int[Array, "arms"]
    failures: Int[Array, "arms"]
    time: Int[Array, ""]


Index = Callable[[ArmCounts, RandomKey], Float[Array, "arms"]]
"""`(counts, key) -> indices`: one index for each arm; the highest is pulled."""


def index_policy(num_arms: int, index: Index) -> Policy:
    """Build a policy that pulls an arm of the highest index.

    Args:
      num_arms: number of arms.
      index: `(counts, key) -> indices`, one for each arm.

    Raises:
      ValueError: if `num_arms` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> in_turn = index_policy(5, lambda counts, key: -(counts.successes + counts.failures).astype(jnp.float32))
      >>> run = rollouts.run_episode(bandit, in_turn, num_steps=5)
      >>> sorted(run({}, sample(jax.random.key(0)), jax.random.key(1)).action.tolist())
      [0, 1, 2, 3, 4]
    """
    return _counting(num_arms, lambda counts, key: uniform_over_best(index(counts, key)))


def greedy(num_arms: int) -> Policy:
    """Build a policy that pulls an arm of the highest posterior mean, (1 + successes) / (2 + pulls).

    An arm never pulled counts as 1/2, as if it had paid once and failed once: above that no other arm is tried.

    Raises:
      ValueError: if `num_arms` is not positive.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> run = rollouts.run_episode(bandit, greedy(5), num_steps=10)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (10,)
    """
    return index_policy(num_arms, lambda counts, _: _posterior_mean(counts))


def epsilon_greedy(num_arms: int, *, epsilon: Scalar) -> Policy:
    """Build a policy that pulls like `greedy` with probability 1 − ε, and else any arm.

    Args:
      num_arms: number of arms.
      epsilon: ε, in [0, 1].

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> run = rollouts.run_episode(bandit, epsilon_greedy(5, epsilon=0.1), num_steps=10)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (10,)
    """
    check_range("epsilon", epsilon, 0.0, 1.0)

    def logits(counts: ArmCounts, key: RandomKey) -> Float[Array, "arms"]:
        del key
        return mixed_with_uniform(uniform_over_best(_posterior_mean(counts)), epsilon)

    return _counting(num_arms, logits)


def ucb1(num_arms: int, *, scale: Scalar = 1.0) -> Policy:
    """Build a policy that pulls an arm of the highest upper confidence bound, m + c √(2 ln t / p).

    m is the posterior mean and p = 2 + pulls. Both include the one success and one failure of the prior, so no arm has
    to be pulled first; t numbers the pull from 1. c = 1 is the paper's bound; less is better here.

    Args:
      num_arms: number of arms.
      scale: c, at least 0.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> run = rollouts.run_episode(bandit, ucb1(5, scale=0.3), num_steps=10)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (10,)

    Reference:
      Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", 2002, figure 1. Differs from
      the paper: c, and the prior's two pulls in place of one pull of every arm.
    """
    check_range("scale", scale, 0.0, math.inf)

    def index(counts: ArmCounts, key: RandomKey) -> Float[Array, "arms"]:
        del key
        pulls = (2 + counts.successes + counts.failures).astype(jnp.float32)
        surprise = 2 * jnp.log((1 + counts.time).astype(jnp.float32))
        return _posterior_mean(counts) + scale * jnp.sqrt(surprise / pulls)

    return index_policy(num_arms, index)


def thompson_sampling(num_arms: int) -> Policy:
    """Build a policy that pulls the best arm in a sample of the posterior.

    Raises:
      ValueError: if `num_arms` is not positive.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> run = rollouts.run_episode(bandit, thompson_sampling(5), num_steps=10)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (10,)

    Reference:
      Thompson, "On the Likelihood that One Unknown Probability Exceeds Another in View of the Evidence of Two Samples",
      1933.
    """
    return index_policy(num_arms, _posterior_sample)


def optimistic_thompson_sampling(num_arms: int) -> Policy:
    """Build Thompson sampling in which an arm's sample counts for no less than its posterior mean.

    Raises:
      ValueError: if `num_arms` is not positive.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> run = rollouts.run_episode(bandit, optimistic_thompson_sampling(5), num_steps=10)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (10,)

    Reference:
      May, Korda, Lee, Leslie, "Optimistic Bayesian Sampling in Contextual-Bandit Problems", 2012.
    """

    def index(counts: ArmCounts, key: RandomKey) -> Float[Array, "arms"]:
        return jnp.maximum(_posterior_sample(counts, key), _posterior_mean(counts))

    return index_policy(num_arms, index)


def gittins(num_arms: int, *, num_pulls: int, discount: float) -> Policy:
    """Build a policy of the highest discounted Gittins index: optimal if endless rewards were discounted by γ.

    Episodes end and count all rewards equally, so γ stands for their length: one near 1 − 2/n suits n pulls, and the
    best one must be found by trying.

    Args:
      num_arms: number of arms.
      num_pulls: largest number of pulls in an episode; the table of indices has this size, squared.
      discount: γ, in [0, 1).

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> run = rollouts.run_episode(bandit, gittins(5, num_pulls=10, discount=0.9), num_steps=10)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (10,)

    Reference:
      Gittins, "Bandit Processes and Dynamic Allocation Indices", 1979.
    """
    return tabled(num_arms, jnp.asarray(gittins_indices(num_pulls, discount=discount), jnp.float32))


def tabled(num_arms: int, indices: Float[Array, "successes failures"]) -> Policy:
    """Build a policy that pulls an arm of the highest index, from a table by successes and failures.

    Args:
      num_arms: number of arms.
      indices: table as from `gittins_indices`; it may be traced.

    Raises:
      ValueError: if `num_arms` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(2)
      >>> run = rollouts.run_episode(bandit, tabled(2, jnp.array([[0.5, 0.0], [1.0, 0.5]])), num_steps=1)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (1,)
    """
    return index_policy(num_arms, lambda counts, _: indices[counts.successes, counts.failures])


def finite_horizon_gittins(num_arms: int, *, num_pulls: int) -> Policy:
    """Build a policy of the highest index that takes the number of remaining pulls into account.

    It is nearly optimal, without a number to tune. An arm's index is the charge per pull at which the best use of that
    arm alone, stopping at will and at the episode's end at the latest, earns nothing.

    Args:
      num_arms: number of arms.
      num_pulls: pulls of an episode; the table of indices has this size, cubed.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> run = rollouts.run_episode(bandit, finite_horizon_gittins(5, num_pulls=10), num_steps=10)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (10,)

    Reference:
      Kaufmann, "On Bayesian Index Policies for Sequential Resource Allocation", 2018, arXiv:1601.01190.
    """
    indices = jnp.asarray(finite_horizon_indices(num_pulls), jnp.float32)

    def index(counts: ArmCounts, key: RandomKey) -> Float[Array, "arms"]:
        del key
        remaining = jnp.broadcast_to(jnp.maximum(num_pulls - counts.time, 1), (num_arms,))
        return indices[remaining, counts.successes, counts.failures]

    return index_policy(num_arms, index)


def _counting(num_arms: int, logits: Callable[[ArmCounts, RandomKey], Array]) -> Policy:
    check_positive({"num_arms": num_arms})

    def decide(counts: ArmCounts, inputs: PolicyInput, key: RandomKey) -> tuple[ArmCounts, PolicyOutput]:
        counts = counted(counts, inputs)
        return counts, choice(logits(counts, key))

    return untrained(lambda: no_counts(num_arms), decide)


def no_counts(num_arms: int) -> ArmCounts:
    """Return the counts before the first pull.

    Example:
      >>> no_counts(3).successes.tolist()
      [0, 0, 0]
    """
    zeros = jnp.zeros((num_arms,), jnp.int32)
    return ArmCounts(zeros, zeros, jnp.zeros((), jnp.int32))


def counted(counts: ArmCounts, inputs: PolicyInput) -> ArmCounts:
    """Update counts with the previous pull in a step's input; at the first step there is none.

    Example:
      >>> import jax.numpy as jnp
      >>> inputs = PolicyInput(jnp.zeros(1), jnp.array(2), jnp.array(1.0), jnp.array(True))
      >>> counted(no_counts(3), inputs).successes.tolist()
      [0, 0, 1]
    """
    num_arms = counts.successes.shape[0]
    pulled = jax.nn.one_hot(inputs.action, num_arms, dtype=jnp.int32)  # action -1, before the first pull: all zeros
    has_paid = (inputs.reward > 0.5).astype(jnp.int32)
    return ArmCounts(
        counts.successes + pulled * has_paid,
        counts.failures + pulled * (1 - has_paid),
        counts.time + (inputs.action >= 0).astype(jnp.int32),
    )


def _posterior(counts: ArmCounts) -> tuple[Float[Array, "arms"], Float[Array, "arms"]]:
    return (1 + counts.successes).astype(jnp.float32), (1 + counts.failures).astype(jnp.float32)


def _posterior_mean(counts: ArmCounts) -> Float[Array, "arms"]:
    successes, failures = _posterior(counts)
    return successes / (successes + failures)


def _posterior_sample(counts: ArmCounts, key: RandomKey) -> Float[Array, "arms"]:
    return beta(*_posterior(counts), key)
