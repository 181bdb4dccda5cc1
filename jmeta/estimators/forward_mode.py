"""Forward mode: exact meta-gradients that store nothing of the inner loop, one pass for each meta-parameter.

Use it for a handful of hyper-parameters (learning rates, weights of losses) and long inner loops: memory does not grow
with the number of inner steps, but time grows with the number of meta-parameters.

Reference: Franceschi, Donini, Frasconi, Pontil, "Forward and Reverse Gradient-Based Hyperparameter Optimization", 2017,
arXiv:1703.01785, section 3.2.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ..bounds import is_whole
from ..types import Aux, EpisodeFn, GradFn, PyTree, RandomKey

__all__ = ["forward_mode"]


def forward_mode(episode_fn: EpisodeFn, *, directions_at_once: int | None = None) -> GradFn:
    """Compute the exact meta-gradient, by one Jacobian-vector product for each number in the meta-parameters.

    Args:
      episode_fn: `(meta_params, task, key) -> (loss, aux)`. Forward mode cannot go through a `jax.custom_vjp`, so the
        inner loop may use neither `adjoints.mixed_mode` nor `adjoints.implicit`.
      directions_at_once: products computed in one `vmap`, one such batch after another; all if not given.

    Returns:
      `(meta_params, task, key) -> ((loss, aux), grads)`.

    Raises:
      ValueError: if `directions_at_once` is not positive; at trace time if forward mode cannot go through the episode,
        or there is nothing to differentiate.
      TypeError: at trace time, if a meta-parameter is not floating point.

    Example:
      >>> import jax
      >>> grad_fn = forward_mode(lambda meta_params, task, key: ((meta_params - task) ** 2, {}))
      >>> (loss, aux), gradient = grad_fn(3.0, 1.0, jax.random.key(0))
      >>> float(loss), float(gradient)
      (4.0, 4.0)
    """
    if directions_at_once is not None and not is_whole(directions_at_once):
        raise ValueError(f"directions_at_once={directions_at_once}; expected at least 1")

    def grad_fn(meta_params: PyTree, task: PyTree, key: RandomKey) -> tuple[tuple[jax.Array, Aux], PyTree]:
        _check_floating(meta_params)
        flat, unravel = ravel_pytree(meta_params)

        def along(index: Array) -> tuple[Array, Array, Aux]:
            direction = jax.nn.one_hot(index, flat.size, dtype=flat.dtype)
            # not linearized: that would store every step, as reverse mode does
            return jax.jvp(lambda flat: episode_fn(unravel(flat), task, key), (flat,), (direction,), has_aux=True)

        at_once = jax.vmap(along, out_axes=(None, 0, None))
        num_at_once = directions_at_once or flat.size
        num_batches = -(-flat.size // num_at_once)
        indices = jnp.arange(num_batches * num_at_once)  # indices beyond `flat.size` get a zero direction
        try:
            loss, slopes, aux = jax.lax.map(at_once, indices.reshape(num_batches, num_at_once))
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
            raise ValueError(
                "forward mode cannot differentiate this episode: something in it defines its own reverse mode "
                "(jax.custom_vjp), as adjoints.mixed_mode and adjoints.implicit do; use adjoints.unrolled, or another "
                "estimator"
            ) from error
        first = jax.tree.map(lambda leaf: leaf[0], (loss, aux))
        return first, unravel(slopes.reshape(-1)[: flat.size])

    return grad_fn


def _check_floating(meta_params: PyTree) -> None:
    leaves = jax.tree.leaves(meta_params)
    if not leaves:
        raise ValueError("forward_mode got meta-parameters without a single leaf; there is nothing to differentiate")
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"forward_mode needs meta-parameters of floating point, but one is {jnp.result_type(leaf)}; put "
                "values that are not learned into the task, or close over them"
            )
