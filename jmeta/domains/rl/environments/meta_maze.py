"""A maze whose reward has another place in every task, and the same place within a task.

A task is the place of the reward, which is invisible. The agent sees only the cells around it; each time that it finds
the reward it is moved to a random cell, and has to find its way back. So it has to learn where it is, and where the
reward was.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from jmeta.bounds import is_whole
from jmeta.tasks.class_arrays import check_positive
from jmeta.types import RandomKey

from .environment import Environment, environment
from .spaces import Box, Discrete

__all__ = ["MOVES", "MazeParams", "MazeState", "meta_maze"]

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]], np.int32)  # up, down, left, right: as rows and columns change


class MazeParams(NamedTuple):
    """A task.

    Attributes:
      goal: row and column of the cell with the reward, counted within the outer walls; never a pillar.
    """

    goal: Int[Array, "2"]


class MazeState(NamedTuple):
    """The state of a rollout.

    Attributes:
      position: row and column, counted within the outer walls.
      time: steps since the rollout's start.
    """

    position: Int[Array, "2"]
    time: Int[Array, ""]


def meta_maze(
    *, size: int = 9, reward: float = 10.0, wall_penalty: float = 0.0, num_steps: int = 200
) -> tuple[Environment, Partial]:
    """Build a maze of pillars, seen through a window of 3x3 cells, in which the agent finds a reward again and again.

    Pillars stand on every other cell of every other row; the centre is free, and each rollout starts there. An action
    moves the agent up, down, left or right (0 to 3), unless a wall or a pillar is there. At the goal it is rewarded,
    and moved at once to another free cell, chosen uniformly. Rollouts end by time alone.

    Args:
      size: rows and columns within the outer walls; odd, at least 3.
      reward: reward at the goal.
      wall_penalty: subtracted for each move against a wall or a pillar.
      num_steps: time limit of a rollout.

    Returns:
      `(environment, sample)`, with `sample(key) -> MazeParams`: the goal is uniform over the free cells except the
      centre. Observations are `[3, 3]`: 1 for walls and pillars, 0 for free cells.

    Raises:
      ValueError: if `size` is even or below 3, or `num_steps` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.meta_maze import MazeParams, meta_maze
      >>> maze, sample = meta_maze(size=5)
      >>> params = MazeParams(goal=jnp.array([2, 3]))
      >>> observation, state = maze.reset(jax.random.key(0), params)
      >>> print(observation.astype(int))  # from the centre
      [[1 0 1]
       [0 0 0]
       [1 0 1]]
      >>> observation, state, reward, *_ = maze.step(jax.random.key(1), state, 3, params)
      >>> float(reward)
      10.0

    Reference:
      Miconi, Clune, Stanley, "Differentiable plasticity: training plastic neural networks with backpropagation", 2018,
      arXiv:1804.02464, section 4.5; Miconi, Rawal, Clune, Stanley, "Backpropamine: training self-modifying neural
      networks with differentiable neuromodulated plasticity", 2019, arXiv:2002.10585, section 4.2. Differs from the
      authors' code: the fraction of time passed is not observed; every policy sees the previous action and reward.
    """
    check_positive({"num_steps": num_steps})
    if not is_whole(size, least=3) or size % 2 == 0:
        raise ValueError(f"size={size}; expected an odd number of at least 3, so that the maze has a centre")
    walls = jnp.asarray(_walls(size))
    centre = jnp.full((2,), size // 2, jnp.int32)

    def look(position: Int[Array, "2"]) -> Float[Array, "3 3"]:
        return jax.lax.dynamic_slice(walls, position, (3, 3)).astype(jnp.float32)  # walls[1:, 1:] is cell (0, 0)

    def reset(key: RandomKey, params: MazeParams) -> tuple[Float[Array, "3 3"], MazeState]:
        del key, params
        return look(centre), MazeState(centre, jnp.zeros((), jnp.int32))

    def step(
        key: RandomKey, state: MazeState, action: Int[Array, ""] | int, params: MazeParams
    ) -> tuple[Float[Array, "3 3"], MazeState, Float[Array, ""], Bool[Array, ""]]:
        target = state.position + jnp.asarray(MOVES)[action]
        is_wall = walls[target[0] + 1, target[1] + 1]
        position = jnp.where(is_wall, state.position, target)
        is_found = (position == params.goal).all()
        gained = jnp.where(is_found, reward, 0.0) - jnp.where(is_wall, wall_penalty, 0.0)
        position = jnp.where(is_found, _free_cell_but(params.goal, size, key), position)
        return look(position), MazeState(position, state.time + 1), gained.astype(jnp.float32), jnp.array(False)

    maze = environment(
        "meta_maze",
        reset,
        step,
        lambda state, _params: state.time >= num_steps,
        observation_space=Box(0.0, 1.0, (3, 3)),
        action_space=Discrete(len(MOVES)),
        default_params=MazeParams(jnp.zeros((2,), jnp.int32)),
    )
    return maze, Partial(_AnyCellButTheCentre(size))


@cache
def _walls(size: int) -> Bool[np.ndarray, "rows columns"]:
    """Return True for walls and pillars, with outer walls, so two rows and two columns more than `size`."""
    walls = np.ones((size + 2, size + 2), bool)
    walls[1:-1, 1:-1] = False
    walls[2:-1:2, 2:-1:2] = True
    walls[size // 2 + 1, size // 2 + 1] = False
    return walls


def _free_cell_but(cell: Int[Array, "2"], size: int, key: RandomKey) -> Int[Array, "2"]:
    """Draw a free cell other than this one, uniformly: a number among one fewer, raised by one from this cell on."""
    is_free = ~_walls(size)[1:-1, 1:-1]
    free_cells = jnp.asarray(np.argwhere(is_free), jnp.int32)
    numbers = np.where(is_free, is_free.cumsum().reshape(size, size) - 1, len(free_cells)).astype(np.int32)
    number = jax.random.randint(key, (), 0, len(free_cells) - 1, jnp.int32)
    is_behind = number >= jnp.asarray(numbers)[cell[0], cell[1]]
    return free_cells[number + is_behind.astype(jnp.int32)]


@dataclass(frozen=True)
class _AnyCellButTheCentre:
    size: int

    def __call__(self, key: RandomKey) -> MazeParams:
        return MazeParams(_free_cell_but(jnp.full((2,), self.size // 2, jnp.int32), self.size, key))
