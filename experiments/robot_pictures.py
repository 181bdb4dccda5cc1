"""Pictures of robots that adapt: curves of return against rollouts, and a film of an episode."""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes

from jmeta.domains.rl import policies
from jmeta.domains.rl.environments import Environment
from jmeta.domains.rl.environments.robots import RobotParams
from jmeta.domains.rl.environments.robots.arm import GOAL_DISTANCE
from jmeta.domains.rl.environments.robots.physics import Motion, body, lever, places
from jmeta.domains.rl.environments.robots.robot import Design
from jmeta.domains.rl.environments.robots.splits import NUM_STEPS
from jmeta.domains.rl.policies import Policy
from jmeta.runs.pictures import STYLE
from jmeta.types import PyTree, RandomKey

COLORS = ("#1f5fa8", "#2a8f4f", "#c8382e", "#8fa3b8", "#c8a13a")


class Curve(NamedTuple):
    """The return of a rollout against the number of earlier rollouts in the same new body.

    Attributes:
      rollouts: numbers of earlier rollouts, `[points]`.
      mean, half_width: mean return after that many rollouts, and half of its 95 % interval, `[points]` each.
    """

    rollouts: list[int]
    mean: list[float]
    half_width: list[float]


def adaptation_curves(path: pathlib.Path, curves: dict[str, Curve], *, title: str) -> None:
    """Draw all curves in one panel, with a logarithmic scale of rollouts that begins at 0.

    Args:
      path: the PNG file to write.
      curves: one curve for each method, by name.
      title: title of the figure.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
            low, high = (np.asarray(curve.mean) + side * np.asarray(curve.half_width) for side in (-1, 1))
            axis.plot(curve.rollouts, curve.mean, color=color, marker="o", markersize=4, label=name)
            axis.fill_between(curve.rollouts, low, high, color=color, alpha=0.2, linewidth=0)
        axis.set_xscale("symlog", linthresh=1)
        most = max(max(curve.rollouts) for curve in curves.values())
        ticks = [0, 1, *(n * 10**power for power in range(5) for n in (2, 5, 10) if n * 10**power <= most)]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xlim(-0.15, 1.2 * most)
        axis.set(xlabel="rollouts in the new body before this one", ylabel=f"return of a rollout of {NUM_STEPS} steps")
        axis.legend(loc="best")
        figure.suptitle(f"{title}\nmeans over tasks, with 95 % bands", x=0.01, ha="left", fontsize=10)
        figure.savefig(path, dpi=130, facecolor="white")
        plt.close(figure)


class Film(NamedTuple):
    """An episode, step by step; numpy arrays with the steps on the first axis."""

    ends: Any  # [steps, links, 2 ends, 2 numbers], in m
    centre: Any  # [steps, 2], centre of mass
    reward: Any  # [steps]


def filmed(
    there: Environment, design: Design, policy: Policy, params: PyTree, env_params: RobotParams, num_steps: int
) -> Film:
    """Run one episode of a policy's most probable actions and record the places of all links."""
    levers = np.stack([lever(design.shape, link, at) for link in range(len(design.shape.lengths)) for at in (0.0, 1.0)])
    solid = body(design.shape, env_params.mass, levers)

    def seen(motion: Motion) -> tuple[jax.Array, jax.Array]:
        ends = places(solid, motion, solid.levers).reshape(-1, 2, 2)
        return ends, jnp.zeros(2) if design.shape.is_anchored else motion.position[:2]

    def one_step(carry: Any, key: RandomKey) -> tuple[Any, Film]:
        memory, state, inputs = carry
        key_policy, key_step = jax.random.split(key)
        memory, decision = policy.step(params, memory, inputs, key_policy)
        action = decision.distribution.mode()
        ends, centre = seen(state.motion)
        observation, state, reward, terminated, truncated, _ = there.step(key_step, state, action, env_params)
        after = policies.PolicyInput(observation, action, reward, terminated | truncated)
        return (memory, state, after), Film(ends, centre, reward)

    def film(key: RandomKey) -> Film:
        key_reset, key_start, key_steps = jax.random.split(key, 3)
        observation, state = there.reset(key_reset, env_params)
        inputs = policies.first_input(observation, there.action_space(env_params))
        start = (policy.start(params, key_start), state, inputs)
        return jax.lax.scan(one_step, start, jax.random.split(key_steps, num_steps))[1]

    return jax.tree.map(np.asarray, jax.jit(film)(jax.random.key(7)))


def animate(path: pathlib.Path, film: Film, design: Design, params: RobotParams, *, num_rollouts: int) -> None:
    """Write the first and the last rollout of an episode, side by side, as an animated GIF at true speed."""
    shown = {"rollout 1: the task is unknown": 0, f"rollout {num_rollouts}: after adapting": num_rollouts - 1}
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.9))
        figure.subplots_adjust(left=0.02, right=0.98, top=0.77, bottom=0.06, wspace=0.04)
        figure.text(0.02, 0.97, described(design, params), ha="left", va="top", fontsize=9, linespacing=1.5)
        artists = []
        for axis, (title, number) in zip(axes, shown.items(), strict=True):
            part = Film(*[each[number * NUM_STEPS : (number + 1) * NUM_STEPS] for each in film])
            axis.set_title(title, loc="left")
            artists.append((axis, part, *_scene(axis, design, params, part)))

        def draw(frame: int) -> list[Any]:
            for axis, part, links, trace, text in artists:
                for line, ends in zip(links, part.ends[frame], strict=True):
                    line.set_data(ends[:, 0], ends[:, 1])
                path_so_far = part.ends[: frame + 1, -1, 1] if design.shape.is_anchored else part.centre[: frame + 1]
                trace.set_data(path_so_far[:, 0], path_so_far[:, 1])
                _follow(axis, design, part.centre[frame])
                text.set_text(_running(design, part, frame))
            return []

        fps = round(1 / design.dt)
        FuncAnimation(figure, draw, frames=NUM_STEPS).save(path, writer=PillowWriter(fps=fps), dpi=90)
        plt.close(figure)


