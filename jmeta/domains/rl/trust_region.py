"""Trust-region policy optimisation: a meta-optimizer for policies that must not change too much at once.

A meta-step goes along the natural gradient, F⁻¹ g, as far as a bound on the mean KL divergence allows, and less far if
the surrogate does not improve. It needs more than a gradient, so it is a `MetaTrainer` and not an optax transformation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jmeta.adjoints import conjugate_gradient
from jmeta.losses import checked_loss
from jmeta.training import MetaState, all_finite, count_step, start_counting
from jmeta.types import Aux, EpisodeFn, MetaTrainer, PyTree, RandomKey

__all__ = ["Decide", "Divergence", "trust_region_trainer"]

Decide = Callable[[PyTree, PyTree, RandomKey], PyTree]
"""`(meta_params, tasks, key) -> decisions`: the bounded quantity, such as the adapted policies' distributions."""

Divergence = Callable[[PyTree, PyTree, PyTree], Float[Array, ""]]
"""`(old_decisions, decisions, tasks) -> mean KL divergence`; not negative, and zero at equal ones."""


def trust_region_trainer(
    mean_episode_fn: EpisodeFn,
    decide: Decide,
    divergence: Divergence,
    *,
    max_divergence: float = 0.01,
    num_cg_steps: int = 10,
    damping: float = 1e-5,
    num_backtracks: int = 15,
    shrink: float = 0.8,
) -> MetaTrainer:
    """Build the meta-steps of TRPO.

    Args:
      mean_episode_fn: `(meta_params, tasks, key) -> (loss, aux)` over stacked tasks, such as
        `over_tasks(jmeta.episode(rl.learners.maml_rl(...), loss_fn))` on collected tasks.
      decide: the bounded quantity; differentiated once, and its derivative used in each product with F.
      divergence: bounded by δ; with H its second derivatives at equal decisions and J those of `decide`, the metric is
        F = Jᵀ H J.
      max_divergence: δ, positive.
      num_cg_steps: steps of conjugate gradients for F⁻¹ g, each a product with F.
      damping: added to the diagonal of F, at least 0.
      num_backtracks: step sizes tried, each `shrink` times the one before; if none lowers the loss within the bound,
        the parameters stay.
      shrink: factor between step sizes, in (0, 1).

    Returns:
      A trainer with a `MetaState` like `meta_trainer`'s, without an optimizer's state. Its `aux` has `divergence`,
      after the step, and `step_share`, the fraction of the longest step that was taken, 0 if none.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss = lambda theta, tasks, key: (((theta - tasks.mean()) ** 2).sum(), {})
      >>> decide = lambda theta, tasks, key: theta
      >>> divergence = lambda old, theta, tasks: 0.5 * ((theta - old) ** 2).sum()
      >>> trainer = trust_region_trainer(loss, decide, divergence, max_divergence=0.02)
      >>> state, aux = trainer.update(trainer.init(jnp.zeros(1)), jnp.ones(4), jax.random.key(0))
      >>> round(float(state.meta_params[0]), 3)  # √(2 · 0.02)
      0.2

    Reference:
      Schulman, Levine, Moritz, Jordan, Abbeel, "Trust Region Policy Optimization", 2015, arXiv:1502.05477, appendix C.
    """
    if not max_divergence > 0 or damping < 0 or not 0 < shrink < 1:
        raise ValueError(
            f"max_divergence={max_divergence}, damping={damping} and shrink={shrink}; expected a positive number, one "
            "of at least 0 and one in (0, 1)"
        )
    if num_backtracks < 1:
        raise ValueError(f"num_backtracks={num_backtracks}; expected at least 1")
    solve = conjugate_gradient(num_steps=num_cg_steps, damping=damping)

    def init(meta_params: PyTree) -> MetaState:
        return start_counting(meta_params, ())

    def update(state: MetaState, tasks: PyTree, key: RandomKey) -> tuple[MetaState, Aux]:
        old = state.meta_params

        def loss_fn(meta_params: PyTree) -> tuple[Any, Aux]:
            return checked_loss(mean_episode_fn(meta_params, tasks, key), "what mean_episode_fn returns")

        decisions, forward = jax.linearize(lambda meta_params: decide(meta_params, tasks, key), old)
        backward = jax.linear_transpose(forward, old)

        def from_old(meta_params: PyTree) -> Array:
            return divergence(decisions, decide(meta_params, tasks, key), tasks)

        def product(v: PyTree) -> PyTree:
            of_decisions = jax.grad(lambda new: divergence(decisions, new, tasks))
            return backward(jax.jvp(of_decisions, (decisions,), (forward(v),))[1])[0]

        (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(old)
        direction = solve(product, jax.tree.map(jnp.negative, grads))
        length = jnp.sqrt(2 * max_divergence / jnp.maximum(optax.tree.vdot(direction, product(direction)), 1e-12))

        def moved(share: Array) -> PyTree:
            return jax.tree.map(lambda leaf, d: leaf + (share * length).astype(leaf.dtype) * d, old, direction)

        def is_good(share: Array) -> Array:
            there = moved(share)
            within = from_old(there) <= max_divergence * 1.001  # the longest step is at the bound, up to rounding
            return (loss_fn(there)[0] < loss) & within & all_finite(there)

        longest_good = jax.lax.while_loop(
            lambda tried: ~is_good(tried[0]) & (tried[1] < num_backtracks),
            lambda tried: (tried[0] * shrink, tried[1] + 1),
            (jnp.ones((), loss.dtype), jnp.zeros((), jnp.int32)),
        )
        share = jnp.where(longest_good[1] < num_backtracks, longest_good[0], 0.0)
        is_finite = all_finite((loss, grads, direction))
        skipped = 1 - is_finite.astype(jnp.int32)
        meta_params = jax.tree.map(lambda new, kept: jnp.where(is_finite & (share > 0), new, kept), moved(share), old)
        state = count_step(state, skipped)._replace(meta_params=meta_params)
        facts = {"loss": loss, "grad_norm": optax.tree.norm(grads), "is_skipped": skipped}
        return state, {**aux, **facts, "divergence": from_old(meta_params), "step_share": share}

    return MetaTrainer(init, update)
