"""Central differences, the independent judge of every derivative."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def assert_gradient_is_central_difference(fn, params, *, relative=1e-6, step=1e-5, num_directions=3):
    """`jax.grad(fn)(params)`, which is returned, against `(fn(p + hv) − fn(p − hv)) / 2h` along random directions."""
    flat, unravel = ravel_pytree(params)
    assert flat.dtype == jnp.float64, "central differences need double precision: use the float64 fixture"
    grads = jax.jit(jax.grad(fn))(params)
    gradient, _ = ravel_pytree(grads)
    along = jax.jit(lambda vector: fn(unravel(vector)))
    for direction in np.random.default_rng(0).standard_normal((num_directions, flat.size)):
        direction = jnp.asarray(direction / np.linalg.norm(direction))
        difference = (along(flat + step * direction) - along(flat - step * direction)) / (2 * step)
        derivative = gradient @ direction
        scale = max(float(jnp.linalg.norm(gradient)), 1e-3)
        assert abs(float(derivative - difference)) <= relative * scale, (float(derivative), float(difference))
    return grads


def trace_strictly(fn, *arguments):
    """Trace `fn` where a dtype that is promoted without being asked, or a key that is used twice, is an error."""
    with jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True):
        jax.jit(lambda *arguments: fn(*arguments)).trace(*arguments)
