"""The linear feature baseline: a guess of the return, fitted anew to the rollouts of one task."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def linear_baseline(
    observations: Float[Array, "rollouts steps features"],
    returns: Float[Array, "rollouts steps"],
    is_real: Float[Array, "rollouts steps"],
    *,
    ridge: float = 1e-5,
) -> Float[Array, "rollouts steps"]:
    """What a least-squares fit to polynomials of observation and time says of each step's return.

    Features are o, o², t, t², t³ and 1, with o clipped to [-10, 10] and t in units of 100 steps.

    Args:
      observations: seen at each step.
      returns: what followed each step, to be guessed.
      is_real: 1 for steps that count, 0 for those after a rollout's end.
      ridge: weight of the squared coefficients, for features that do not vary.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> observations = jax.random.normal(jax.random.key(0), (4, 10, 2))
      >>> returns = 3.0 * observations[..., 0] + 1.0
      >>> guess = linear_baseline(observations, returns, jnp.ones((4, 10)))
      >>> bool(jnp.abs(guess - returns).max() < 1e-3)
      True

    Reference:
      Duan, Chen, Houthooft, Schulman, Abbeel, "Benchmarking Deep Reinforcement Learning for Continuous Control", 2016,
      arXiv:1604.06778, appendix (linear feature baseline).
    """
    num_rollouts, num_steps, _ = observations.shape
    clipped = jnp.clip(observations, -10, 10)
    time = jnp.arange(num_steps, dtype=observations.dtype)[None, :, None] / 100
    time = jnp.broadcast_to(time, (num_rollouts, num_steps, 1))
    features = jnp.concatenate([clipped, clipped**2, time, time**2, time**3, jnp.ones_like(time)], -1)
    rows = features.reshape(num_rollouts * num_steps, -1)
    weighted = rows * is_real.reshape(-1, 1)
    gram = weighted.T @ rows + ridge * jnp.eye(rows.shape[-1], dtype=rows.dtype)
    coefficients = jnp.linalg.solve(gram, weighted.T @ returns.reshape(-1))
    return (rows @ coefficients).reshape(num_rollouts, num_steps)
