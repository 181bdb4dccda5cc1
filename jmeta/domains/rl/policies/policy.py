"""What a policy is: a function of all that it has seen, step by step or over a whole sequence.

At every step a policy is told the observation and what came of its previous action. RL²'s paper calls the stream of
steps that belong to one task a *trial*; here it is the *episode*, and one run of the environment, of which an episode
has several, a *rollout*. What a policy remembers is kept over the rollouts of an episode.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmeta.types import PyTree, RandomKey

from ..environments.environment import as_vector
from .distributions import Distribution


class PolicyInput(NamedTuple):
    """What a policy is told at a step.

    Attributes:
      observation: the environment's.
      action: the previous one; at the first step of an episode -1 or zeros, see `first_input`.
      reward: of the previous action.
      is_over: whether the previous action ended a rollout, so that the observation is a new one's first.
    """

    observation: PyTree
    action: Array
    reward: Float[Array, "*steps"]
    is_over: Bool[Array, "*steps"]


class PolicyOutput(NamedTuple):
    """What a policy says at a step.

    Attributes:
      distribution: of the next action.
      value: its guess of the return from here on; zero where it makes none.
    """

    distribution: Distribution
    value: Float[Array, "*steps"]


class Policy(NamedTuple):
    """A policy with memory, as four pure functions; one that stores nothing has an empty memory.

    Attributes:
      init: `(key, inputs) -> params`, from a sequence of `PolicyInput`s; only shapes and dtypes matter.
      start: `(params, key) -> memory`, before any experience.
      step: `(params, memory, inputs, key) -> (memory, PolicyOutput)`.
      unroll: the same over a sequence, the steps on the first axis of all leaves of `inputs` and of the decisions.
    """

    init: Callable[[RandomKey, PolicyInput], PyTree]
    start: Callable[[PyTree, RandomKey], PyTree]
    step: Callable[[PyTree, PyTree, PolicyInput, RandomKey], tuple[PyTree, PolicyOutput]]
    unroll: Callable[[PyTree, PyTree, PolicyInput, RandomKey], tuple[PyTree, PolicyOutput]]


def first_input(observation: PyTree, action_space: Any) -> PolicyInput:
    """What a policy is told at the first step of an episode, when there was no action yet.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments import Discrete
      >>> int(first_input(jnp.zeros(1), Discrete(5)).action)
      -1
    """
    is_discrete = hasattr(action_space, "n")
    action = jnp.array(-1, jnp.int32) if is_discrete else jnp.zeros(action_space.shape, jnp.float32)
    return PolicyInput(observation, action, jnp.zeros((), jnp.float32), jnp.array(False))


def features(inputs: PolicyInput, observation_space: Any, action_space: Any) -> Float[Array, "*steps features"]:
    """What a policy is told, as one vector a step: numbers as they are, choices one-hot, no action yet as zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments import Box, Discrete
      >>> inputs = first_input(jnp.zeros(1), Discrete(5))
      >>> features(inputs, Box(0.0, 1.0, (1,)), Discrete(5)).shape
      (8,)
    """
    parts = [
        as_vector(inputs.observation, observation_space),
        as_vector(inputs.action, action_space),
        inputs.reward[..., None].astype(jnp.float32),
        inputs.is_over[..., None].astype(jnp.float32),
    ]
    return jnp.concatenate(parts, -1)
