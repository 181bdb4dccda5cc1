"""The linear feature baseline: an estimate of the return, fitted anew to the rollouts of one task."""

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["linear_baseline", "bootstrapped_baseline"]


def linear_baseline(
    observations: Float[Array, "rollouts steps features"],
    returns: Float[Array, "rollouts steps"],
    is_real: Float[Array, "rollouts steps"],
    *,
    ridge: float = 1e-5,
) -> Float[Array, "rollouts steps"]:
    """Estimate each step's return by a least-squares fit to polynomials of observation and time.

    Features are o, o², t, t², t³ and 1, with o clipped to [-10, 10] and t in units of 100 steps. Observations with so
    many numbers that there would be more coefficients than steps, such as pixels, are left out: such a fit would repeat
    the returns and leave no advantage.

    Args:
      observations: seen at each step.
      returns: returns that followed each step, the targets.
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
    num_rollouts, num_steps, num_numbers = observations.shape
    clipped = jnp.clip(observations, -10, 10)
    time = jnp.arange(num_steps, dtype=observations.dtype)[None, :, None] / 100
    time = jnp.broadcast_to(time, (num_rollouts, num_steps, 1))
    of_time = [time, time**2, time**3, jnp.ones_like(time)]
    of_observation = [clipped, clipped**2] if _is_fitted(num_numbers, num_rollouts * num_steps) else []
    rows = jnp.concatenate([*of_observation, *of_time], -1).reshape(num_rollouts * num_steps, -1)
    weighted = rows * is_real.reshape(-1, 1)
    gram = weighted.T @ rows + ridge * jnp.eye(rows.shape[-1], dtype=rows.dtype)
    coefficients = jnp.linalg.solve(gram, weighted.T @ returns.reshape(-1))
    return (rows @ coefficients).reshape(num_rollouts, num_steps)


def bootstrapped_baseline(
    observations: Float[Array, "rollouts steps features"],
    final_observations: Float[Array, "rollouts features"],
    returns: Float[Array, "rollouts steps"],
    cut_discounts: Float[Array, "rollouts steps"],
    is_real: Float[Array, "rollouts steps"],
    *,
    ridge: float = 1e-3,
) -> tuple[Float[Array, "rollouts steps"], Float[Array, " rollouts"]]:
    """Estimate each step's return, and that of last observations where time limits cut rollouts off.

    The estimate V(o) = φ(o)ᵀw is the fixed point of its own fit: the w for which least squares on the returns
    Gₜ + dₜ V(o_T) gives w again, Φᵀ(Φ − d φ(o_T)ᵀ) w = Φᵀ G. Features are o, o² and 1, as for `linear_baseline`, but
    not the time, on which an endless future does not depend. They are normalised to mean 0 and standard deviation 1,
    and the coefficient of 1 is not regularised, so that constant rewards are valued without bias.

    Args:
      observations: seen at each step.
      final_observations: the last ones of each rollout, to which its last action led.
      returns: G, the discounted rewards that followed each step within its rollout.
      cut_discounts: d, the discount of rewards after a rollout's last observation, γ to the number of steps until then;
        0 where the rules ended the rollout.
      is_real: 1 for steps that count, 0 for those after a rollout's end.
      ridge: weight of the squared coefficients except the constant's, per step.

    Returns:
      The estimates for all steps, and for the last observations.

    Example:
      >>> import jax.numpy as jnp
      >>> discounts = 0.9 ** jnp.arange(10, 0, -1)[None]
      >>> values, final = bootstrapped_baseline(
      ...     jnp.zeros((1, 10, 1)), jnp.zeros((1, 1)), (1 - discounts) / 0.1, discounts, jnp.ones((1, 10)))
      >>> round(float(values[0, 0]), 2), round(float(final[0]), 2)  # rewards of 1 for ever: 1 / (1 - 0.9)
      (10.0, 10.0)

    Reference:
      Bradtke, Barto, "Linear Least-Squares Algorithms for Temporal Difference Learning", 1996; here with whole returns.
    """
    num_rollouts, num_steps, num_numbers = observations.shape
    is_fitted = _is_fitted(num_numbers, num_rollouts * num_steps)

    def polynomials(observed: Float[Array, "*shape numbers"]) -> Float[Array, "*shape features"]:
        clipped = jnp.clip(observed, -10, 10)
        return jnp.concatenate([clipped, clipped**2], -1)[..., : 2 * num_numbers * is_fitted]

    every = polynomials(observations).reshape(num_rollouts * num_steps, -1)
    is_counted = is_real.reshape(-1, 1) > 0
    mean, std = every.mean(0, where=is_counted), every.std(0, where=is_counted)
    std = jnp.where(std > 1e-4, std, 1)  # a constant feature has no information

    def features(observed: Float[Array, "*shape numbers"]) -> Float[Array, "*shape features"]:
        powers = polynomials(observed)
        one = jnp.ones_like(observed[..., :1])
        standard = (powers - jnp.broadcast_to(mean, powers.shape)) / jnp.broadcast_to(std, powers.shape)
        return jnp.concatenate([standard, one], -1)

    rows, last = features(observations), features(final_observations)
    left = rows - cut_discounts[..., None] * last[:, None]
    flat = lambda leaf: leaf.reshape(num_rollouts * num_steps, -1)  # noqa: E731
    weighted = flat(rows) * is_real.reshape(-1, 1) / is_real.sum()
    penalties = jnp.full((rows.shape[-1],), ridge, rows.dtype).at[-1].set(0)
    # the best constant first, and then the residual: in float32 the whole system is too close to a singular one
    constant = (returns * is_real).sum() / ((1 - cut_discounts) * is_real).sum()
    left_over = returns - constant * (1 - cut_discounts)
    coefficients = jnp.linalg.solve(weighted.T @ flat(left) + jnp.diag(penalties), weighted.T @ left_over.reshape(-1))
    return rows @ coefficients + constant, last @ coefficients + constant


def _is_fitted(num_numbers: int, num_rows: int) -> bool:
    """Return whether an observation's numbers and squares are few enough, with those of time, to fit to the steps."""
    return 2 * num_numbers + 4 <= num_rows
