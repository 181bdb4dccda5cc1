"""Random tabular MDPs: few states and actions, everything about them drawn at random, so that nothing can be guessed.

A task is the mean reward and the transition probabilities of every state-action pair. Rollouts are cut after a fixed
number of steps; the next one starts in the same MDP, so an episode of several rollouts has something to learn from.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from jmeta.tasks.class_arrays import check_positive
from jmeta.types import RandomKey

from .environment import Environment, environment
from .spaces import Discrete

__all__ = ["TabularMDPParams", "TabularMDPState", "tabular_mdp"]


class TabularMDPParams(NamedTuple):
    """A task.

    Attributes:
      rewards: the mean reward of each action in each state.
      transitions: the probability of each next state, on the last axis, for each action in each state.
    """

    rewards: Float[Array, "states actions"]
    transitions: Float[Array, "states actions next_states"]


class TabularMDPState(NamedTuple):
    """The state of a rollout.

    Attributes:
      position: the MDP's state.
      time: steps since the rollout's start.
    """

    position: Int[Array, ""]
    time: Int[Array, ""]


def tabular_mdp(*, num_states: int = 10, num_actions: int = 5, horizon: int = 10) -> tuple[Environment, Partial]:
    """Build MDPs with mean rewards from N(1, 1) and next states' probabilities from Dirichlet(1, ..., 1).

    Rollouts start in state 0 and are truncated after `horizon` steps. A reward is its mean plus noise from N(0, 1).

    Args:
      num_states: number of states; observations are their indices.
      num_actions: number of actions in every state.
      horizon: steps in a rollout.

    Returns:
      `(environment, sample)`, with `sample(key) -> TabularMDPParams`.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax
      >>> mdp, sample = tabular_mdp(horizon=1)
      >>> params = sample(jax.random.key(0))
      >>> params.rewards.shape, params.transitions.shape
      ((10, 5), (10, 5, 10))
      >>> observation, state = mdp.reset(jax.random.key(1), params)
      >>> observation, state, reward, terminated, truncated, info = mdp.step(jax.random.key(2), state, 3, params)
      >>> int(observation), bool(terminated), bool(truncated)  # the next rollout's first observation
      (0, False, True)

    Reference:
      Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel, "RL²: Fast Reinforcement Learning via Slow Reinforcement
      Learning", 2016, arXiv:1611.02779, section 3.2; first in Osband, Russo, Van Roy, "(More) Efficient Reinforcement
      Learning via Posterior Sampling", 2013, arXiv:1306.0940.
    """
    check_positive({"num_states": num_states, "num_actions": num_actions, "horizon": horizon})

    def reset(key: RandomKey, params: TabularMDPParams) -> tuple[Int[Array, ""], TabularMDPState]:
        del key, params
        zero = jnp.zeros((), jnp.int32)
        return zero, TabularMDPState(zero, zero)

    def step(
        key: RandomKey, state: TabularMDPState, action: Int[Array, ""] | int, params: TabularMDPParams
    ) -> tuple[Int[Array, ""], TabularMDPState, Float[Array, ""], Bool[Array, ""]]:
        key_reward, key_position = jax.random.split(key)
        mean = params.rewards[state.position, action]
        reward = mean + jax.random.normal(key_reward, (), mean.dtype)
        position = _draw(params.transitions[state.position, action], key_position)
        return position, TabularMDPState(position, state.time + 1), reward, jnp.array(False)

    uniform = jnp.full((num_states, num_actions, num_states), 1 / num_states, jnp.float32)
    family = environment(
        "tabular_mdp",
        reset,
        step,
        lambda state, _: state.time >= horizon,
        observation_space=Discrete(num_states),
        action_space=Discrete(num_actions),
        default_params=TabularMDPParams(jnp.ones((num_states, num_actions), jnp.float32), uniform),
    )
    return family, Partial(_RandomMDP(num_states, num_actions))


def _draw(probabilities: Float[Array, "states"], key: RandomKey) -> Int[Array, ""]:
    """Draw a state: the number of cumulative probabilities that a uniform number has passed."""
    cumulative = jnp.cumsum(probabilities)
    # Scaled by the last one, which rounding leaves next to 1, so that impossible states stay impossible.
    passed = jax.random.uniform(key, (), cumulative.dtype) * cumulative[-1]
    return jnp.minimum((cumulative <= passed).sum(dtype=jnp.int32), probabilities.shape[0] - 1)


@dataclass(frozen=True)
class _RandomMDP:
    num_states: int
    num_actions: int

    def __call__(self, key: RandomKey) -> TabularMDPParams:
        key_rewards, key_transitions = jax.random.split(key)
        rewards = 1 + jax.random.normal(key_rewards, (self.num_states, self.num_actions), jnp.float32)
        # Exponential numbers divided by their sum are Dirichlet(1, ..., 1), at a tenth of the cost of Gamma numbers.
        shape = (self.num_states, self.num_actions, self.num_states)
        weights = jax.random.exponential(key_transitions, shape, jnp.float32)
        return TabularMDPParams(rewards, weights / weights.sum(-1, keepdims=True))
