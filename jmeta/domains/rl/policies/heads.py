"""From outputs of a network to a distribution of actions without illegal ones; and encoded observations.

Both kinds of policies, with memory and without, begin and end in the same way.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.types import Model, PyTree, RandomKey

from ..environments.spaces import as_numbers, flat_action_space
from .distributions import Categorical, Distribution, Normal

__all__ = ["ActionMask", "Head", "action_head", "encoded"]

ActionMask = Callable[[PyTree], Array]
"""`observation -> [actions]` of one step, bool: the legal actions."""


class Head(NamedTuple):
    """The end of a policy.

    Attributes:
      num_outputs: number of network outputs: one logit for each action, or one mean for each number.
      is_discrete: whether actions are choices.
      distribution: `(outputs, log_std, observation) -> Distribution`, of one step or of a sequence; choices have no
        `log_std`.
    """

    num_outputs: int
    is_discrete: bool
    distribution: Callable[[Array, Any, PyTree], Distribution]


def action_head(environment: Any, action_mask: ActionMask | None) -> Head:
    """Build the head of a policy in an environment.

    Args:
      environment: an environment whose actions are a `Discrete` or a `Box` of floating-point numbers.
      action_mask: which actions are legal, read from the observation of one step; `None` if all always are. Illegal
        actions have probability 0 and no gradient. Where none is legal, all are.

    Raises:
      ValueError: if no policy can act in the space, or numbers are to be masked; at trace time if a mask has not one
        bool for each action.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments import bernoulli_bandit
      >>> head = action_head(bernoulli_bandit(3)[0], lambda observation: jnp.array([True, False, True]))
      >>> head.distribution(jnp.zeros(3), None, jnp.zeros(1)).logits.tolist()
      [0.0, -inf, 0.0]
    """
    space = flat_action_space(environment.action_space(environment.default_params), environment.name)
    if hasattr(space, "n"):
        count = int(space.n)

        def choice(outputs: Float[Array, "*steps actions"], log_std: Any, observation: PyTree) -> Distribution:
            del log_std
            return Categorical(outputs if action_mask is None else _masked(outputs, action_mask, observation))

        return Head(count, True, choice)
    if action_mask is not None:
        raise ValueError(f"an action_mask says which choices are legal, but {environment.name} has actions in {space}")
    (count,) = space.shape

    def numbers(
        outputs: Float[Array, "*steps numbers"], log_std: Float[Array, " numbers"], observation: PyTree
    ) -> Distribution:
        del observation
        return Normal(outputs, jnp.broadcast_to(log_std, outputs.shape))

    return Head(count, False, numbers)


def encoded(
    encoder: Model, params: PyTree, observation: PyTree, space: Any, key: RandomKey | None
) -> Float[Array, "steps features"]:
    """Encode the observations of a sequence, each step separately, so that acting and learning see the same.

    Args:
      encoder: maps `[examples, ...]`, in the space's shape; a dictionary or tuple of spaces gives a dictionary or
        tuple.
      params: parameters of the encoder.
      observation: `[steps, ...]`, scaled as `environments.as_numbers` does.
      space: space of observations.
      key: key of dropout, or `None`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> from jmeta.domains.rl.environments import Box
      >>> model, pixels = models.mlp([4]), Box(0, 255, (2, 2, 1), jnp.uint8)
      >>> seen = jnp.zeros((3, 2, 2, 1), jnp.uint8)
      >>> encoded(model, model.init(jax.random.key(0), jnp.zeros((1, 4))), seen, pixels, None).shape
      (3, 4)
    """

    def one(numbers: PyTree) -> Float[Array, " features"]:
        batch = jax.tree.map(lambda leaf: leaf[None], numbers)
        return encoder.apply(params, batch, key).astype(jnp.float32).reshape(-1)

    return jax.vmap(one)(as_numbers(observation, space))


def _masked(
    logits: Float[Array, "*steps actions"], action_mask: ActionMask, observation: PyTree
) -> Float[Array, "*steps actions"]:
    is_legal = jnp.asarray(action_mask(observation) if logits.ndim == 1 else jax.vmap(action_mask)(observation))
    if is_legal.shape != logits.shape or is_legal.dtype != bool:
        raise ValueError(
            f"action_mask returns {is_legal.dtype} of shape {is_legal.shape[logits.ndim - 1 :]} for one step; expected "
            f"{logits.shape[-1]} bools, True for each action that is legal"
        )
    is_legal = is_legal | ~is_legal.any(-1, keepdims=True)  # without a legal action all are: nothing becomes NaN
    return jnp.where(is_legal, logits, -jnp.inf)
