"""Shared parts of the baselines: from scores of actions to a choice among them, and from a step to a whole policy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jmeta.bounds import is_real
from jmeta.tasks.class_arrays import check_positive
from jmeta.types import PyTree, RandomKey

from ..policies import Categorical, Policy, PolicyInput, PolicyOutput

__all__ = [
    "Scalar",
    "untrained",
    "choice",
    "uniformly_random",
    "uniform_over_best",
    "mixed_with_uniform",
    "check_range",
]

Scalar = float | int | Float[Array, ""]
"""A number to tune: as an array it may be traced, so that one compiled function tries several."""


def untrained(
    start: Callable[[], PyTree], decide: Callable[[PyTree, PolicyInput, RandomKey], tuple[PyTree, PolicyOutput]]
) -> Policy:
    """Build a policy that has no parameters.

    Args:
      start: `() -> memory`.
      decide: `(memory, inputs, key) -> (memory, PolicyOutput)`, one step.

    Returns:
      A policy whose `params` are `{}` and whose `unroll` goes step by step.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl.policies import first_input
      >>> from jmeta.domains.rl.environments import Discrete
      >>> always_1 = untrained(lambda: (), lambda memory, inputs, key: (memory, choice(jnp.array([-jnp.inf, 0.0]))))
      >>> inputs = first_input(jnp.zeros(1), Discrete(2))
      >>> int(always_1.step({}, (), inputs, jax.random.key(0))[1].distribution.mode())
      1
    """

    def init(key: RandomKey, inputs: PolicyInput) -> PyTree:
        del key, inputs
        return {}

    def begin(params: PyTree, key: RandomKey | None) -> PyTree:
        del params, key
        return start()

    def step(params: PyTree, memory: PyTree, inputs: PolicyInput, key: RandomKey) -> tuple[PyTree, PolicyOutput]:
        del params
        return decide(memory, inputs, key)

    def unroll(params: PyTree, memory: PyTree, inputs: PolicyInput, key: RandomKey) -> tuple[PyTree, PolicyOutput]:
        keys = jax.random.split(key, inputs.reward.shape[0])
        return jax.lax.scan(lambda memory, given: step(params, memory, *given), memory, (inputs, keys))

    return Policy(init, begin, step, unroll)


def choice(logits: Float[Array, "actions"]) -> PolicyOutput:
    """Build a decision among actions, without an estimate of its value.

    Example:
      >>> import jax.numpy as jnp
      >>> float(choice(jnp.zeros(3)).value)
      0.0
    """
    return PolicyOutput(Categorical(logits), jnp.zeros((), jnp.float32))


def uniformly_random(num_actions: int) -> Policy:
    """Build a policy that takes all actions with equal probability.

    Raises:
      ValueError: if `num_actions` is not positive.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> run = rollouts.run_episode(bandit, uniformly_random(5), num_steps=10)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).action.shape
      (10,)
    """
    check_positive({"num_actions": num_actions})
    return untrained(lambda: (), lambda memory, _inputs, _key: (memory, choice(jnp.zeros((num_actions,), jnp.float32))))


def uniform_over_best(scores: Shaped[Array, "actions"]) -> Float[Array, "actions"]:
    """Return logits of a uniform choice among the actions of the highest score: 0 for these, -∞ for others.

    Example:
      >>> import jax.numpy as jnp
      >>> uniform_over_best(jnp.array([2.0, 1.0, 2.0])).tolist()
      [0.0, -inf, 0.0]
    """
    return jnp.where(scores == scores.max(), 0.0, -jnp.inf).astype(jnp.float32)


def mixed_with_uniform(logits: Float[Array, "actions"], epsilon: Scalar) -> Float[Array, "actions"]:
    """Return logits of a choice by `logits` with probability 1 − ε, and else uniformly among all actions.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mixed = mixed_with_uniform(jnp.array([0.0, -jnp.inf]), 0.5)
      >>> [round(float(p), 3) for p in jax.nn.softmax(mixed)]
      [0.75, 0.25]
    """
    return jnp.log((1 - epsilon) * jax.nn.softmax(logits) + epsilon / logits.shape[0])


def check_range(name: str, number: Scalar, low: float, high: float) -> None:
    """Refuse a number that is not finite and in [low, high]; a traced one is let through.

    Example:
      >>> check_range("epsilon", 0.1, 0.0, 1.0)
    """
    if not is_real(number, least=low, most=high):
        raise ValueError(f"{name}={number}; expected a number in [{low}, {high}]")