def _scene(axis: Axes, design: Design, params: RobotParams, part: Film) -> tuple[list[Any], Any, Any]:
    """Draw the fixed part of a scene, and return the artists that move: links, the trace, the text."""
    axis.set(aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    goal = float(params.goal)
    if design.shape.is_anchored:
        axis.plot(GOAL_DISTANCE * math.cos(goal), GOAL_DISTANCE * math.sin(goal), "o", color="#2a8f4f", markersize=14,
                  alpha=0.6)  # fmt: skip
        axis.plot(0, 0, "s", color="#404040", markersize=8)
    else:
        ways = part.centre[:, 0]
        marks = np.arange(math.floor(ways.min()) - 3, math.ceil(ways.max()) + 4)
        if design.gravity > 0:
            axis.axhspan(-1.0, 0.0, color="#d9d2c5", linewidth=0)
        for mark in marks:
            axis.plot([mark] * 2, [-0.12, 0.0] if design.gravity > 0 else [-2, 2], color="#a89f8e", linewidth=0.8)
            axis.text(mark, -0.14 if design.gravity > 0 else -0.58, f"{mark} m", ha="center", va="top", fontsize=7,
                      color="#807868", clip_on=True)  # fmt: skip
        arrow = {"arrowstyle": "-|>", "color": "#2a8f4f", "linewidth": 2.5}
        tip, tail = (0.98, 0.82) if _is_right(design, goal) else (0.82, 0.98)
        axis.annotate("", xy=(tip, 0.93), xytext=(tail, 0.93), xycoords="axes fraction", arrowprops=arrow)
        axis.text(0.8, 0.93, "goal", transform=axis.transAxes, color="#2a8f4f", va="center", ha="right")
    trace = axis.plot([], [], color="#c8a13a", linewidth=1.2, alpha=0.9)[0]
    moved = design.shape.hinges.argmax(1)  # the link beyond each hinge
    dead = {int(moved[motor]) for motor in np.flatnonzero(np.asarray(params.motor_strength) == 0)}
    links = []
    for link in range(len(design.shape.lengths)):
        width = 5 + 2.5 * float(params.mass[link])
        color = "#c8382e" if link in dead else ("#1f5fa8" if link % 2 == 0 else "#5b8fc4")
        links.append(axis.plot([], [], color=color, linewidth=width, solid_capstyle="round")[0])
    text = axis.text(0.01, 0.97, "", transform=axis.transAxes, va="top", fontsize=9, family="monospace")
    return links, trace, text


def _follow(axis: Axes, design: Design, centre: np.ndarray) -> None:
    if design.shape.is_anchored:
        axis.set(xlim=(-1.9, 1.9), ylim=(-1.05, 1.15))
    elif design.gravity > 0:
        axis.set(xlim=(centre[0] - 1.6, centre[0] + 1.6), ylim=(-0.35, 1.5))
    else:
        axis.set(xlim=(centre[0] - 1.3, centre[0] + 1.3), ylim=(-0.65, 0.85))


def _running(design: Design, part: Film, frame: int) -> str:
    total = part.reward[: frame + 1].sum()
    if design.shape.is_anchored:
        away = f"from goal {-part.reward[frame]:+5.2f} m"
    else:
        before = max(frame - 4, 0)
        speed = (part.centre[frame, 0] - part.centre[before, 0]) / (max(frame - before, 1) * design.dt)
        away = f"velocity {speed:+6.2f} m/s"
    return f"{frame * design.dt:4.2f} s   {away}\nreturn   {total:+6.1f}"


def described(design: Design, params: RobotParams) -> str:
    """Describe a task in two lines of text."""
    goal = float(params.goal)
    if design.shape.is_anchored:
        aim = f"reach a place at {math.degrees(goal):.0f}°, hidden from the policy"
    else:
        aim = "go right" if _is_right(design, goal) else "go left"
        aim += ", which the policy does not know"
    dead = np.flatnonzero(np.asarray(params.motor_strength) == 0)
    masses, strengths = (" ".join(f"{float(x):.1f}" for x in each) for each in (params.mass, params.motor_strength))
    body_of = f"masses ×({masses})   friction {float(params.friction):.2f}   motor strengths ×({strengths})"
    return f"{design.name}: {aim}{f'; motor {dead[0]} is dead (red)' if len(dead) else ''}\n{body_of}"


def interesting(design: Design, sample: Any, key: RandomKey) -> RobotParams:
    """Choose a task to show: a goal to the left, where no robot goes untrained, and a dead motor if tasks have any.

    Raises:
      ValueError: if none of a hundred tasks has such a goal.
    """
    drawn = [sample(each) for each in jax.random.split(key, 100)]
    leftwards = [params for params in drawn if not _is_right(design, float(params.goal))]
    if not leftwards:
        raise ValueError(f"no task of 100 of the {design.name} has a goal to the left; draw from other ranges")
    damaged = [params for params in leftwards if bool((params.motor_strength == 0).any())]
    return (damaged or leftwards)[0]


def _is_right(design: Design, goal: float) -> bool:
    """Return whether a goal, a velocity for robots on the ground and else an angle, is to the right."""
    is_on_ground = design.gravity > 0 and not design.shape.is_anchored
    return (goal if is_on_ground else math.cos(goal)) > 0
