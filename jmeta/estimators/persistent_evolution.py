"""Persistent evolution strategies: meta-gradients of long inner loops from short unrolls, without truncation bias.

Evolution strategies on an unroll of K steps out of T see the effect of the meta-parameters on those K steps only.
Persistent ones keep particles that each run their own inner loop with their own perturbations, and attribute the loss
of an unroll to the *sum* of all perturbations that the particle has received since its inner loop began. So a meta-step
costs K inner steps instead of T, and the gradient is that of the whole loop.

Reference: Vicol, Metz, Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
Evolution Strategies", 2021, arXiv:2112.13835, algorithm 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from ..bounds import is_whole
from ..types import Aux, PyTree, RandomKey
from .evolution import check_pairs

__all__ = ["Unroll", "ParticlesState", "PersistentEstimator", "persistent_evolution_strategies"]

Unroll = Callable[[PyTree, PyTree, PyTree, RandomKey], tuple[PyTree, Array, Aux]]
"""`(meta_params, inner_state, task, key) -> (inner_state, loss, aux)`: a few steps of an inner loop."""


class ParticlesState(NamedTuple):
    """The particles' state between two meta-steps.

    Attributes:
      inner: states of the inner loops, `[2, pairs, ...]`; the perturbations of the second half have the opposite sign.
      felt: `[pairs, ...]`, like the meta-parameters: the sum of each pair's perturbations since its loop began.
      num_unrolls: int32, number of unrolls that the current inner loops have done.
    """

    inner: PyTree
    felt: PyTree
    num_unrolls: Int[Array, ""]


class PersistentEstimator(NamedTuple):
    """A stateful estimator, as a pair of pure functions.

    Attributes:
      init: `(meta_params, task, key) -> state`.
      update: `(state, meta_params, task, key) -> (state, ((loss, aux), grads))`.
      num_unrolls: unrolls in a whole inner loop, after which the state is one that `init` makes.
    """

    init: Callable[[PyTree, PyTree, RandomKey], ParticlesState]
    update: Callable[[ParticlesState, PyTree, PyTree, RandomKey], tuple[ParticlesState, tuple]]
    num_unrolls: int


def persistent_evolution_strategies(
    unroll: Unroll,
    init_inner: Callable[[PyTree, PyTree, RandomKey], PyTree],
    *,
    num_unrolls: int,
    num_pairs: int,
    sigma: float,
) -> PersistentEstimator:
    """Estimate the meta-gradient of a long inner loop by evolution strategies over its unrolls.

    Args:
      unroll: `(meta_params, inner_state, task, key) -> (inner_state, loss, aux)`. The loss of the whole loop is the sum
        of the losses of its unrolls. Both members of a pair get the same key.
      init_inner: `(meta_params, task, key) -> inner_state`, the start of every inner loop. No gradient flows through
        it: a meta-parameter gets a gradient only if `unroll` reads it.
      num_unrolls: unrolls in a whole inner loop, after which all particles start again.
      num_pairs: number of antithetic pairs of particles.
      sigma: standard deviation of the perturbations of one unroll.

    Returns:
      A pair of functions; `update` makes one unroll of every particle. Its gradients, summed over the unrolls of one
      loop at fixed meta-parameters, estimate the gradient of the loop's loss. `training.persistent_trainer` meta-trains
      with it.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax
      >>> unroll = lambda rate, x, task, key: (x - rate * x, x**2, {})  # gradient descent on x²/2, one step an unroll
      >>> estimator = persistent_evolution_strategies(
      ...     unroll, lambda rate, task, key: 1.0, num_unrolls=2, num_pairs=8, sigma=0.1)
      >>> state = estimator.init(0.5, None, jax.random.key(0))
      >>> state, ((loss, aux), gradient) = estimator.update(state, 0.5, None, jax.random.key(1))
      >>> float(loss), int(state.num_unrolls)
      (1.0, 1)

    Reference:
      Vicol, Metz, Sohl-Dickstein, 2021, arXiv:2112.13835, algorithm 2.
    """
    check_pairs(num_pairs, sigma)
    if not is_whole(num_unrolls):
        raise ValueError(f"num_unrolls={num_unrolls}; an inner loop has at least one unroll")

    def init(meta_params: PyTree, task: PyTree, key: RandomKey) -> ParticlesState:
        start = jax.vmap(init_inner, in_axes=(None, None, 0))(meta_params, task, jax.random.split(key, num_pairs))
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start)
        felt = jax.tree.map(lambda leaf: jnp.zeros((num_pairs, *jnp.shape(leaf)), jnp.result_type(leaf)), meta_params)
        return ParticlesState(both, felt, jnp.zeros((), jnp.int32))

    def update(
        state: ParticlesState, meta_params: PyTree, task: PyTree, key: RandomKey
    ) -> tuple[ParticlesState, tuple[tuple[Array, Aux], PyTree]]:
        meta_params = jax.tree.map(jnp.asarray, meta_params)
        key_noise, key_unroll, key_init = jax.random.split(key, 3)
        noise = jax.vmap(lambda key: optax.tree.random_like(key, meta_params))(jax.random.split(key_noise, num_pairs))
        keys = jax.random.split(key_unroll, num_pairs)

        def of_particle(sign: Array, noise: PyTree, inner: PyTree, key: RandomKey) -> tuple[PyTree, Array, Aux]:
            move = lambda leaf, epsilon: leaf + (sign * sigma).astype(leaf.dtype) * epsilon  # noqa: E731
            return unroll(jax.tree.map(move, meta_params, noise), inner, task, key)

        of_sign = jax.vmap(of_particle, in_axes=(None, 0, 0, 0))
        signs = jnp.array([1.0, -1.0])
        inner, losses, aux = jax.vmap(of_sign, in_axes=(0, None, 0, None))(signs, noise, state.inner, keys)
        felt = jax.tree.map(jnp.add, state.felt, noise)
        weights = (losses[0] - losses[1]) / (2 * sigma * num_pairs)
        grads = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1).astype(leaf.dtype), felt)
        state = ParticlesState(inner, felt, state.num_unrolls + 1)
        is_over = state.num_unrolls >= num_unrolls
        state = jax.tree.map(lambda new, old: jnp.where(is_over, new, old), init(meta_params, task, key_init), state)
        return state, ((losses.mean(), jax.tree.map(lambda leaf: leaf.mean((0, 1)), aux)), grads)

    return PersistentEstimator(init, update, num_unrolls)
