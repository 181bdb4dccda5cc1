"""The posterior of a tabular MDP whose prior is the distribution of `environments.tabular_mdp`.

Next states of a state-action pair are Dirichlet: 1 plus the number of times that each one came next. Mean rewards are
normal: with prior N(μ, 1) and rewards of variance 1, the posterior after n rewards is N((μ + Σ r) / (1 + n), 1 / (1 +
n)). The prior thus counts as one reward.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jmeta.types import RandomKey

from ..environments.tabular_mdp import TabularMDPParams
from .acting import Scalar
from .draws import dirichlet

__all__ = ["MDPPosterior", "prior", "experienced", "posterior_mean", "posterior_sample"]


class MDPPosterior(NamedTuple):
    """The posterior of an MDP, as counts and sums.

    Attributes:
      concentration: parameters of the Dirichlet of next states: 1 plus how often each came after each action in each
        state.
      rewards: the prior's mean plus the sum of the rewards of each action in each state.
      precision: 1 plus the number of rewards. At the end of a rollout there is a reward without a next state.
    """

    concentration: Float[Array, "states actions next_states"]
    rewards: Float[Array, "states actions"]
    precision: Float[Array, "states actions"]


def prior(num_states: int, num_actions: int, *, reward_mean: Scalar = 1.0) -> MDPPosterior:
    """Return the posterior before the first step.

    Args:
      num_states, num_actions: sizes of the MDP.
      reward_mean: μ, the expected reward; the MDPs' is 1, and less is pessimism.

    Example:
      >>> prior(10, 5).concentration.shape
      (10, 5, 10)
    """
    pairs = jnp.ones((num_states, num_actions), jnp.float32)
    return MDPPosterior(jnp.ones((num_states, num_actions, num_states), jnp.float32), reward_mean * pairs, pairs)


def experienced(
    posterior: MDPPosterior,
    state: Int[Array, ""],
    action: Int[Array, ""],
    reward: Float[Array, ""],
    next_state: Int[Array, ""],
    is_over: Bool[Array, ""],
) -> MDPPosterior:
    """Return the posterior after one more step.

    Args:
      posterior: the posterior before the step.
      state: the state in which the action was taken.
      action: the action; -1 for none, which changes nothing.
      reward: the reward for it.
      next_state: the next observed state; not informative if the rollout was over.
      is_over: whether the rollout was over.

    Example:
      >>> import jax.numpy as jnp
      >>> step = (jnp.array(0), jnp.array(1), jnp.array(2.5), jnp.array(2), jnp.array(False))
      >>> posterior = experienced(prior(3, 2), *step)
      >>> float(posterior.rewards[0, 1]), posterior.concentration[0, 1].tolist()
      (3.5, [1.0, 1.0, 2.0])
    """
    is_step = (action >= 0).astype(jnp.float32)
    action = jnp.maximum(action, 0)
    return MDPPosterior(
        posterior.concentration.at[state, action, next_state].add(jnp.where(is_over, 0.0, is_step)),
        posterior.rewards.at[state, action].add(is_step * reward),
        posterior.precision.at[state, action].add(is_step),
    )


def posterior_mean(posterior: MDPPosterior) -> TabularMDPParams:
    """Return the MDP of mean rewards and mean transition probabilities.

    Example:
      >>> mean = posterior_mean(prior(4, 2))
      >>> float(mean.rewards[0, 0]), float(mean.transitions[0, 0, 0])
      (1.0, 0.25)
    """
    total = posterior.concentration.sum(-1, keepdims=True)
    return TabularMDPParams(posterior.rewards / posterior.precision, posterior.concentration / total)


def posterior_sample(posterior: MDPPosterior, key: RandomKey) -> TabularMDPParams:
    """Draw an MDP from the posterior.

    Example:
      >>> import jax
      >>> posterior_sample(prior(4, 2), jax.random.key(0)).transitions.shape
      (4, 2, 4)
    """
    key_rewards, key_transitions = jax.random.split(key)
    noise = jax.random.normal(key_rewards, posterior.rewards.shape, posterior.rewards.dtype)
    rewards = posterior.rewards / posterior.precision + noise * jax.lax.rsqrt(posterior.precision)
    return TabularMDPParams(rewards, dirichlet(posterior.concentration, key_transitions))
