"""Evolution strategies: a meta-gradient from evaluations alone.

The loss is smoothed by a Gaussian, f̄(θ) = E f(θ + σε), and ∇f̄ = E[f(θ + σε) ε] / σ. Pairs ±ε (antithetic sampling)
cancel f(θ) and all even terms: (f(θ + σε) − f(θ − σε)) ε / 2σ. Nothing is differentiated, so an episode may contain
anything, and memory is that of a forward pass. The noise grows with the number of meta-parameters.

Reference: Salimans, Ho, Chen, Sidor, Sutskever, "Evolution Strategies as a Scalable Alternative to Reinforcement
Learning", 2017, arXiv:1703.03864, section 2. Song et al., "ES-MAML", 2020, arXiv:1910.01215.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from ..bounds import is_real, is_whole
from ..types import Aux, EpisodeFn, GradFn, PyTree, RandomKey

__all__ = ["evolution_strategies", "check_pairs"]


def evolution_strategies(
    episode_fn: EpisodeFn, *, num_pairs: int, sigma: float, pairs_at_once: int | None = None
) -> GradFn:
    """Estimate the gradient of the Gaussian-smoothed loss from antithetic pairs of perturbations.

    Args:
      episode_fn: `(meta_params, task, key) -> (loss, aux)`; both members of a pair get the same key.
      num_pairs: number of pairs of perturbations.
      sigma: standard deviation of the perturbations; the bias is of order sigma².
      pairs_at_once: pairs evaluated in one `vmap`, one such batch after another; all if not given.

    Returns:
      `(meta_params, task, key) -> ((loss, aux), grads)`, with loss and aux at the unperturbed `meta_params`.

    Raises:
      ValueError: if a number is not positive, or `pairs_at_once` does not divide `num_pairs`.

    Example:
      >>> import jax
      >>> grad_fn = evolution_strategies(lambda p, task, key: ((p - task) ** 2, {}), num_pairs=1000, sigma=0.1)
      >>> (loss, aux), gradient = grad_fn(3.0, 1.0, jax.random.key(0))
      >>> float(loss), 3.5 < float(gradient) < 4.5
      (4.0, True)

    Reference:
      Salimans et al., 2017, arXiv:1703.03864, section 2 and 2.1.
    """
    check_pairs(num_pairs, sigma)
    at_once = num_pairs if pairs_at_once is None else pairs_at_once
    if not is_whole(at_once) or num_pairs % at_once:
        raise ValueError(f"pairs_at_once={pairs_at_once}; expected a positive divisor of num_pairs={num_pairs}")

    def grad_fn(meta_params: PyTree, task: PyTree, key: RandomKey) -> tuple[tuple[Array, Aux], PyTree]:
        meta_params = jax.tree.map(jnp.asarray, meta_params)
        key_episode, key_noise = jax.random.split(key)

        def term(key: RandomKey) -> PyTree:
            noise = optax.tree.random_like(key, meta_params)
            above, below = (
                episode_fn(optax.tree.add_scale(meta_params, scale, noise), task, key_episode)[0]
                for scale in (sigma, -sigma)
            )
            slope = (above - below) / (2 * sigma)
            return jax.tree.map(lambda leaf: slope * leaf.astype(jnp.result_type(leaf, jnp.float32)), noise)

        def add_batch(total: PyTree, keys: Key[Array, " pairs"]) -> tuple[PyTree, None]:
            add = lambda leaf, terms: leaf + terms.sum(0).astype(leaf.dtype)  # noqa: E731
            return jax.tree.map(add, total, jax.vmap(term)(keys)), None

        keys = jax.random.split(key_noise, num_pairs).reshape(-1, at_once)
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.result_type(leaf, jnp.float32)), meta_params)
        total, _ = jax.lax.scan(add_batch, start, keys)
        grads = jax.tree.map(lambda leaf, like: (leaf / num_pairs).astype(like.dtype), total, meta_params)
        return episode_fn(meta_params, task, key_episode), grads

    return grad_fn


def check_pairs(num_pairs: int, sigma: float) -> None:
    """Raise `ValueError` unless both are positive."""
    if not is_whole(num_pairs) or not is_real(sigma, above=0):
        raise ValueError(f"num_pairs={num_pairs} and sigma={sigma}; expected positive numbers")
