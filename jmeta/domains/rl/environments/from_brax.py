"""Full robots in JAX, through Brax: a task is a body, its masses, its grip on the ground and its motors' strengths.

The robots of `jmeta.domains.rl.environments.robots` are lighter; the benchmark of physics says by how much.
"""

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jmeta.tasks.class_arrays import check_positive
from jmeta.types import RandomKey

from .environment import Environment, environment
from .spaces import Box

__all__ = ["BACKENDS", "BodyParams", "BraxState", "from_brax"]

BACKENDS = ("generalized", "positional", "spring")


class BodyParams(NamedTuple):
    """A task; all values are multiples of those in Brax's file of the robot.

    Attributes:
      mass: mass of each link; its moments of inertia grow with it.
      friction: friction of all contacts.
      motor_strength: strength of each motor's torque; 0 is a dead motor.
    """

    mass: Float[Array, " links"]
    friction: Float[Array, ""]
    motor_strength: Float[Array, " motors"]


class BraxState(NamedTuple):
    """The state of a rollout.

    Attributes:
      robot: Brax's state, with the observation and the reward.
      time: steps since the rollout's start.
    """

    robot: Any
    time: Int[Array, ""]


def from_brax(
    name: str,
    *,
    backend: str = "generalized",
    num_steps: int = 1000,
    mass: tuple[float, float] = (0.7, 1.4),
    friction: tuple[float, float] = (0.7, 1.4),
    motor_strength: tuple[float, float] = (0.7, 1.4),
) -> tuple[Environment, Partial]:
    """Adapt an environment of Brax; its robot has another body in each task.

    Args:
      name: name in Brax, such as `"ant"` or `"walker2d"`.
      backend: Brax's physics: "generalized", "positional" or "spring", from exact to fast. Its fourth, MJX, keeps
        bodies elsewhere and is not adapted.
      num_steps: time limit of a rollout.
      mass, friction, motor_strength: bounds of the uniform distributions that bodies are drawn from; each link and
        motor has its own value.

    Returns:
      `(environment, sample)`, with `sample(key) -> BodyParams`. Observations, rewards and ends are Brax's; actions are
      in [-1, 1].

    Raises:
      ImportError: if Brax is not installed.
      ValueError: if Brax has no such environment or backend, a range is empty or negative, `num_steps` is not positive,
        or masses are to differ where the physics leaves them out: Brax's springs of some robots, such as its ant.

    Example:
      >>> import jax  # doctest: +SKIP
      >>> from jmeta.domains.rl.environments.from_brax import from_brax  # doctest: +SKIP
      >>> ant, sample = from_brax("ant")  # doctest: +SKIP
      >>> observation, state = ant.reset(jax.random.key(0), sample(jax.random.key(1)))  # doctest: +SKIP
      >>> observation.shape, ant.action_space(None).shape  # doctest: +SKIP
      ((27,), (8,))

    Reference:
      Freeman, Frey, Raichuk, Girgin, Mordatch, Bachem, "Brax: A Differentiable Physics Engine for Large Scale Rigid
      Body Simulation", 2021, arXiv:2106.13281.
    """
    try:
        from brax import envs  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('from_brax needs Brax; install it with `pip install "jmeta[brax]"`') from error
    check_positive({"num_steps": num_steps})
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}; expected one of {', '.join(BACKENDS)}")
    names = sorted(set(envs._envs) - {"fast"})  # "fast" has no robot: it is for timing
    if name not in names:
        raise ValueError(f"name={name!r} is none of Brax's environments: {', '.join(names)}")
    for what, (low, high) in {"mass": mass, "friction": friction, "motor_strength": motor_strength}.items():
        if not 0 <= low <= high:
            raise ValueError(f"{what}={(low, high)}; expected multiples (lowest, highest), neither negative")
    if mass[0] == 0:
        raise ValueError(f"mass={mass}; a body without mass cannot be moved, expected positive multiples")
    inner: Any = envs.get_environment(name, backend=backend)
    if backend != "generalized" and mass != (1.0, 1.0) and float(inner.sys.spring_mass_scale) == 1:
        raise ValueError(f"mass={mass}, but {name!r} moves as if all masses were 1 under {backend!r}; pass mass=(1, 1)")

    def reset(key: RandomKey, params: BodyParams) -> tuple[Float[Array, " features"], BraxState]:
        robot = _with_body(inner, params).reset(key)
        return robot.obs, BraxState(robot, jnp.zeros((), jnp.int32))

    def step(
        key: RandomKey, state: BraxState, action: Float[Array, " motors"], params: BodyParams
    ) -> tuple[Float[Array, " features"], BraxState, Float[Array, ""], Array]:
        del key
        robot = _with_body(inner, params).step(state.robot, jnp.clip(action, -1, 1))
        return robot.obs, BraxState(robot, state.time + 1), robot.reward, robot.done > 0

    num_links, num_motors = inner.sys.link.inertia.mass.shape[0], inner.action_size
    adapted = environment(
        name,
        reset,
        step,
        lambda state, _params: state.time >= num_steps,
        observation_space=Box(-jnp.inf, jnp.inf, (inner.observation_size,)),
        action_space=Box(-1.0, 1.0, (num_motors,)),
        default_params=BodyParams(jnp.ones((num_links,)), jnp.ones(()), jnp.ones((num_motors,))),
    )
    return adapted, Partial(_UniformBodies(num_links, num_motors, mass, friction, motor_strength))


def _with_body(inner: Any, params: BodyParams) -> Any:
    """Return a shallow copy of Brax's environment whose robot has this body."""
    system = inner.sys
    inertia = system.link.inertia
    inertia = inertia.replace(mass=inertia.mass * params.mass, i=inertia.i * params.mass[:, None, None])
    env = copy.copy(inner)
    env.sys = system.replace(
        link=system.link.replace(inertia=inertia),
        geom_friction=system.geom_friction * params.friction,
        actuator=system.actuator.replace(gear=system.actuator.gear * params.motor_strength),
    )
    return env


@dataclass(frozen=True)
class _UniformBodies:
    num_links: int
    num_motors: int
    mass: tuple[float, float]
    friction: tuple[float, float]
    motor_strength: tuple[float, float]

    def __call__(self, key: RandomKey) -> BodyParams:
        key_mass, key_friction, key_motors = jax.random.split(key, 3)
        uniform = lambda key, shape, low, high: jax.random.uniform(key, shape, jnp.float32, low, high)  # noqa: E731
        return BodyParams(
            uniform(key_mass, (self.num_links,), *self.mass),
            uniform(key_friction, (), *self.friction),
            uniform(key_motors, (self.num_motors,), *self.motor_strength),
        )
