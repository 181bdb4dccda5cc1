"""The types of an inner loop, and the scan over its steps that all adjoints share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..types import Aux, PyTree, RandomKey

__all__ = [
    "Objective",
    "MakeOptimizer",
    "InnerLoop",
    "Adjoint",
    "InnerGradient",
    "Scan",
    "inner_gradient",
    "stopped_gradient",
    "scanned_loop",
    "checked_optimizer",
    "rematerialized_scan",
]

Objective = Callable[[PyTree, PyTree, Any, RandomKey], tuple[Any, Aux]]
"""`(params, context, step, key) -> (loss, aux)`: the loss that an inner loop descends. Everything that a meta-gradient
may flow into, other than `params`, is in `context`; `step` counts from 0."""

MakeOptimizer = Callable[[PyTree], optax.GradientTransformation]
"""`context -> optimizer`, so that an inner learning rate may be a meta-parameter."""

InnerLoop = Callable[[PyTree, PyTree, RandomKey], tuple[PyTree, Aux]]
"""`(params, context, key) -> (params, aux)`, with the objective before every step as `aux["inner_losses"]` and the
optimizer's final state as `aux["optimizer_state"]`."""

Adjoint = Callable[[Objective, MakeOptimizer, int], InnerLoop]

InnerGradient = Callable[[PyTree, PyTree, Any, RandomKey], tuple[Any, PyTree]]
"""`(params, context, step, key) -> (loss, gradient)` of an objective with respect to `params`."""

Scan = Callable[[Callable[[Any, Any], tuple[Any, Any]], Any, Any], tuple[Any, Any]]
"""`(body, carry, xs) -> (carry, ys)`, like `jax.lax.scan`."""


def inner_gradient(objective: Objective) -> InnerGradient:
    """Build the function that returns the objective's loss and gradient, differentiated by JAX's own rules."""
    value_and_grad = jax.value_and_grad(objective, has_aux=True)

    def gradient(params: PyTree, context: PyTree, step: Any, key: RandomKey) -> tuple[Any, PyTree]:
        (loss, _), grads = value_and_grad(params, context, step, key)
        return loss, grads

    return gradient


def stopped_gradient(objective: Objective) -> InnerGradient:
    """Build `inner_gradient` of an objective whose loss and gradient are treated as constants."""
    gradient = inner_gradient(objective)
    return lambda params, context, step, key: gradient(*jax.lax.stop_gradient((params, context)), step, key)


def scanned_loop(
    phases: list[tuple[InnerGradient, int]], make_optimizer: MakeOptimizer, scan: Scan = jax.lax.scan
) -> InnerLoop:
    """Build an inner loop of one or more phases `(gradient, num_steps)`, each one scan over its steps.

    Steps, keys and the optimizer's state continue from phase to phase: phases differ only in their derivatives.
    """

    def inner_loop(params: PyTree, context: PyTree, key: RandomKey) -> tuple[PyTree, Aux]:
        optimizer = checked_optimizer(make_optimizer(context), "an inner optimizer")
        num_steps = sum(count for _, count in phases)
        steps_and_keys = (jnp.arange(num_steps), jax.random.split(key, num_steps))
        carry, losses, done = (params, optimizer.init(params)), [], 0
        for gradient, count in phases:
            xs = jax.tree.map(lambda leaf, start=done, stop=done + count: leaf[start:stop], steps_and_keys)
            carry, phase_losses = scan(_step(gradient, optimizer, context), carry, xs)
            losses.append(phase_losses)
            done += count
        params, optimizer_state = carry
        losses = losses[0] if len(losses) == 1 else jnp.concatenate(losses)
        return params, {"inner_losses": losses, "optimizer_state": optimizer_state}

    return inner_loop


def checked_optimizer(optimizer: Any, of: str) -> optax.GradientTransformationExtraArgs:
    """Give a transformation the errors of this library, for mistakes that would otherwise surface in optax or JAX.

    Args:
      optimizer: what a user passed.
      of: what the message calls it.

    Raises:
      ValueError: if it is no optax transformation; from its functions, if parameters are not floating point, or if it
        needs more than a gradient, parameters and their loss (`value`).

    Example:
      >>> checked_optimizer(optax.sgd, "meta_optimizer")
      Traceback (most recent call last):
      ...
      ValueError: meta_optimizer must be an optax transformation, but it is a function; call it, as in optax.sgd(0.1)
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        is_function = callable(optimizer) and not isinstance(optimizer, type)
        found = "a function; call it, as in optax.sgd(0.1)" if is_function else f"{type(optimizer).__name__}"
        raise ValueError(f"{of} must be an optax transformation, but it is {found}")
    extended = optax.with_extra_args_support(optimizer)

    def explained(fn: Callable, *args: Any, **extra_args: Any) -> Any:
        try:
            return fn(*args, **extra_args)
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"{of} does not work on these parameters ({error}); it is given their gradient, the parameters as they "
                "are and the loss as `value`, so line searches (optax.lbfgs) and pairs of parameters (optax.lookahead) "
                "are not supported"
            ) from error

    def init(params: PyTree) -> PyTree:
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise ValueError(
                    f"{of} cannot move the parameter {name!r} of dtype {jnp.result_type(leaf)} by a gradient; store it "
                    "as floating point, or outside the parameters"
                )
        return explained(extended.init, params)

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, Any]:
        return explained(extended.update, updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init, update)


def _step(gradient: InnerGradient, optimizer: optax.GradientTransformationExtraArgs, context: PyTree) -> Callable:
    def step(carry: tuple[PyTree, PyTree], step_and_key: tuple[Any, RandomKey]) -> tuple[tuple[PyTree, PyTree], Any]:
        params, optimizer_state = carry
        loss, grads = gradient(params, context, *step_and_key)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params, value=loss)
        return (optax.apply_updates(params, updates), optimizer_state), loss

    return step


def rematerialized_scan(block_size: int, policy: Any = None, *, within_blocks: bool = True) -> Scan:
    """Build a scan that stores the carry of every `block_size`-th step and recomputes the rest on the backward pass.

    While a block is differentiated, the carries of its own steps are stored, too: T / b + b carries for T steps in
    blocks of b, fewest at b = √T. The last block may be shorter.

    Args:
      block_size: steps in a block.
      policy: which intermediates of a step are stored after all, as in `jax.checkpoint`.
      within_blocks: whether the steps of a block are themselves recomputed; not needed where they store little.
    """

    def scan(body: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
        step = jax.checkpoint(body, prevent_cse=False, policy=policy) if within_blocks else body
        num_steps = jax.tree.leaves(xs)[0].shape[0]
        if block_size == 1 or num_steps <= block_size:
            return jax.lax.scan(step, carry, xs)
        num_whole = num_steps // block_size * block_size
        blocks = jax.tree.map(lambda leaf: leaf[:num_whole].reshape(-1, block_size, *leaf.shape[1:]), xs)
        block = jax.checkpoint(lambda carry, xs: jax.lax.scan(step, carry, xs), prevent_cse=False)
        carry, ys = jax.lax.scan(block, carry, blocks)
        ys = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ys)
        if num_whole == num_steps:
            return carry, ys
        carry, rest = block(carry, jax.tree.map(lambda leaf: leaf[num_whole:], xs))
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, rest)

    return scan
