"""A dense layer in plain JAX, for networks that are not Flax modules: those with memory, and heads of policies."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import PyTree, RandomKey

__all__ = ["init_dense", "dense"]


def init_dense(
    key: RandomKey,
    num_inputs: int,
    num_outputs: int,
    initializer: jax.nn.initializers.Initializer = jax.nn.initializers.glorot_uniform(),  # noqa: B008
) -> dict[str, Array]:
    """Draw `{"kernel": ..., "bias": ...}` in float32: a kernel from the initializer, and a bias of zeros.

    Example:
      >>> import jax
      >>> params = init_dense(jax.random.key(0), 3, 2)
      >>> params["kernel"].shape, params["bias"].shape
      ((3, 2), (2,))
    """
    kernel = initializer(key, (num_inputs, num_outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros((num_outputs,), jnp.float32)}


def dense(params: PyTree, x: Float[Array, "*steps inputs"]) -> Float[Array, "*steps outputs"]:
    """Compute x W + b.

    Example:
      >>> import jax.numpy as jnp
      >>> dense({"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}, jnp.ones((4, 3))).shape
      (4, 2)
    """
    outputs = x @ params["kernel"]
    return outputs + jnp.broadcast_to(params["bias"], outputs.shape)
