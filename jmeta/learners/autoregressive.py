"""Joint predictions of any learner, one target after another: each is predicted given the ones before it.

A learner predicts targets apart, so its predictions say nothing of how they go together. But the chain rule,
log p(y₁, ..., yₙ | D) = Σᵢ log p(yᵢ | D, y₁, ..., yᵢ₋₁), needs no more than such predictions: targets before the i-th
join the support. The result depends on the order unless the learner is exact Bayesian inference; a mixture of several
random orders depends on it less, and is a density, too.

Reference: Bruinsma, Markou, Requeima, Foong, Andersson, Vaughan, Buonomo, Hosking, Turner, "Autoregressive Conditional
Neural Processes", 2023, arXiv:2303.14468, section 2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..losses import real_examples, without_padding
from ..types import Batch, Learner, PyTree, RandomKey

__all__ = ["log_joint", "sample_jointly", "random_ranks"]


def log_joint(
    learner: Learner, *, num_orders: int = 1
) -> Callable[[PyTree, Batch, Batch, RandomKey], Float[Array, ""]]:
    """Build `(meta_params, support, query, key) -> log p(y of the query | support)`, the joint log density, in nats.

    Args:
      learner: predicts distributions; padding changes nothing in it. It adapts anew for every target of every order.
      num_orders: random orders of the targets, of whose densities the mean is taken.

    Raises:
      ValueError: if `num_orders` is not positive.

    Example:
      >>> import jax
      >>> from jmeta import learners, tasks
      >>> kernel = tasks.kernels.rbf(length_scale=0.5)
      >>> task = tasks.gaussian_process(kernel, num_shots=3, num_queries=4, noise=0.5)(jax.random.key(0))
      >>> log_density = jax.jit(log_joint(learners.exact_gaussian_process(kernel, noise=0.5)))
      >>> joint = log_density({}, task.support, task.query, jax.random.key(1))
      >>> evidence = jax.jit(learners.evidence(kernel, noise=0.5))
      >>> everything = jax.tree.map(lambda *parts: jax.numpy.concatenate(parts), task.support, task.query)
      >>> bool(abs(joint - evidence(everything) + evidence(task.support)) < 1e-3)
      True
    """
    if num_orders < 1:
        raise ValueError(f"num_orders={num_orders}; expected at least 1")

    def log_density(meta_params: PyTree, support: Batch, query: Batch, key: RandomKey) -> Float[Array, ""]:
        support, query = without_padding(support), without_padding(query)
        is_real = real_examples(query)

        def of_order(key: RandomKey) -> Float[Array, ""]:
            key_order, key_adapt = jax.random.split(key)
            ranks = random_ranks(key_order, is_real)

            def of_target(i: Int[Array, ""]) -> Float[Array, ""]:
                context = _joined(support, query, is_real & (ranks < ranks[i]))
                adapted = learner.adapt(meta_params, context, jax.random.fold_in(key_adapt, ranks[i]))
                one = jax.tree.map(lambda leaf: leaf[i][None], (query.x, query.y))
                return learner.predict(meta_params, adapted, one[0], None).log_prob(one[1]).sum()

            log_probs = jax.lax.map(of_target, jnp.arange(is_real.shape[0], dtype=jnp.int32))
            return jnp.where(is_real, log_probs, 0.0).sum()

        log_densities = jax.lax.map(of_order, jax.random.split(key, num_orders))
        return jax.nn.logsumexp(log_densities) - jnp.log(jnp.asarray(num_orders, log_densities.dtype))

    return log_density


def sample_jointly(learner: Learner) -> Callable[[PyTree, Batch, PyTree, RandomKey], PyTree]:
    """Build `(meta_params, support, x, key) -> y`, a sample of all targets at `x` together, such as a function.

    Every target is drawn given those before it, in a random order.

    Args:
      learner: predicts distributions; padding changes nothing in it. It adapts anew for every target.

    Example:
      >>> import jax
      >>> from jmeta import learners, tasks
      >>> kernel = tasks.kernels.rbf(length_scale=0.5)
      >>> task = tasks.gaussian_process(kernel, num_shots=3, num_queries=4, noise=0.5)(jax.random.key(0))
      >>> sample = jax.jit(sample_jointly(learners.exact_gaussian_process(kernel, noise=0.5)))
      >>> sample({}, task.support, task.query.x, jax.random.key(1)).shape
      (4, 1)
    """

    def sample(meta_params: PyTree, support: Batch, x: PyTree, key: RandomKey) -> PyTree:
        support = without_padding(support)
        num_targets = jax.tree.leaves(x)[0].shape[0]
        key_order, key_targets = jax.random.split(key)

        def draw(state: tuple[Array, Array], i_and_key: tuple[Array, RandomKey]) -> tuple[tuple[Array, Array], None]:
            (y, is_drawn), (i, key) = state, i_and_key
            key_adapt, key_sample = jax.random.split(key)
            adapted = learner.adapt(meta_params, _joined(support, Batch(x, y), is_drawn), key_adapt)
            one = learner.predict(meta_params, adapted, jax.tree.map(lambda leaf: leaf[i][None], x), None)
            return (y.at[i].set(one.sample(key_sample)[0].astype(y.dtype)), is_drawn.at[i].set(True)), None

        nothing = jnp.zeros((num_targets, *support.y.shape[1:]), support.y.dtype)
        order = jax.random.permutation(key_order, jnp.arange(num_targets, dtype=jnp.int32))
        keys = jax.random.split(key_targets, num_targets)
        (y, _), _ = jax.lax.scan(draw, (nothing, jnp.zeros((num_targets,), bool)), (order, keys))
        return y

    return sample


def random_ranks(key: RandomKey, is_real: Bool[Array, "examples"]) -> Int[Array, "examples"]:
    """Draw the place of every example in a random order. Padding comes last and does not change the real ones' places.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> ranks = random_ranks(jax.random.key(0), jnp.array([True, True, False, True]))
      >>> sorted(ranks.tolist()), int(ranks[2])
      ([0, 1, 2, 3], 3)
    """
    number = jnp.where(is_real, jnp.cumsum(is_real, dtype=jnp.int32) - 1, is_real.shape[0])  # among the real ones
    draws = jax.vmap(lambda number: jax.random.bits(jax.random.fold_in(key, number)))(number)
    order = jnp.lexsort((number, draws, ~is_real))
    return jnp.zeros_like(number).at[order].set(jnp.arange(number.size, dtype=number.dtype), unique_indices=True)


def _joined(support: Batch, query: Batch, is_known: Bool[Array, "examples"]) -> Batch:
    """Return the support and those examples of the query that are known, as one support; the others are padding."""
    x, y = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), (support.x, support.y), (query.x, query.y))
    return without_padding(Batch(x, y, jnp.concatenate([real_examples(support), is_known])))
