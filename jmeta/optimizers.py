"""Inner optimizers that optax lacks: ones that are safe at zero gradients, and ones with learned rates."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from .types import PyTree


def safe_at_zero(
    optimizer: optax.GradientTransformation, *, smallest: float = 1e-15
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that its derivative is finite where a gradient is exactly zero.

    Optimizers that divide by a root or a norm (Adam, RMSProp, LAMB, clipping by the global norm) have an infinite
    inner derivative at zero, and 0 · ∞ makes the whole meta-gradient NaN: one black pixel is enough. The wrapped
    optimizer takes bitwise the same steps and has the same state. They are differentiated at a gradient whose entries
    smaller than `smallest` are replaced by `smallest`: for Adam, the limit at zero. LAMB and LARS scale a leaf's step
    to the norm of its parameters and have no limit where the whole gradient of a leaf is zero: the derivative there is
    finite, and very large.

    Args:
      optimizer: any optax transformation of gradients.
      smallest: positive; its square times (1 − Adam's `b2`) must not underflow, so float16 is not supported.

    Raises:
      ValueError: if `smallest` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jmeta.adaptation import descend
      >>> def loss_after_a_step(start, optimizer):
      ...     objective = lambda weight, pixel, step, key: ((weight * pixel) ** 2, {})
      ...     return descend(objective, optimizer, num_steps=1)(start, 0.0, jax.random.key(0))[0] ** 2
      >>> gradient = jax.grad(loss_after_a_step)  # with a pixel that is black
      >>> float(gradient(0.5, optax.adam(0.1))), float(gradient(0.5, safe_at_zero(optax.adam(0.1))))
      (nan, 1.0)
    """
    if not smallest > 0:
        raise ValueError(f"smallest={smallest}; expected a positive number")
    optimizer = optax.with_extra_args_support(optimizer)

    def away_from_zero(gradient: jax.Array) -> jax.Array:
        there = jnp.where(gradient < 0, -smallest, smallest).astype(gradient.dtype)
        return gradient + jax.lax.stop_gradient(jnp.where(jnp.abs(gradient) < smallest, there - gradient, 0))

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, Any]:
        exact = jax.lax.stop_gradient(optimizer.update(updates, state, params, **extra_args))
        nearby = optimizer.update(jax.tree.map(away_from_zero, updates), state, params, **extra_args)
        return jax.tree.map(_with_derivative_of, exact, nearby)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _with_derivative_of(value: Any, other: Any) -> Any:
    """Return `value` with the derivative of `other`; counters have no derivative."""
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return value
    return value + (other - jax.lax.stop_gradient(other))


def learned_rates(rates: PyTree) -> optax.GradientTransformation:
    """Build gradient descent with a learning rate for each leaf, or entry, of the parameters: ∆ = −rate ⊙ gradient.

    Pass `lambda context: learned_rates(context.rates)` to `adaptation.descend`; the rates then get a meta-gradient.

    Args:
      rates: a tree like the parameters; each leaf is a scalar or an array of the parameter's shape.

    Example:
      >>> optimizer = learned_rates({"w": 0.1})
      >>> updates, _ = optimizer.update({"w": 2.0}, optimizer.init({"w": 0.0}))
      >>> updates
      {'w': -0.2}
    """

    def scaled(grads: PyTree, params: PyTree) -> PyTree:
        del params
        return jax.tree.map(lambda rate, grad: -rate * grad, rates, grads)

    return optax.stateless(scaled)
