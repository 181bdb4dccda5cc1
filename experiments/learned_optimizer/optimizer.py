"""An optimizer that is a small network, applied to every parameter alike, so it serves networks of any size.

It starts as Adam: the network's outputs are zero at first, and then correct Adam's direction and its rate. Its inputs
are dimensionless, so neither the size of the gradients nor that of a layer matters.

Reference: Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, "Understanding and correcting pathologies in the
training of learned optimizers", 2019, arXiv:1810.10180, section 4; Metz, Freeman, Harrison, Maheswaranathan,
Sohl-Dickstein, "Practical tradeoffs between memory, compute, and performance in learned optimizers", 2022,
arXiv:2203.11860, section 3 (the features). Differs from both: it starts as Adam.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta.types import PyTree, RandomKey

DECAYS = (0.5, 0.9, 0.99)
"""Decays of the momenta that the network sees; the middle one is Adam's."""
SECOND_DECAY, EPSILON = 0.999, 1e-8
TIMES = (1.0, 10.0, 100.0, 1000.0)
"""Scales of the features that tell the time, in steps."""


class OptimizerState(NamedTuple):
    """The state of the inner optimization.

    Attributes:
      momenta: means of the gradients, with `DECAYS`; each leaf `[decays, *parameter]`.
      squares: mean of the squared gradients.
      count: steps so far, int32.
    """

    momenta: PyTree
    squares: PyTree
    count: jax.Array


def init_weights(key: RandomKey, *, width: int = 16, rate: float = 1e-3) -> PyTree:
    """Return weights with which the optimizer is Adam with this rate.

    Example:
      >>> sorted(init_weights(jax.random.key(0)))
      ['hidden', 'log_rate', 'out']
    """
    num_features = 2 * len(DECAYS) + 4 + len(TIMES)
    return {
        "hidden": jax.random.normal(key, (num_features, width)) / jnp.sqrt(num_features),
        "out": jnp.zeros((width, 2)),
        "log_rate": jnp.full((), jnp.log(rate)),
    }


def learned_optimizer(weights: PyTree) -> optax.GradientTransformation:
    """Build the optimizer with these weights; its update needs the parameters.

    Example:
      >>> optimizer = learned_optimizer(init_weights(jax.random.key(0), rate=0.1))
      >>> params = {"w": jnp.ones(3)}
      >>> updates, _ = optimizer.update({"w": jnp.full(3, 5.0)}, optimizer.init(params), params)
      >>> updates["w"].round(3).tolist()
      [-0.1, -0.1, -0.1]
    """

    def init(params: PyTree) -> OptimizerState:
        momenta = jax.tree.map(lambda leaf: jnp.zeros((len(DECAYS), *leaf.shape), leaf.dtype), params)
        return OptimizerState(momenta, jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, OptimizerState]:
        grads, count = updates, state.count + 1
        momenta = jax.tree.map(_with_gradient, state.momenta, grads)
        squares = jax.tree.map(lambda v, g: SECOND_DECAY * v + (1 - SECOND_DECAY) * g**2, state.squares, grads)
        of_leaf = lambda *leaves: _update_of(weights, count, *leaves)  # noqa: E731
        return jax.tree.map(of_leaf, grads, momenta, squares, params), OptimizerState(momenta, squares, count)

    return optax.GradientTransformation(init, update)


def _with_gradient(momenta: jax.Array, grad: jax.Array) -> jax.Array:
    decays = jnp.asarray(DECAYS, grad.dtype).reshape(-1, *[1] * grad.ndim)
    return decays * momenta + (1 - decays) * grad[None]


def _update_of(
    weights: PyTree, count: jax.Array, grad: jax.Array, momenta: jax.Array, squares: jax.Array, param: jax.Array
) -> jax.Array:
    steps = count.astype(grad.dtype)
    root = jnp.sqrt(squares / (1 - SECOND_DECAY**steps)) + EPSILON
    corrections = (1 - jnp.asarray(DECAYS, grad.dtype) ** steps).reshape(-1, *[1] * grad.ndim)
    directions = momenta / corrections / root[None]
    size = jnp.sqrt(jnp.square(param).mean() + EPSILON)
    features = [
        *directions,
        *(_standard(momentum) for momentum in momenta),
        grad / root,
        param / size,
        jnp.log(root) - jnp.log(root).mean(),
        jnp.ones_like(grad),
        *(jnp.broadcast_to(jnp.tanh(steps / time - 1), grad.shape) for time in TIMES),
    ]
    hidden = jnp.tanh(jnp.stack(features, -1) @ weights["hidden"])
    direction, log_factor = jnp.moveaxis(hidden @ weights["out"], -1, 0)
    adam = directions[DECAYS.index(0.9)]
    return -jnp.exp(weights["log_rate"] + log_factor) * (adam + direction)


def _standard(values: jax.Array) -> jax.Array:
    return values * jax.lax.rsqrt(jnp.square(values).mean() + EPSILON**2)
