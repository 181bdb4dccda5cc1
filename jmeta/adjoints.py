"""How an inner loop is differentiated: the `adjoint` argument of `jmeta.adaptation.descend`.

An inner loop is T steps of an optimizer on an objective. What it computes is fixed by those; *how a meta-gradient flows
back through it* is a separate choice, an adjoint. All adjoints give the same adapted parameters.

An adjoint is a function `(objective, make_optimizer, num_steps) -> inner_loop`, so anyone can write another.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .types import Aux, PyTree, RandomKey

Objective = Callable[[PyTree, PyTree, Any, RandomKey], tuple[Any, Aux]]
"""`(params, context, step, key) -> (loss, aux)`: what an inner loop descends. Everything that a meta-gradient may flow
into, beside `params`, is in `context`; `step` counts from 0."""

MakeOptimizer = Callable[[PyTree], optax.GradientTransformation]
"""`context -> optimizer`, so that an inner learning rate may itself be a meta-parameter."""

InnerLoop = Callable[[PyTree, PyTree, RandomKey], tuple[PyTree, Aux]]
"""`(params, context, key) -> (params, aux)`, with the objective at every step as `aux["inner_losses"]`, and the
`aux["optimizer_state"]` in which the loop ended."""

Adjoint = Callable[[Objective, MakeOptimizer, int], InnerLoop]


def unrolled() -> Adjoint:
    """Differentiate through every step: the exact meta-gradient, at the cost of storing every step.

    Example:
      >>> import jax, optax
      >>> from jmeta.adaptation import descend
      >>> objective = lambda params, context, step, key: ((params - context) ** 2, {})
      >>> loop = descend(objective, optax.sgd(0.25), num_steps=2, adjoint=unrolled())
      >>> float(jax.grad(lambda start: loop(start, 1.0, jax.random.key(0))[0])(0.0))
      0.25

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
      arXiv:1703.03400, eq. 1.
    """
    return _scanned_loop


def first_order() -> Adjoint:
    """Treat every inner gradient as a constant: no second derivatives.

    Only the *gradient* is stopped. The meta-gradient still flows through the optimizer, so learned inner learning rates
    keep theirs (the shortcut "gradient at the adapted parameters" would set it to zero).

    Example:
      >>> import jax, optax
      >>> from jmeta.adaptation import descend
      >>> objective = lambda params, context, step, key: ((params - context) ** 2, {})
      >>> loop = descend(objective, optax.sgd(0.25), num_steps=2, adjoint=first_order())
      >>> float(jax.grad(lambda start: loop(start, 1.0, jax.random.key(0))[0])(0.0))
      1.0

    Reference:
      Finn, Abbeel, Levine, 2017, arXiv:1703.03400, section 5.2.
    """

    return partial(_scanned_loop, stop_inner_gradient=True)


def _scanned_loop(
    objective: Objective, make_optimizer: MakeOptimizer, num_steps: int, stop_inner_gradient: bool = False
) -> InnerLoop:
    value_and_grad = jax.value_and_grad(objective, has_aux=True)

    def inner_loop(params: PyTree, context: PyTree, key: RandomKey) -> tuple[PyTree, Aux]:
        optimizer = make_optimizer(context)

        def inner_step(carry: tuple[PyTree, PyTree], step_and_key: tuple[Any, RandomKey]):
            params, optimizer_state = carry
            at = jax.lax.stop_gradient((params, context)) if stop_inner_gradient else (params, context)
            (loss, _), grads = value_and_grad(*at, *step_and_key)
            updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), loss

        steps_and_keys = (jnp.arange(num_steps), jax.random.split(key, num_steps))
        (params, state), losses = jax.lax.scan(inner_step, (params, optimizer.init(params)), steps_and_keys)
        return params, {"inner_losses": losses, "optimizer_state": state}

    return inner_loop
