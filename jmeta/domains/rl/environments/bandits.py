"""Bandits: arms that pay by chance. They are the smallest problems that trade exploration against exploitation.

A task is its arms' means. A rollout is one pull, so the observation is empty: a policy knows only its memory of its own
pulls and their rewards.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from jmeta.bounds import is_real
from jmeta.tasks.class_arrays import check_positive
from jmeta.types import RandomKey

from .environment import Environment, environment
from .spaces import Box, Discrete

__all__ = ["BanditParams", "bernoulli_bandit", "gaussian_bandit"]


class BanditParams(NamedTuple):
    """A task.

    Attributes:
      means: means of the arms' rewards; for Bernoulli arms, probabilities.
    """

    means: Float[Array, "arms"]


def bernoulli_bandit(num_arms: int) -> tuple[Environment, Partial]:
    """Build a bandit whose arms pay 1 with their own probability, uniform in [0, 1], and else 0.

    Returns:
      `(environment, sample)`, with `sample(key) -> BanditParams`. Actions are arms; every pull is a rollout.

    Raises:
      ValueError: if `num_arms` is not positive.

    Example:
      >>> import jax
      >>> bandit, sample = bernoulli_bandit(5)
      >>> params = sample(jax.random.key(0))
      >>> observation, state = bandit.reset(jax.random.key(1), params)
      >>> observation, state, reward, terminated, truncated, info = bandit.step(jax.random.key(2), state, 3, params)
      >>> reward.shape, bool(terminated)
      ((), True)

    Reference:
      Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel, "RL²: Fast Reinforcement Learning via Slow Reinforcement
      Learning", 2016, arXiv:1611.02779, section 3.1.
    """
    check_positive({"num_arms": num_arms})

    def pull(key: RandomKey, mean: Float[Array, ""]) -> Float[Array, ""]:
        return (jax.random.uniform(key) < mean).astype(jnp.float32)

    return _bandit("bernoulli_bandit", num_arms, pull), Partial(_UniformMeans(num_arms))


def gaussian_bandit(num_arms: int, *, spread: float = 1.0, noise: float = 1.0) -> tuple[Environment, Partial]:
    """Build a bandit whose rewards are normal, about means that are normal themselves.

    Args:
      num_arms: number of arms.
      spread: standard deviation of the means, about 0.
      noise: standard deviation of a reward, about its arm's mean.

    Returns:
      `(environment, sample)`, as for `bernoulli_bandit`.

    Raises:
      ValueError: if `num_arms` is not positive, or a standard deviation is negative.

    Example:
      >>> import jax
      >>> bandit, sample = gaussian_bandit(3)
      >>> sample(jax.random.key(0)).means.shape
      (3,)
    """
    check_positive({"num_arms": num_arms})
    if not (is_real(spread, least=0) and is_real(noise, least=0)):
        raise ValueError(f"spread={spread} and noise={noise} are standard deviations; pass numbers of at least 0")

    def pull(key: RandomKey, mean: Float[Array, ""]) -> Float[Array, ""]:
        return mean + noise * jax.random.normal(key)

    return _bandit("gaussian_bandit", num_arms, pull), Partial(_NormalMeans(num_arms, spread))


def _bandit(name: str, num_arms: int, pull) -> Environment:
    nothing = jnp.zeros((1,), jnp.float32)

    def reset(key: RandomKey, params: BanditParams) -> tuple[Float[Array, "1"], Int[Array, ""]]:
        del key, params
        return nothing, jnp.zeros((), jnp.int32)

    def step(
        key: RandomKey, state: Int[Array, ""], action: Int[Array, ""] | int, params: BanditParams
    ) -> tuple[Float[Array, "1"], Int[Array, ""], Float[Array, ""], Bool[Array, ""]]:
        return nothing, state + 1, pull(key, params.means[action]), jnp.array(True)

    return environment(
        name,
        reset,
        step,
        lambda _state, _params: jnp.array(False),
        observation_space=Box(0.0, 0.0, (1,)),
        action_space=Discrete(num_arms),
        default_params=BanditParams(jnp.full((num_arms,), 0.5)),
    )


@dataclass(frozen=True)
class _UniformMeans:
    num_arms: int

    def __call__(self, key: RandomKey) -> BanditParams:
        return BanditParams(jax.random.uniform(key, (self.num_arms,)))


@dataclass(frozen=True)
class _NormalMeans:
    num_arms: int
    spread: float

    def __call__(self, key: RandomKey) -> BanditParams:
        return BanditParams(self.spread * jax.random.normal(key, (self.num_arms,)))
