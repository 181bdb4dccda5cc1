"""A point in the plane that has to find a hidden place: the smallest continuous problem of meta-learning.

A task is its goal. With a dense reward every step reveals the distance to the goal; with a sparse one the point has to
search where goals may be, and to remember in the next rollout where it was rewarded.
"""

import math
from collections.abc import Callable
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
from .spaces import Box

__all__ = ["MAX_VELOCITY", "PointParams", "PointState", "point_navigation", "sparse_point_navigation"]

MAX_VELOCITY = 0.1  # bound on each coordinate, in one step


class PointParams(NamedTuple):
    """A task.

    Attributes:
      goal: the goal's position; rollouts start at the origin.
    """

    goal: Float[Array, "2"]


class PointState(NamedTuple):
    """The state of a rollout.

    Attributes:
      position: position in the plane.
      time: steps since the rollout's start.
    """

    position: Float[Array, "2"]
    time: Int[Array, ""]


def point_navigation(
    *, half_width: float = 0.5, goal_radius: float = 0.01, num_steps: int = 100, is_squared: bool = False
) -> tuple[Environment, Partial]:
    """Build navigation to a goal in a square, with a reward for the remaining distance.

    A step is x ← x + clip(a, −0.1, 0.1) with reward −‖x − goal‖, of the position after the step. The rollout terminates
    within `goal_radius` of the goal.

    The paper's text and its authors' published code differ in two ways, and the code is followed where it changes
    returns: rewards are distances, not their squares (standing still for 100 steps returns −38.3, and not −16.7). The
    end follows the text: the code requires each coordinate, and not the distance, to be below the radius.

    As all rewards are negative, and a new rollout at the origin follows one that terminates, an episode of several
    rollouts rewards a policy that stops short of the goal. `goal_radius=0` removes this incentive: no rollout ends
    early.

    Args:
      half_width: goals are uniform in the square [−half_width, half_width]².
      goal_radius: distance to the goal below which a rollout terminates.
      num_steps: time limit of a rollout.
      is_squared: whether the reward is −‖x − goal‖², as the paper's text says.

    Returns:
      `(environment, sample)`, with `sample(key) -> PointParams`. Actions are velocities, observations positions.

    Raises:
      ValueError: if `half_width` or `num_steps` is not positive, or `goal_radius` is negative.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.point_navigation import PointParams, point_navigation
      >>> point, sample = point_navigation()
      >>> params = PointParams(goal=jnp.array([0.3, 0.4]))
      >>> observation, state = point.reset(jax.random.key(0), params)
      >>> observation, state, reward, terminated, truncated, info = point.step(
      ...     jax.random.key(1), state, jnp.array([1.0, 0.0]), params)
      >>> [round(float(x), 2) for x in observation], round(float(reward), 3), bool(terminated)
      ([0.1, 0.0], -0.447, False)

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, arXiv:1703.03400,
      section 5.3, "2D Navigation".
    """
    check_positive({"num_steps": num_steps})
    if not is_real(half_width, above=0):
        raise ValueError(f"half_width={half_width} is half the side of a square; pass a positive number")
    if not is_real(goal_radius, least=0):
        raise ValueError(f"goal_radius={goal_radius} is a distance; pass a number of at least 0")

    def reward_and_end(squared: Float[Array, ""]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        return -(squared if is_squared else _root(squared)), squared < goal_radius**2

    return _point("point_navigation", reward_and_end, num_steps), Partial(_InSquare(float(half_width)))


def sparse_point_navigation(*, goal_radius: float = 0.2, num_steps: int = 20) -> tuple[Environment, Partial]:
    """Build the search for a goal on half a circle of radius 1, with no reward except near the goal.

    A step is that of `point_navigation`; its reward is 1 − ‖x − goal‖ within `goal_radius` of the goal, and else 0. The
    circle is ten steps away, so one rollout sees some of it, and a task takes several. Rollouts end by time alone.

    Args:
      goal_radius: distance to the goal within which the reward is positive.
      num_steps: time limit of a rollout.

    Returns:
      `(environment, sample)`, with `sample(key) -> PointParams`: the goal's angle is uniform in [0, π].

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.point_navigation import PointParams, sparse_point_navigation
      >>> point, sample = sparse_point_navigation()
      >>> params = PointParams(goal=jnp.array([0.0, 1.0]))
      >>> _, state = point.reset(jax.random.key(0), params)
      >>> rewards = []
      >>> for _ in range(9):
      ...     _, state, reward, *_ = point.step(jax.random.key(1), state, jnp.array([0.0, 0.1]), params)
      ...     rewards.append(round(float(reward), 2))
      >>> rewards[0], rewards[-1]
      (0.0, 0.9)

    Reference:
      Rakelly, Zhou, Quillen, Finn, Levine, "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
      Variables", 2019, arXiv:1903.08254, section 6.3; horizon and rewards of the authors' code.
    """
    check_positive({"num_steps": num_steps})
    if not is_real(goal_radius, above=0):
        raise ValueError(f"goal_radius={goal_radius} is the distance with a reward; pass a positive number")

    def reward_and_end(squared: Float[Array, ""]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        return jnp.where(squared <= goal_radius**2, 1 - _root(squared), 0), jnp.array(False)

    return _point("sparse_point_navigation", reward_and_end, num_steps), Partial(_on_half_circle)


def _point(
    name: str, reward_and_end: Callable[[Array], tuple[Float[Array, ""], Bool[Array, ""]]], num_steps: int
) -> Environment:
    def reset(key: RandomKey, params: PointParams) -> tuple[Float[Array, "2"], PointState]:
        del key
        position = jnp.zeros_like(params.goal)
        return position, PointState(position, jnp.zeros((), jnp.int32))

    def step(
        key: RandomKey, state: PointState, action: Float[Array, "2"], params: PointParams
    ) -> tuple[Float[Array, "2"], PointState, Float[Array, ""], Bool[Array, ""]]:
        del key
        velocity = jnp.clip(action.astype(params.goal.dtype), -MAX_VELOCITY, MAX_VELOCITY)
        position = state.position + velocity
        reward, terminated = reward_and_end(jnp.square(position - params.goal).sum())
        return position, PointState(position, state.time + 1), reward, terminated

    return environment(
        name,
        reset,
        step,
        lambda state, _params: state.time >= num_steps,
        observation_space=Box(-math.inf, math.inf, (2,)),
        action_space=Box(-MAX_VELOCITY, MAX_VELOCITY, (2,)),
        default_params=PointParams(jnp.zeros((2,), jnp.float32)),
    )


def _root(squared: Float[Array, ""]) -> Float[Array, ""]:
    """Take √ with a derivative of 0 at 0, which is a point exactly on its goal."""
    is_zero = squared == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))


@dataclass(frozen=True)
class _InSquare:
    half_width: float

    def __call__(self, key: RandomKey) -> PointParams:
        return PointParams(jax.random.uniform(key, (2,), jnp.float32, -self.half_width, self.half_width))


def _on_half_circle(key: RandomKey) -> PointParams:
    angle = jax.random.uniform(key, (), jnp.float32, 0, math.pi)
    return PointParams(jnp.stack([jnp.cos(angle), jnp.sin(angle)]))
