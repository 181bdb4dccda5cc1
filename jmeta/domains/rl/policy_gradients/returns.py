"""Sums over the rewards after a step: returns and advantages, in a few lines that need no other library."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["discounted_sums", "generalized_advantages"]


def discounted_sums(values: Float[Array, " steps"], discounts: Float[Array, " steps"]) -> Float[Array, " steps"]:
    """Compute Gₜ = xₜ + γₜ Gₜ₊₁; nothing follows the last step. For rewards these are returns.

    Example:
      >>> import jax.numpy as jnp
      >>> discounted_sums(jnp.ones(3), jnp.full(3, 0.5)).tolist()
      [1.75, 1.5, 1.0]
    """

    def add(following: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        value, discount = step
        total = value + discount * following
        return total, total

    _, sums = jax.lax.scan(add, jnp.zeros((), values.dtype), (values, discounts), reverse=True)
    return sums


def generalized_advantages(
    reward: Float[Array, " steps"],
    discounts: Float[Array, " steps"],
    values: Float[Array, " steps_and_one"],
    gae_lambda: float,
) -> Float[Array, " steps"]:
    """Compute Âₜ = δₜ + γₜ λ Âₜ₊₁ with δₜ = rₜ + γₜ V(sₜ₊₁) − V(sₜ).

    Args:
      reward: reward of each step.
      discounts: γ, 0 where an episode ends.
      values: values at each step, and one for the state after the last.
      gae_lambda: λ, in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> generalized_advantages(jnp.ones(2), jnp.ones(2), jnp.array([1.0, 1.0, 0.0]), 1.0).tolist()
      [1.0, 0.0]

    Reference:
      Schulman, Moritz, Levine, Jordan, Abbeel, 2015, arXiv:1506.02438, eq. 16.
    """
    return discounted_sums(reward + discounts * values[1:] - values[:-1], discounts * gae_lambda)
