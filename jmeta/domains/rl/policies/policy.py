"""Policies: functions of everything they have seen, step by step or over a whole sequence.

At every step a policy sees the observation and the result of its previous action. RL²'s paper calls the stream of steps
that belong to one task a *trial*; here it is the *episode*, and one run of the environment, of which an episode has
several, a *rollout*. A policy keeps its memory over the rollouts of an episode.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmeta.types import PyTree, RandomKey

from ..environments.spaces import as_vector, flat_action_space
from .distributions import Distribution

__all__ = ["PolicyInput", "PolicyOutput", "Policy", "first_input", "features", "with_feedback"]


class PolicyInput(NamedTuple):
    """The input of a policy at a step: the observation, and the result of the previous action.

    Attributes:
      observation: the environment's observation, unchanged: an array, or a dictionary or tuple of arrays.
      action: the previous action, numbers of any shape as one vector; -1 or zeros at the first step of an episode, see
        `first_input`.
      reward: reward of the previous action.
      is_over: whether the previous action ended a rollout, so that the observation is a new one's first.
    """

    observation: PyTree
    action: Array
    reward: Float[Array, "*steps"]
    is_over: Bool[Array, "*steps"]


class PolicyOutput(NamedTuple):
    """The output of a policy at a step.

    Attributes:
      distribution: distribution of the next action; numbers of any shape are one vector.
      value: estimate of the return from here on; zero where the policy makes none.
    """

    distribution: Distribution
    value: Float[Array, "*steps"]


class Policy(NamedTuple):
    """A policy with memory, as four pure functions; a policy that stores nothing has an empty memory.

    Attributes:
      init: `(key, inputs) -> params`, from a sequence of `PolicyInput`s; only shapes and dtypes matter.
      start: `(params, key) -> memory`, before any experience.
      step: `(params, memory, inputs, key) -> (memory, PolicyOutput)`.
      unroll: the same over a sequence, the steps on the first axis of all leaves of `inputs` and of the outputs.
    """

    init: Callable[[RandomKey, PolicyInput], PyTree]
    start: Callable[[PyTree, RandomKey], PyTree]
    step: Callable[[PyTree, PyTree, PolicyInput, RandomKey], tuple[PyTree, PolicyOutput]]
    unroll: Callable[[PyTree, PyTree, PolicyInput, RandomKey], tuple[PyTree, PolicyOutput]]


def first_input(observation: PyTree, action_space: Any) -> PolicyInput:
    """Return the input at the first step of an episode, before any action.

    Raises:
      ValueError: if no policy can act in the space.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments import Discrete
      >>> int(first_input(jnp.zeros(1), Discrete(5)).action)
      -1
    """
    space = flat_action_space(action_space, "an environment")
    action = jnp.array(-1, jnp.int32) if hasattr(space, "n") else jnp.zeros(space.shape, jnp.float32)
    return PolicyInput(observation, action, jnp.zeros((), jnp.float32), jnp.array(False))


def features(inputs: PolicyInput, observation_space: Any, action_space: Any) -> Float[Array, "*steps features"]:
    """Convert inputs to one vector per step: numbers unchanged, pixels in [0, 1], choices one-hot, no action as zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments import Box, Discrete
      >>> inputs = first_input(jnp.zeros(1), Discrete(5))
      >>> features(inputs, Box(0.0, 1.0, (1,)), Discrete(5)).shape
      (8,)
    """
    return with_feedback(as_vector(inputs.observation, observation_space), inputs, action_space)


def with_feedback(
    observed: Float[Array, "*steps observed"], inputs: PolicyInput, action_space: Any
) -> Float[Array, "*steps features"]:
    """Concatenate the observation, as a vector, with the previous action, its reward and whether it ended a rollout.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments import Discrete
      >>> with_feedback(jnp.ones(2), first_input(jnp.zeros(1), Discrete(3)), Discrete(3)).tolist()
      [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    parts = [
        observed,
        as_vector(inputs.action, flat_action_space(action_space, "an environment")),
        inputs.reward[..., None].astype(jnp.float32),
        inputs.is_over[..., None].astype(jnp.float32),
    ]
    return jnp.concatenate(parts, -1)
