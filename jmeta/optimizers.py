"""Inner optimizers that optax lacks: safe at zero gradients, with learned rates, with a learned curvature."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Literal

from .bounds import is_real
from .types import PyTree

__all__ = ["safe_at_zero", "learned_rates", "learned_curvature", "identity_curvature"]


def safe_at_zero(
    optimizer: optax.GradientTransformation, *, smallest: float = 1e-15
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that its derivative is finite where a gradient is exactly zero.

    Optimizers that divide by a root or a norm (Adam, RMSProp, LAMB, clipping by the global norm) have an infinite
    inner derivative at zero, and 0 · ∞ makes the whole meta-gradient NaN: one black pixel is enough. The wrapped
    optimizer takes bitwise the same steps and has the same state. They are differentiated at a gradient whose entries
    smaller than `smallest` are replaced by `smallest`: for Adam, the limit at zero. A root of a negative number that
    the optimizer computes but does not select, as RAdam does in its first steps, does not enter the derivative. LAMB
    and LARS scale a leaf's step to the norm of its parameters and have no limit where the whole gradient of a leaf is
    zero: the derivative there is finite, and very large.

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
    if not is_real(smallest, above=0):
        raise ValueError(f"smallest={smallest}; expected a positive number")
    optimizer = optax.with_extra_args_support(optimizer)

    def away_from_zero(gradient: jax.Array) -> jax.Array:
        there = jnp.where(gradient < 0, -smallest, smallest).astype(gradient.dtype)
        return gradient + jax.lax.stop_gradient(jnp.where(jnp.abs(gradient) < smallest, there - gradient, 0))

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, Any]:
        exact = jax.lax.stop_gradient(optimizer.update(updates, state, params, **extra_args))
        nearby = _with_defined_roots(optimizer.update)(
            jax.tree.map(away_from_zero, updates), state, params, **extra_args
        )
        return jax.tree.map(_with_derivative_of, exact, nearby)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _with_defined_roots(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Replace the square roots of negative numbers in a function by those of 1.

    Both branches of a `jnp.where` are differentiated, and the NaN of the one that is not chosen spoils the derivative
    of the other: 0 · NaN. No result that is a number changes.
    """

    def evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        for eqn in jaxpr.eqns:
            inputs = [var.val if isinstance(var, Literal) else values[var] for var in eqn.invars]
            if eqn.primitive.name in ("jit", "pjit"):
                outputs = evaluate(eqn.params["jaxpr"].jaxpr, eqn.params["jaxpr"].consts, inputs)
            else:
                if eqn.primitive.name in ("sqrt", "rsqrt"):
                    inputs = [jnp.where(inputs[0] < 0, jnp.ones_like(inputs[0]), inputs[0])]
                bound = eqn.primitive.get_bind_params(eqn.params)
                fns, params = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.10
                outputs = eqn.primitive.bind(*fns, *inputs, **params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [var.val if isinstance(var, Literal) else values[var] for var in jaxpr.outvars]

    def run(*args: Any, **kwargs: Any) -> PyTree:
        closed, shapes = jax.make_jaxpr(lambda args, kwargs: fn(*args, **kwargs), return_shape=True)(args, kwargs)
        leaves = evaluate(closed.jaxpr, closed.consts, jax.tree.leaves((args, kwargs)))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return run


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


def learned_curvature(curvature: PyTree) -> optax.GradientTransformation:
    """Build the transformation of gradients by one matrix for each mode of a parameter: outputs, inputs and filter.

    A gradient G of a kernel `[*filter, inputs, outputs]`, the layout of Flax and Haiku, becomes G ×ₒ Mₒ ×ᵢ Mᵢ ×ᶠ Mᶠ:
    the same as one matrix Mᶠ ⊗ Mᵢ ⊗ Mₒ on the flattened gradient, with far fewer numbers. Its filter axes are one mode.
    A gradient of one axis, or of none, is multiplied entry by entry.

    Chain an optimizer after it, `lambda context: optax.chain(learned_curvature(context.curvature), optax.sgd(0.1))`,
    and pass that to `adaptation.descend`; the matrices then get a meta-gradient.

    Args:
      curvature: a tree as `identity_curvature` builds it.

    Example:
      >>> import jax.numpy as jnp
      >>> curvature = identity_curvature({"kernel": jnp.zeros((1, 2))})
      >>> curvature["kernel"]["outputs"] = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> updates, _ = learned_curvature(curvature).update({"kernel": jnp.array([[3.0, 4.0]])}, ())
      >>> updates["kernel"].tolist()
      [[4.0, 3.0]]

    Reference:
      Park, Oliva, "Meta-Curvature", 2019, arXiv:1902.03356, section 3.
    """

    def transformed(grads: PyTree, params: PyTree) -> PyTree:
        del params
        return jax.tree.map(_times_modes, grads, curvature)

    return optax.stateless(transformed)


def identity_curvature(params: PyTree) -> PyTree:
    """Build a curvature that changes no gradient, for `learned_curvature`.

    Returns:
      A tree like `params`, with a dictionary in place of every leaf: `{"outputs": ..., "inputs": ..., "filter": ...}`
      of identity matrices for a kernel, without `"filter"` if it has two axes; `{"entries": ...}` of ones for a leaf of
      fewer axes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> curvature = identity_curvature({"kernel": jnp.zeros((3, 3, 8, 16)), "bias": jnp.zeros(16)})
      >>> jax.tree.map(jnp.shape, curvature["kernel"])
      {'filter': (9, 9), 'inputs': (8, 8), 'outputs': (16, 16)}
    """
    return jax.tree.map(_identity_modes, params)


def _identity_modes(leaf: jax.Array) -> dict[str, jax.Array]:
    if leaf.ndim < 2:
        return {"entries": jnp.ones_like(leaf)}
    *filter_axes, inputs, outputs = leaf.shape
    sizes = {"outputs": outputs, "inputs": inputs} | ({"filter": math.prod(filter_axes)} if filter_axes else {})
    return {mode: jnp.eye(size, dtype=leaf.dtype) for mode, size in sizes.items()}


def _times_modes(grad: jax.Array, modes: dict[str, jax.Array]) -> jax.Array:
    if "entries" in modes:
        return modes["entries"] * grad
    products = functools.partial(jnp.einsum, precision="highest")
    curved = products("...io,ji,ko->...jk", grad, modes["inputs"], modes["outputs"])
    if "filter" not in modes:
        return curved
    flat = curved.reshape(-1, *grad.shape[-2:])
    return products("fio,gf->gio", flat, modes["filter"]).reshape(grad.shape)
