"""What is known of a tabular MDP: the posterior that belongs to the prior of `environments.tabular_mdp`.

Next states of a pair of state and action are Dirichlet: 1 and the times that each one came next. Mean rewards are
normal: from N(1, 1) and rewards of variance 1 follows N((1 + Σ r) / (1 + n), 1 / (1 + n)) after n of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..environments.tabular_mdp import TabularMDPParams
from ..types import RandomKey
from .draws import dirichlet


class MDPCounts(NamedTuple):
    """What was experienced of an MDP, of which the posterior is a function.

    Attributes:
      next_states: how often each state came after each action in each state.
      rewards: the sum of the rewards of each action in each state.
      visits: how many rewards that is. At the end of a rollout there is a reward without a next state.
    """

    next_states: Float[Array, "states actions next_states"]
    rewards: Float[Array, "states actions"]
    visits: Float[Array, "states actions"]


def no_experience(num_states: int, num_actions: int) -> MDPCounts:
    """Before the first step.

    Example:
      >>> no_experience(10, 5).next_states.shape
      (10, 5, 10)
    """
    pairs = jnp.zeros((num_states, num_actions), jnp.float32)
    return MDPCounts(jnp.zeros((num_states, num_actions, num_states), jnp.float32), pairs, pairs)


def experienced(
    counts: MDPCounts,
    state: Int[Array, ""],
    action: Int[Array, ""],
    reward: Float[Array, ""],
    next_state: Int[Array, ""],
    is_over: Bool[Array, ""],
) -> MDPCounts:
    """Counts with one step more.

    Args:
      counts: of what was before.
      state: in which the action was taken.
      action: what was done; -1 for nothing, which changes nothing.
      reward: for it.
      next_state: what was observed next; it tells nothing if the rollout was over.
      is_over: whether it was.

    Example:
      >>> import jax.numpy as jnp
      >>> step = (jnp.array(0), jnp.array(1), jnp.array(2.5), jnp.array(2), jnp.array(False))
      >>> counts = experienced(no_experience(3, 2), *step)
      >>> float(counts.rewards[0, 1]), counts.next_states[0, 1].tolist()
      (2.5, [0.0, 0.0, 1.0])
    """
    is_step = (action >= 0).astype(jnp.float32)
    action = jnp.maximum(action, 0)
    return MDPCounts(
        counts.next_states.at[state, action, next_state].add(jnp.where(is_over, 0.0, is_step)),
        counts.rewards.at[state, action].add(is_step * reward),
        counts.visits.at[state, action].add(is_step),
    )


def posterior_mean(counts: MDPCounts) -> TabularMDPParams:
    """The MDP of mean rewards and mean transition probabilities.

    Example:
      >>> mean = posterior_mean(no_experience(4, 2))
      >>> float(mean.rewards[0, 0]), float(mean.transitions[0, 0, 0])
      (1.0, 0.25)
    """
    concentration = 1 + counts.next_states
    return TabularMDPParams(
        (1 + counts.rewards) / (1 + counts.visits), concentration / concentration.sum(-1, keepdims=True)
    )


def posterior_sample(counts: MDPCounts, key: RandomKey) -> TabularMDPParams:
    """An MDP as likely as the posterior says.

    Example:
      >>> import jax
      >>> posterior_sample(no_experience(4, 2), jax.random.key(0)).transitions.shape
      (4, 2, 4)
    """
    key_rewards, key_transitions = jax.random.split(key)
    noise = jax.random.normal(key_rewards, counts.rewards.shape, counts.rewards.dtype)
    rewards = posterior_mean(counts).rewards + noise * jax.lax.rsqrt(1 + counts.visits)
    return TabularMDPParams(rewards, dirichlet(1 + counts.next_states, key_transitions))
