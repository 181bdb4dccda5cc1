"""Attention and the block around it: what causal transformers, set transformers and SNAIL share.

Heads come first, so that a step's products with all remembered rows need no transposed copy of them.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..types import PyTree, RandomKey
from .dense import dense, init_dense

__all__ = [
    "Attend",
    "attend",
    "attend_linearly",
    "check_num_heads",
    "init_norm",
    "norm",
    "init_block",
    "split_heads",
    "apply_block",
]

Attend = Callable[[Array, Array, Array, Array], Array]
"""`(queries, keys, values, is_visible) -> read`, as `attend`."""


def attend(
    queries: Float[Array, "heads steps features"],
    keys: Float[Array, "heads remembered features"],
    values: Float[Array, "heads remembered numbers"],
    is_visible: Bool[Array, "steps remembered"],
) -> Float[Array, "heads steps numbers"]:
    """Compute scaled dot-product attention, softmax(q · k / √features) v, over the visible steps; some must be.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.models.attention import attend
      >>> alike, values = jnp.ones((1, 3, 2)), jnp.array([1.0, 3.0, 8.0])[None, :, None]
      >>> attend(alike, alike, values, jnp.tril(jnp.ones((3, 3), bool)))[0, :, 0].tolist()
      [1.0, 2.0, 4.0]
    """
    scores = jnp.einsum("hqf,hkf->hqk", queries, keys) / math.sqrt(queries.shape[-1])
    weights = jax.nn.softmax(jnp.where(is_visible[None], scores, -jnp.inf))
    return jnp.einsum("hqk,hkn->hqn", weights, values)


def attend_linearly(
    queries: Float[Array, "heads steps features"],
    keys: Float[Array, "heads remembered features"],
    values: Float[Array, "heads remembered numbers"],
    is_visible: Bool[Array, "steps remembered"],
) -> Float[Array, "heads steps numbers"]:
    """Compute linear attention: the mean of (q · k) v over the visible steps, without a softmax.

    With suitable weights a layer of it is a step of gradient descent on the linear regression of its context.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.models.attention import attend_linearly
      >>> keys, values = jnp.array([[[1.0], [2.0]]]), jnp.array([[[1.0], [5.0]]])
      >>> attend_linearly(jnp.ones((1, 1, 1)), keys, values, jnp.ones((1, 2), bool)).tolist()
      [[[5.5]]]

    Reference:
      Von Oswald et al., "Transformers Learn In-Context by Gradient Descent", 2022, arXiv:2212.07677, proposition 1.
    """
    weights = jnp.where(is_visible[None], jnp.einsum("hqf,hkf->hqk", queries, keys), 0.0)
    num_visible = jnp.maximum(is_visible.sum(-1), 1).astype(values.dtype)
    return jnp.einsum("hqk,hkn->hqn", weights, values) / num_visible[None, :, None]


def check_num_heads(num_heads: int, width: int) -> None:
    """Raise `ValueError` if `num_heads` does not divide `width`."""
    if width % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide width={width}; pass a divisor")


def init_norm(width: int) -> dict[str, Array]:
    """Return the parameters of a layer norm that scales by 1 and shifts by 0."""
    return {"scale": jnp.ones((width,), jnp.float32), "bias": jnp.zeros((width,), jnp.float32)}


def norm(params: PyTree, x: Float[Array, "steps width"]) -> Float[Array, "steps width"]:
    """Compute the layer norm of every row.

    Example:
      >>> import jax.numpy as jnp
      >>> norm(init_norm(2), jnp.array([[1.0, 3.0]])).round(3).tolist()
      [[-1.0, 1.0]]
    """
    centred = x - x.mean(-1, keepdims=True)
    standard = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    return standard * params["scale"][None] + params["bias"][None]


def init_block(key: RandomKey, width: int, num_layers: int) -> PyTree:
    """Draw a pre-norm block, h ← h + attention(norm(h)), h ← h + mlp(norm(h)), of a network of `num_layers` blocks.

    The last product of a branch is small at first, by (2 · layers)^-½, so a new network is nearly the identity.
    """
    key_attention, key_read, key_hidden, key_output = jax.random.split(key, 4)
    small = 1 / math.sqrt(2 * num_layers)
    heads = [init_dense(key, width, width)["kernel"] for key in jax.random.split(key_attention, 3)]
    read, output = init_dense(key_read, width, width), init_dense(key_output, 4 * width, width)
    return {
        "norm_attention": init_norm(width),
        "attention": {"kernel": jnp.concatenate(heads, 1)},  # no bias: a key's bias changes no weight
        "read": read | {"kernel": small * read["kernel"]},
        "norm_mlp": init_norm(width),
        "hidden": init_dense(key_hidden, width, 4 * width),
        "output": output | {"kernel": small * output["kernel"]},
    }


def split_heads(
    params: PyTree, h: Float[Array, "steps width"], num_heads: int
) -> tuple[
    Float[Array, "heads steps features"], Float[Array, "heads steps features"], Float[Array, "heads steps features"]
]:
    """Return the queries, keys and values of a block at each step."""
    num_steps, width = h.shape
    heads = norm(params["norm_attention"], h) @ params["attention"]["kernel"]
    queries, keys, values = heads.reshape(num_steps, 3, num_heads, width // num_heads).transpose(1, 2, 0, 3)
    return queries, keys, values


def apply_block(
    params: PyTree, h: Float[Array, "steps width"], read: Float[Array, "heads steps features"]
) -> Float[Array, "steps width"]:
    """Return the outputs of a block whose attention has read `read`."""
    h = h + dense(params["read"], read.swapaxes(0, 1).reshape(h.shape))
    hidden = jax.nn.gelu(dense(params["hidden"], norm(params["norm_mlp"], h)))
    return h + dense(params["output"], hidden)
