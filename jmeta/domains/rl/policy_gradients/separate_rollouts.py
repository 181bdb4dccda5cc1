"""Separate rollouts of a policy without memory, from which an adaptation computes its policy gradient."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.bounds import is_real, is_whole
from jmeta.types import Batch, PyTree, RandomKey

from ..environments.spaces import as_vector
from ..policies import Policy
from ..rollouts import Trajectory, run_episode
from .baseline import bootstrapped_baseline, linear_baseline
from .collecting import Acted
from .returns import discounted_sums, generalized_advantages

__all__ = ["RollOut", "roll_out"]

RollOut = Callable[[PyTree, PyTree, RandomKey], Batch]
"""`(params, env_params, key) -> Batch`: the steps of a policy in one task, with their advantages."""


def roll_out(
    environment: Any,
    policy: Policy,
    *,
    num_rollouts: int,
    num_steps: int,
    discount: float = 0.99,
    gae_lambda: float = 1.0,
    normalizes: bool = True,
    bootstraps: bool = False,
) -> RollOut:
    """Roll out a policy several times, each time from a new start, and evaluate the rollouts together.

    The baseline of advantages is `linear_baseline`, fitted to these rollouts. Steps after a rollout's end are masked.
    By default nothing follows the last step, so that `num_steps` and the environment's time limit are part of the
    problem: the first of 10 steps of reward 1 is worth Σ γᵏ over these 10. With `bootstraps` a rollout that a time
    limit cut off, or that has `num_steps` steps, would have gone on, and γ V of its last observation stands for what
    would have followed, V being `bootstrapped_baseline`: rewards of 1 forever are worth 1 / (1 − γ).

    Args:
      environment: an `Environment`, or one of gymnax, with observations of any space.
      policy: a policy without memory; nothing is kept from rollout to rollout.
      num_rollouts: number of rollouts in one call.
      num_steps: steps of each rollout, at most.
      discount: γ, in [0, 1].
      gae_lambda: λ of the advantages, in [0, 1].
      normalizes: whether advantages are brought to mean 0 and standard deviation 1.
      bootstraps: whether values replace what time limits cut off.

    Returns:
      `(params, env_params, key) -> Batch` of `num_rollouts * num_steps` examples, rollout after rollout: `x` the
      policy's inputs, `y` an `Acted`, `mask` False after a rollout's end. Differentiable in nothing: actions and
      advantages are constants.

    Raises:
      ValueError: if a number is out of range, or `bootstraps` without a discount below 1; at trace time if
        `bootstraps` and the environment gives no final observation.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies, rollouts
      >>> from jmeta.domains.rl.environments.point_navigation import point_navigation
      >>> navigation, sample = point_navigation()
      >>> policy = policies.memoryless(models.mlp([16, 2]), navigation)
      >>> collect = roll_out(navigation, policy, num_rollouts=3, num_steps=10)
      >>> params = rollouts.init_policy(navigation, policy)(jax.random.key(0))
      >>> batch = jax.jit(collect)(params, sample(jax.random.key(1)), jax.random.key(2))
      >>> batch.y.advantage.shape
      (30,)
    """
    for name, number in {"discount": discount, "gae_lambda": gae_lambda}.items():
        if not is_real(number, least=0, most=1):
            raise ValueError(f"{name}={number}; expected a number in [0, 1]")
    if not is_whole(num_rollouts):
        raise ValueError(f"num_rollouts={num_rollouts}; expected at least 1")
    if bootstraps and discount == 1:
        raise ValueError("bootstraps=True with discount=1: a sum of rewards for ever has no bound; pass discount < 1")
    run = run_episode(environment, policy, num_steps=num_steps)
    space = environment.observation_space(environment.default_params)

    def collect(params: PyTree, env_params: PyTree, key: RandomKey) -> Batch:
        keys = jax.random.split(key, num_rollouts)
        trajectory = jax.lax.stop_gradient(jax.vmap(run, in_axes=(None, None, 0))(params, env_params, keys))
        is_real = _until_the_end(trajectory)
        reward = trajectory.reward * is_real
        discounts = jnp.full_like(reward, discount) * is_real
        returns = jax.vmap(discounted_sums)(reward, discounts)
        observations = as_vector(trajectory.inputs.observation, space)
        if bootstraps:
            is_cut, cut_discounts, last = _cut_off(trajectory, is_real, discount)
            last = as_vector(last, space)
            values, final = bootstrapped_baseline(observations, last, returns, cut_discounts, is_real)
            followed = reward + jnp.where(is_cut, discount * final[:, None], 0)
            returns = returns + cut_discounts * final[:, None]
        else:
            values, followed = linear_baseline(observations, returns, is_real), reward
        advantages = _advantages(followed, discounts, values * is_real, gae_lambda)
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
    """Return `[rollouts, steps]`: 1 up to the step that ends a rollout, 0 after it."""
    ended_before = jnp.cumsum(trajectory.is_over, 1, dtype=jnp.int32) - trajectory.is_over.astype(jnp.int32)
    return (ended_before == 0).astype(trajectory.reward.dtype)


def _cut_off(trajectory: Trajectory, is_real: jax.Array, discount: float) -> tuple[jax.Array, jax.Array, PyTree]:
    """Return where rollouts were cut off, the discount at each step of the future there, and the last observations."""
    if trajectory.final_observation is None or trajectory.terminated is None:
        raise ValueError(
            "bootstraps=True needs info['final_observation'], which the environment's `step` does not return"
        )
    num_steps = is_real.shape[1]
    end = is_real.sum(1).astype(jnp.int32) - 1  # last step of each rollout
    steps = jnp.arange(num_steps, dtype=jnp.int32)[None]
    is_cut = (steps == end[:, None]) & ~trajectory.terminated
    to_come = end[:, None] + 1 - steps
    cut_discounts = jnp.where(
        is_cut.any(1, keepdims=True) & (to_come > 0), discount ** to_come.astype(is_real.dtype), 0
    )
    last = jax.tree.map(lambda leaf: jax.vmap(lambda rows, at: rows[at])(leaf, end), trajectory.final_observation)
    return is_cut, cut_discounts, last


def _advantages(reward: jax.Array, discounts: jax.Array, values: jax.Array, gae_lambda: float) -> jax.Array:
    """Compute advantages in each rollout; nothing follows its end beyond what rewards already include."""
    following = jnp.concatenate([values, jnp.zeros_like(values[:, :1])], 1)
    return jax.vmap(functools.partial(generalized_advantages, gae_lambda=gae_lambda))(reward, discounts, following)
