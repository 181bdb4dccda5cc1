"""Resets and steps of any environment, with checked results: one sentence names a mistake in a user's own environment.

All checks run while a program is traced; they add nothing to the program.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from jmeta.types import PyTree, RandomKey

from .spaces import described

__all__ = ["STEP", "Step", "take_reset", "take_step", "as_reset", "as_step", "as_reward", "as_end", "check_alike"]

STEP = "(observation, state, reward, terminated, truncated, info)"


class Step(NamedTuple):
    """The result of a step of an environment.

    Attributes:
      observation, state: those after the step; where it ended a rollout, those at the start of the next one.
      reward: reward of the action, a scalar.
      terminated: whether the rules of the environment ended the rollout.
      truncated: whether its time limit ended it.
      info: further facts, such as the `final_observation` of a rollout that ended.
    """

    observation: PyTree
    state: PyTree
    reward: Shaped[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    info: dict[str, Any]


def take_reset(environment: Any, key: RandomKey, params: PyTree) -> tuple[PyTree, PyTree]:
    """Return `(observation, state)` at a rollout's start.

    Raises:
      ValueError: at trace time if the environment returns something else.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl.environments import bernoulli_bandit
      >>> bandit, _ = bernoulli_bandit(3)
      >>> observation, state = take_reset(bandit, jax.random.key(0), bandit.default_params)
      >>> observation.shape
      (1,)
    """
    return as_reset(environment.reset(key, params), f"`reset` of {environment.name}")


def take_step(environment: Any, key: RandomKey, state: PyTree, action: Array, params: PyTree) -> Step:
    """Take one step, and return its reward and ends as arrays.

    Raises:
      ValueError: at trace time if the environment returns something else.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl.environments import bernoulli_bandit
      >>> bandit, _ = bernoulli_bandit(3)
      >>> key, params = jax.random.key(0), bandit.default_params
      >>> bool(take_step(bandit, key, bandit.reset(key, params)[1], jax.numpy.array(1), params).terminated)
      True
    """
    return as_step(environment.step(key, state, action, params), f"`step` of {environment.name}")


def as_reset(returned: Any, what: str) -> tuple[PyTree, PyTree]:
    """Check the result of a reset and return `(observation, state)`; `ValueError` if it is not a pair."""
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise ValueError(f"{what} returns {described(returned)}; expected a tuple of 2, (observation, state)")
    return returned[0], returned[1]


def as_step(returned: Any, what: str) -> Step:
    """Convert the result of a step to a `Step`; `ValueError` in one sentence if it is not one.

    Python's numbers and bools are accepted as rewards and ends, as are NumPy's.

    Example:
      >>> import jax.numpy as jnp
      >>> as_step((jnp.zeros(1), (), 1.0, False, False), "`step` of mine")
      Traceback (most recent call last):
      ...
      ValueError: `step` of mine returns a tuple of 5; expected a tuple of 6, (observation, state, reward, terminated, \
truncated, info): where there was one `done`, return `terminated` for ends by the rules and `truncated` for time limits
    """
    if not isinstance(returned, tuple | list) or len(returned) != 6:
        hint = ": where there was one `done`, return `terminated` for ends by the rules and `truncated` for time limits"
        is_old = isinstance(returned, tuple | list) and len(returned) in (4, 5)
        raise ValueError(f"{what} returns {described(returned)}; expected a tuple of 6, {STEP}{hint * is_old}")
    observation, state, reward, terminated, truncated, info = returned
    reward = as_reward(reward, what)
    ends = [as_end(end, name, what) for name, end in (("terminated", terminated), ("truncated", truncated))]
    if not isinstance(info, dict):
        raise ValueError(f"{what} returns as `info` a {type(info).__name__}; expected a dictionary, which may be empty")
    return Step(observation, state, reward, ends[0], ends[1], info)


def as_reward(reward: Any, what: str) -> Shaped[Array, ""]:
    """Convert a reward to an array; `ValueError` if it is not a single number."""
    reward = _as_array(reward, "reward", what)
    if reward.shape != ():
        raise ValueError(
            f"{what} returns a reward of shape {reward.shape}; expected a scalar, such as `reward.sum()` or `reward[0]`"
        )
    if not (jnp.issubdtype(reward.dtype, jnp.floating) or jnp.issubdtype(reward.dtype, jnp.integer)):
        raise ValueError(f"{what} returns a reward of dtype {reward.dtype}; expected a float")
    return reward


def as_end(end: Any, name: str, what: str) -> Bool[Array, ""]:
    """Convert `terminated` or `truncated` to an array; `ValueError` if it is not a single bool."""
    end = _as_array(end, name, what)
    if end.dtype != bool:
        raise ValueError(f"{what} returns `{name}` of dtype {end.dtype}; it must be bool, such as `{name} > 0`")
    if end.shape != ():
        raise ValueError(f"{what} returns `{name}` of shape {end.shape}; expected a scalar")
    return end


def check_alike(one: PyTree, other: PyTree, what: str, whose: str, *, dtypes: bool = True) -> None:
    """Refuse two trees whose structures, shapes or dtypes differ.

    Args:
      one, other: trees.
      what: the first one in words.
      whose: the maker of the other one in words.
      dtypes: whether dtypes are compared.

    Raises:
      ValueError: if they differ, with both.

    Example:
      >>> check_alike(jnp.zeros(2), jnp.zeros(3), "the reset makes a state", "the step")
      Traceback (most recent call last):
      ...
      ValueError: the reset makes a state float32[2], and the step float32[3]; structures, shapes and dtypes must agree
    """

    def agree(a: Any, b: Any) -> bool:
        is_weak = any(getattr(jax.typeof(leaf), "weak_type", False) for leaf in (a, b))  # a number that takes any dtype
        return jnp.shape(a) == jnp.shape(b) and (is_weak or not dtypes or jnp.result_type(a) == jnp.result_type(b))

    if jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(jax.tree.map(agree, one, other)):
        return
    described = [jax.tree.map(_Aval, tree) for tree in (one, other)]
    raise ValueError(f"{what} {described[0]}, and {whose} {described[1]}; structures, shapes and dtypes must agree")


class _Aval:
    """A leaf that prints as its dtype and shape."""

    def __init__(self, leaf: Any) -> None:
        self.text = f"{jnp.result_type(leaf)}[{','.join(map(str, jnp.shape(leaf)))}]"

    def __repr__(self) -> str:
        return self.text


def _as_array(value: Any, name: str, what: str) -> Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} returns as `{name}` a {type(value).__name__}; expected an array") from error
