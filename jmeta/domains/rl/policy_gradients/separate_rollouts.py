"""Rollouts of a policy without memory, one by one: what a policy gradient inside an adaptation is computed from."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.types import Batch, PyTree, RandomKey

from ..policies import Policy
from ..rollouts import Trajectory, run_episode
from .baseline import linear_baseline
from .collecting import Acted
from .returns import discounted_sums, generalized_advantages

RollOut = Callable[[PyTree, PyTree, RandomKey], Batch]
"""`(params, env_params, key) -> Batch`: what a policy with these parameters did in one task, with its advantages."""


def roll_out(
    environment: Any,
    policy: Policy,
    *,
    num_rollouts: int,
    num_steps: int,
    discount: float = 0.99,
    gae_lambda: float = 1.0,
    normalizes: bool = True,
) -> RollOut:
    """Separate rollouts of a policy, each from a start of its own, judged beside each other.

    The baseline of advantages is `linear_baseline`, fitted to these rollouts. Steps after a rollout's end are masked.

    Args:
      environment: an `Environment`, or one of gymnax, with observations that are vectors.
      policy: without memory; nothing is kept from rollout to rollout.
      num_rollouts: in one call.
      num_steps: of each rollout, at most.
      discount: γ, in [0, 1].
      gae_lambda: λ of the advantages, in [0, 1].
      normalizes: whether advantages get mean 0 and standard deviation 1.

    Returns:
      `(params, env_params, key) -> Batch` of `num_rollouts * num_steps` examples, rollout after rollout: `x` what the
      policy was told, `y` an `Acted`, `mask` False after a rollout's end. Differentiable in nothing: actions and
      advantages are constants.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies, rollouts
      >>> from jmeta.domains.rl.environments.point_navigation import point_navigation
      >>> navigation, sample = point_navigation()
      >>> policy = policies.memoryless(models.mlp([16, 2]), navigation)
      >>> collect = roll_out(navigation, policy, num_rollouts=3, num_steps=10)
      >>> params = rollouts.init_policy(navigation, policy)(jax.random.key(0))
      >>> batch = collect(params, sample(jax.random.key(1)), jax.random.key(2))
      >>> batch.y.advantage.shape
      (30,)
    """
    for name, number in {"discount": discount, "gae_lambda": gae_lambda}.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{name}={number}; expected a number in [0, 1]")
    if num_rollouts < 1:
        raise ValueError(f"num_rollouts={num_rollouts}; expected at least 1")
    run = run_episode(environment, policy, num_steps=num_steps)

    def collect(params: PyTree, env_params: PyTree, key: RandomKey) -> Batch:
        keys = jax.random.split(key, num_rollouts)
        trajectory = jax.lax.stop_gradient(jax.vmap(run, in_axes=(None, None, 0))(params, env_params, keys))
        is_real = _until_the_end(trajectory)
        reward = trajectory.reward * is_real
        discounts = jnp.full_like(reward, discount) * is_real
        returns = jax.vmap(discounted_sums)(reward, discounts)
        values = linear_baseline(trajectory.inputs.observation, returns, is_real)
        advantages = _advantages(reward, discounts, values * is_real, gae_lambda)
        if normalizes:
            mean, std = advantages.mean(where=is_real > 0), advantages.std(where=is_real > 0)
            advantages = (advantages - mean) / (std + 1e-8)
        acted = Acted(trajectory.action, trajectory.log_prob, advantages, returns, reward)
        flat = jax.tree.map(
            lambda leaf: leaf.reshape(num_rollouts * num_steps, *leaf.shape[2:]), (trajectory.inputs, acted, is_real)
        )
        return Batch(flat[0], flat[1], flat[2] > 0)

    return collect


def _until_the_end(trajectory: Trajectory) -> jax.Array:
    """`[rollouts, steps]`: 1 up to the step that ends a rollout, 0 after it."""
    ended_before = jnp.cumsum(trajectory.is_over, 1, dtype=jnp.int32) - trajectory.is_over.astype(jnp.int32)
    return (ended_before == 0).astype(trajectory.reward.dtype)


def _advantages(reward: jax.Array, discounts: jax.Array, values: jax.Array, gae_lambda: float) -> jax.Array:
    """Of each rollout; nothing follows its end."""
    following = jnp.concatenate([values, jnp.zeros_like(values[:, :1])], 1)
    return jax.vmap(functools.partial(generalized_advantages, gae_lambda=gae_lambda))(reward, discounts, following)
