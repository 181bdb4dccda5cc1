"""XLand-MiniGrid: a world of objects whose goal and rules are the task, and must be found by trying."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from jmeta.tasks.class_arrays import check_positive
from jmeta.types import PyTree, RandomKey

from .environment import Environment, environment
from .spaces import Box, Discrete

__all__ = ["HINT", "RulesetParams", "from_xland_minigrid", "hidden_goal_benchmark"]

HINT = 'this needs XLand-MiniGrid; install it with `pip install "jmeta[environments]"`'


class RulesetParams(NamedTuple):
    """A task.

    Attributes:
      ruleset: XLand-MiniGrid's ruleset: the encoded goal, the encoded rules and the objects at the start.
    """

    ruleset: PyTree


def from_xland_minigrid(name: str, benchmark: Any, *, num_steps: int | None = None) -> tuple[Environment, Partial]:
    """Adapt an environment of XLand-MiniGrid whose ruleset is the task. Rollouts place objects and agent at random.

    Args:
      name: a name such as `"XLand-MiniGrid-R1-9x9"`, one room of 9x9 cells with its walls.
      benchmark: rulesets to draw from, as `xminigrid.load_benchmark` returns them (it downloads large files), or
        `hidden_goal_benchmark`.
      num_steps: time limit of a rollout; `None` for the environment's own.

    Returns:
      `(environment, sample)`, with `sample(key) -> RulesetParams`. Observations are `[5, 5, 25]`: the objects in the
      cells before the agent and their colours, one-hot each. A rollout terminates at the goal, with a reward of 1 less
      0.9 times the fraction of time used.

    Raises:
      ImportError: if XLand-MiniGrid is not installed.
      ValueError: if `name` is none of its environments with rulesets, or `num_steps` is not positive.

    Example:
      >>> import jax  # doctest: +SKIP
      >>> from jmeta.domains.rl.environments.from_xland_minigrid import from_xland_minigrid  # doctest: +SKIP
      >>> from jmeta.domains.rl.environments.from_xland_minigrid import hidden_goal_benchmark  # doctest: +SKIP
      >>> benchmark = hidden_goal_benchmark(1000, 3, jax.random.key(0))  # doctest: +SKIP
      >>> world, sample = from_xland_minigrid("XLand-MiniGrid-R1-9x9", benchmark)  # doctest: +SKIP
      >>> observation, state = world.reset(jax.random.key(1), sample(jax.random.key(2)))  # doctest: +SKIP
      >>> observation.shape, world.action_space(None).n  # doctest: +SKIP
      ((5, 5, 25), 6)

    Reference:
      Nikulin, Kurenkov, Zisman, Agarkov, Sinii, Kolesnikov, "XLand-MiniGrid: Scalable Meta-Reinforcement Learning
      Environments in JAX", 2023, arXiv:2312.12044.
    """
    try:
        import xminigrid  # pyright: ignore[reportMissingImports]
        from xminigrid.core.constants import NUM_COLORS, NUM_TILES  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(HINT) from error
    names = [each for each in xminigrid.registered_environments() if each.startswith("XLand")]  # pyright: ignore
    if name not in names:
        raise ValueError(f"name={name!r} is none of the environments with rulesets: {', '.join(names)}")
    if num_steps is not None:
        check_positive({"num_steps": num_steps})
    inner, inner_params = xminigrid.make(name)  # pyright: ignore[reportPrivateImportUsage]
    if num_steps is not None:
        inner_params = inner_params.replace(max_steps=num_steps)

    def observed(timestep: Any) -> Float[Array, "rows columns 25"]:
        tiles, colours = timestep.observation[..., 0], timestep.observation[..., 1]
        one_hot = [jax.nn.one_hot(tiles, NUM_TILES), jax.nn.one_hot(colours, NUM_COLORS)]
        return jnp.concatenate(one_hot, -1).astype(jnp.float32)

    def reset(key: RandomKey, params: RulesetParams) -> tuple[Float[Array, "rows columns 25"], Any]:
        timestep = inner.reset(inner_params.replace(ruleset=params.ruleset), key)
        return observed(timestep), timestep

    def step(
        key: RandomKey, state: Any, action: Int[Array, ""] | int, params: RulesetParams
    ) -> tuple[Float[Array, "rows columns 25"], Any, Float[Array, ""], Bool[Array, ""]]:
        del key  # this world is deterministic
        timestep = inner.step(inner_params.replace(ruleset=params.ruleset), state, jnp.asarray(action))
        return observed(timestep), timestep, timestep.reward, timestep.discount == 0

    adapted = environment(
        name,
        reset,
        step,
        lambda state, _params: state.state.step_num >= inner_params.max_steps,
        observation_space=Box(0.0, 1.0, (inner_params.view_size, inner_params.view_size, NUM_TILES + NUM_COLORS)),
        action_space=Discrete(inner.num_actions(inner_params)),
        default_params=RulesetParams(jax.tree.map(jnp.asarray, benchmark.get_ruleset(0))),
    )
    return adapted, Partial(_sample_ruleset, benchmark)


def hidden_goal_benchmark(num_rulesets: int, num_objects: int, key: RandomKey) -> Any:
    """Build rulesets in which one of several objects is the goal: to pick it up, or to stand next to it.

    Nothing tells the object, or which of the two goals; there are no rules, and nothing to download.

    Args:
      num_rulesets: number of tasks.
      num_objects: number of objects in each world; their kinds and colours are random, no two alike.
      key: makes the same benchmark each time.

    Returns:
      An `xminigrid.benchmarks.Benchmark`.

    Raises:
      ImportError: if XLand-MiniGrid is not installed.
      ValueError: if a number is not positive, or there are fewer different objects than asked for.

    Example:
      >>> import jax  # doctest: +SKIP
      >>> from jmeta.domains.rl.environments.from_xland_minigrid import hidden_goal_benchmark  # doctest: +SKIP
      >>> hidden_goal_benchmark(100, 3, jax.random.key(0)).num_rulesets()  # doctest: +SKIP
      100
    """
    try:
        from xminigrid.benchmarks import Benchmark  # pyright: ignore[reportMissingImports]
        from xminigrid.core.constants import NUM_COLORS, PICKABLE, Colors  # pyright: ignore[reportMissingImports]
        from xminigrid.core.goals import AgentHoldGoal, AgentNearGoal  # pyright: ignore[reportMissingImports]
        from xminigrid.core.rules import EmptyRule  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(HINT) from error
    check_positive({"num_rulesets": num_rulesets, "num_objects": num_objects})
    colours = range(Colors.EMPTY + 1, NUM_COLORS)
    objects = jnp.asarray([(tile, colour) for tile in np.asarray(PICKABLE) for colour in colours], jnp.uint8)
    if num_objects > len(objects):
        raise ValueError(f"num_objects={num_objects}, but there are {len(objects)} different ones; pass fewer")

    def one_ruleset(key: RandomKey) -> tuple[Array, Array]:
        key_objects, key_goal = jax.random.split(key)
        chosen = jax.random.choice(key_objects, objects, (num_objects,), replace=False)
        to_hold, to_stand_beside = AgentHoldGoal(tile=chosen[0]).encode(), AgentNearGoal(tile=chosen[0]).encode()
        goal = jnp.where(jax.random.bernoulli(key_goal), to_hold, to_stand_beside)
        return goal.astype(jnp.uint8), chosen

    goals, init_tiles = jax.vmap(one_ruleset)(jax.random.split(key, num_rulesets))
    empty = EmptyRule().encode()
    rules = jnp.broadcast_to(empty[None, None], (num_rulesets, 1, *empty.shape)).astype(jnp.uint8)
    return Benchmark(goals=goals, rules=rules, init_tiles=init_tiles, num_rules=jnp.zeros((num_rulesets,), jnp.uint8))


def _sample_ruleset(benchmark: Any, key: RandomKey) -> RulesetParams:
    return RulesetParams(benchmark.sample_ruleset(key))
