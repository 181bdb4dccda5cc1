"""Distributions of actions, which policies return, with the methods that policy gradients need.

They are written for one step; a sequence of steps has them stacked, and its log-probabilities come by `vmap` or, since
all methods work on the last axis, directly.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmeta.types import RandomKey

__all__ = ["Categorical", "Normal", "Distribution"]


class Categorical(NamedTuple):
    """A distribution over several actions.

    Attributes:
      logits: unnormalised log-probabilities, the actions on the last axis.

    Example:
      >>> import jax.numpy as jnp
      >>> distribution = Categorical(jnp.log(jnp.array([0.25, 0.75])))
      >>> round(float(jnp.exp(distribution.log_prob(jnp.array(1)))), 4)
      0.75
    """

    logits: Float[Array, "*batch actions"]

    def sample(self, key: RandomKey) -> Int[Array, "*batch"]:
        """Draw actions by their probabilities."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> Int[Array, "*batch"]:
        """Return the most probable actions."""
        return self.logits.argmax(-1).astype(jnp.int32)

    def log_prob(self, action: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Return the log-probabilities of actions, in nats."""
        log_probs = jax.nn.log_softmax(self.logits)
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=log_probs.dtype)
        return (jnp.where(chosen > 0, log_probs, 0)).sum(-1)  # `where`: impossible actions have -inf

    def entropy(self) -> Float[Array, "*batch"]:
        """Entropy, in nats."""
        log_probs = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_probs) * jnp.where(jnp.isneginf(log_probs), 0, log_probs)).sum(-1)

    def kl(self, other: "Categorical") -> Float[Array, "*batch"]:
        """KL(self ‖ other), in nats."""
        log_probs, others = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return (jnp.exp(log_probs) * jnp.where(jnp.isneginf(log_probs), 0, log_probs - others)).sum(-1)


class Normal(NamedTuple):
    """A distribution of an action of several independent normal numbers.

    Attributes:
      mean: the numbers on the last axis.
      log_std: log standard deviations, of the same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> distribution = Normal(jnp.zeros(2), jnp.zeros(2))
      >>> round(float(distribution.log_prob(jnp.zeros(2))), 4)
      -1.8379
    """

    mean: Float[Array, "*batch numbers"]
    log_std: Float[Array, "*batch numbers"]

    def sample(self, key: RandomKey) -> Float[Array, "*batch numbers"]:
        """Draw actions."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def mode(self) -> Float[Array, "*batch numbers"]:
        """Return the means."""
        return self.mean

    def log_prob(self, action: Float[Array, "*batch numbers"]) -> Float[Array, "*batch"]:
        """Return the log-density of actions."""
        standard = (action - self.mean) * jnp.exp(-self.log_std)
        return -(0.5 * standard**2 + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Float[Array, "*batch"]:
        """Entropy, in nats."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, other: "Normal") -> Float[Array, "*batch"]:
        """KL(self ‖ other), in nats."""
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        return (0.5 * (ratio + distance - 1) + other.log_std - self.log_std).sum(-1)


Distribution = Categorical | Normal
