"""MiniGrid's rooms, keys and doors in JAX, through Navix: a task is a layout, unknown until the agent explores it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, Integer

from jmeta.tasks.class_arrays import check_positive
from jmeta.types import RandomKey

from .environment import Environment, environment
from .spaces import Box, Discrete

__all__ = ["NUM_ENTITIES", "NUM_COLOURS", "NUM_CONDITIONS", "LayoutParams", "from_navix"]

NUM_ENTITIES, NUM_COLOURS, NUM_CONDITIONS = 11, 6, 4  # Navix: a cell has an entity, a colour and a direction


class LayoutParams(NamedTuple):
    """A task.

    Attributes:
      layout: number of the layout of rooms, doors, keys and goals, and of the start of rollouts.
    """

    layout: Int[Array, ""]


def from_navix(
    name: str, *, layouts: tuple[int, int] = (0, 10_000), num_steps: int = 100, is_first_person: bool = True
) -> tuple[Environment, Partial]:
    """Adapt an environment of Navix whose layout is the task: every rollout of a task begins in the same state.

    Balls, which move by chance, move differently in each rollout.

    Args:
      name: name in Navix, such as `"Navix-DoorKey-Random-6x6-v0"` or `"Navix-GoToDoor-5x5-v0"`, whose goal is not
        visible. Names without random layouts have only one task.
      layouts: the first layout, and one past the last; other numbers are other layouts, for tests on unseen ones.
      num_steps: time limit of a rollout.
      is_first_person: whether the agent observes the 7x7 cells before it, turned with it, or the whole grid.

    Returns:
      `(environment, sample)`, with `sample(key) -> LayoutParams`. Observations are `[rows, columns, 21]`: the entity in
      a cell, its colour, and its condition or direction, one-hot each.

    Raises:
      ImportError: if Navix is not installed.
      ValueError: if Navix has no environment of that name, `layouts` is empty or `num_steps` is not positive.

    Example:
      >>> import jax  # doctest: +SKIP
      >>> from jmeta.domains.rl.environments.from_navix import from_navix  # doctest: +SKIP
      >>> rooms, sample = from_navix("Navix-DoorKey-Random-6x6-v0")  # doctest: +SKIP
      >>> observation, state = rooms.reset(jax.random.key(0), sample(jax.random.key(1)))  # doctest: +SKIP
      >>> observation.shape, rooms.action_space(None).n  # doctest: +SKIP
      ((7, 7, 21), 7)

    Reference:
      Pignatelli, Liesen, Lange, Lu, Castro, Toni, "NAVIX: Scaling MiniGrid Environments with JAX", 2024,
      arXiv:2407.19396.
    """
    try:
        import navix  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('from_navix needs Navix; install it with `pip install "jmeta[navix]"`') from error
    check_positive({"num_steps": num_steps})
    if layouts[0] >= layouts[1]:
        raise ValueError(f"layouts={layouts} is an empty range; pass (first, last + 1)")
    if name not in navix.registry():
        raise ValueError(f"name={name!r} is none of Navix's environments: {', '.join(sorted(navix.registry()))}")
    observe = navix.observations.symbolic_first_person if is_first_person else navix.observations.symbolic
    inner: Any = navix.make(name, max_steps=num_steps, observation_fn=observe)

    def reset(key: RandomKey, params: LayoutParams) -> tuple[Float[Array, "rows columns 21"], Any]:
        timestep = inner.reset(jax.random.fold_in(jax.random.key(0), params.layout))
        return _one_hot(timestep.observation), _with_key(timestep, key)

    def step(
        key: RandomKey, state: Any, action: Int[Array, ""] | int, params: LayoutParams
    ) -> tuple[Float[Array, "rows columns 21"], Any, Float[Array, ""], Bool[Array, ""]]:
        del params
        # not `step`, which would build a new layout at every step, and start in it after an end
        timestep = inner._step(_with_key(state, key), jnp.asarray(action))
        return _one_hot(timestep.observation), timestep, timestep.reward, timestep.is_termination()

    adapted = environment(
        name,
        reset,
        step,
        lambda state, _params: state.is_truncation(),
        observation_space=Box(
            0.0, 1.0, (*inner.observation_space.shape[:2], NUM_ENTITIES + NUM_COLOURS + NUM_CONDITIONS)
        ),
        action_space=Discrete(len(inner.action_set)),
        default_params=LayoutParams(jnp.array(layouts[0], jnp.int32)),
    )
    return adapted, Partial(_UniformLayouts(*layouts))


def _with_key(timestep: Any, key: RandomKey) -> Any:
    """Set the key for moving entities, and drop the pictures of cells, which only rendering needs."""
    return timestep.replace(state=timestep.state.replace(key=key, cache=None))


def _one_hot(symbols: Integer[Array, "rows columns 3"]) -> Float[Array, "rows columns 21"]:
    sizes = (NUM_ENTITIES, NUM_COLOURS, NUM_CONDITIONS)
    parts = [jax.nn.one_hot(symbols[..., i], size, dtype=jnp.float32) for i, size in enumerate(sizes)]
    return jnp.concatenate(parts, -1)


@dataclass(frozen=True)
class _UniformLayouts:
    first: int
    end: int

    def __call__(self, key: RandomKey) -> LayoutParams:
        return LayoutParams(jax.random.randint(key, (), self.first, self.end, jnp.int32))
