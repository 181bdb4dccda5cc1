"""Robots that adapt, to be looked at: a film of one before and after it found out its task, and adaptation in numbers.

Three policies are trained by PPO for equal times on a robot's tasks: one that remembers its episode (RL²), one that
sees only the present observation, and one that is told the task. All are judged on tasks of the ranges that they were
trained on and on tasks outside of these:

  python -m experiments.robot_pictures --robot crawler --minutes 5 --folder runs/robots

leaves `crawler.png`, return against rollouts; `crawler.gif`, the first and the last rollout of one episode of the
policy that remembers, side by side; and `crawler.json`, the numbers.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes

from jmeta import policies
from jmeta.environments import Environment
from jmeta.environments.robots import (
    ANYWHERE,
    DAMAGED,
    DAMAGED_OTHERWISE,
    RIGHT_OR_LEFT,
    Ranges,
    RobotParams,
    arm,
    crawler,
    eel,
)
from jmeta.environments.robots.arm import GOAL_DISTANCE, arm_design
from jmeta.environments.robots.crawler import crawler_design
from jmeta.environments.robots.eel import eel_design
from jmeta.environments.robots.physics import Motion, body, lever, places
from jmeta.environments.robots.robot import Design
from jmeta.policies import Policy
from jmeta.types import PyTree, RandomKey

from .pictures import STYLE
from .robot_policies import FORGETS, REMEMBERS, TASKS_PER_STEP, TOLD, UNTRAINED, policy_of, rewards_of, trained

COLORS = {TOLD: "#2a8f4f", REMEMBERS: "#1f5fa8", FORGETS: "#c8382e", UNTRAINED: "#8fa3b8"}
NUM_STEPS = 50  # of a rollout


class World(NamedTuple):
    """A robot, the ranges it is trained on, and ranges outside of these."""

    make: Callable[..., tuple[Environment, Any]]
    design: Design
    trained: Ranges
    held_out: Ranges
    outside: str
    reward_scale: float


_BODIES = {"mass": (0.7, 1.4), "motor_strength": (0.8, 1.2)}
WORLDS = {
    "crawler": World(
        crawler, crawler_design(), DAMAGED, DAMAGED_OTHERWISE, "heavier, more slippery, a front motor dead", 0.2
    ),
    "arm": World(
        arm,
        arm_design(),
        ANYWHERE._replace(**_BODIES),
        ANYWHERE._replace(mass=(1.4, 1.7), motor_strength=(0.8, 1.2)),
        "heavier",
        0.2,
    ),
    "eel": World(
        eel,
        eel_design(),
        RIGHT_OR_LEFT._replace(**_BODIES, friction=(0.6, 1.4), dead_motor=(-1, 0, 1)),
        RIGHT_OR_LEFT._replace(mass=(1.4, 2.0), friction=(1.4, 2.0), motor_strength=(0.8, 1.2), dead_motor=(2, 3)),
        "heavier, thicker water, a hind motor dead",
        1.0,
    ),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train policies of a robot, and draw how they adapt."""

    robot: Literal["crawler", "arm", "eel"] = "crawler"
    minutes: float = 5.0
    """Of training, for each of the three policies, compiling left out."""
    folder: pathlib.Path = pathlib.Path("runs", "robots")
    """Where pictures are left."""
    num_rollouts: int = 3
    """Rollouts of an episode."""
    num_tasks: int = 400
    """Tasks to judge on."""
    seed: int = 0


# ---- adaptation in numbers


def returns_by_rollout(rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over tasks, and half of 95 % intervals: `[rollouts]` each."""
    returns = rewards.reshape(rewards.shape[0], -1, NUM_STEPS).sum(-1)
    return returns.mean(0), 1.96 * returns.std(0, ddof=1) / math.sqrt(len(returns))


def adaptation_curves(path: pathlib.Path, panels: dict[str, dict[str, np.ndarray]], *, dt: float, title: str) -> None:
    """Return against rollouts above, reward against time below; a column for each range of tasks.

    Args:
      path: of the PNG file.
      panels: by the name of the range and then of the policy, rewards of `[tasks, steps]`.
      dt: length of a step, in s.
      title: of the figure.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, len(panels), figsize=(4.8 * len(panels), 6.0), sharey="row", squeeze=False)
        for column, (name, by_policy) in enumerate(panels.items()):
            for policy, rewards in by_policy.items():
                _curves_of(axes[:, column], policy, rewards, dt)
            num_rollouts = rewards.shape[1] // NUM_STEPS
            axes[0, column].set(xlabel="rollout of the episode", xticks=np.arange(num_rollouts) + 1)
            axes[0, column].set_title(name, loc="left")
            axes[1, column].set(
                xlabel="time in the episode, s (dotted: a new rollout)", xlim=(0, num_rollouts * NUM_STEPS * dt)
            )
            for i in range(1, num_rollouts):
                axes[1, column].axvline(i * NUM_STEPS * dt, color="#b0b0b0", linewidth=0.8, linestyle=":")
        axes[0, 0].set_ylabel(f"return of a rollout of {NUM_STEPS * dt:g} s")
        axes[1, 0].set_ylabel("reward of a step")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.suptitle(f"{title}\nmeans over tasks, with 95 % bands", x=0.01, ha="left", fontsize=10)
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _curves_of(axes: Any, policy: str, rewards: np.ndarray, dt: float) -> None:
    means, half_widths = returns_by_rollout(rewards)
    numbers = np.arange(len(means)) + 1
    axes[0].errorbar(
        numbers, means, half_widths, color=COLORS[policy], marker="o", markersize=4, capsize=3, label=policy
    )
    axes[0].fill_between(
        numbers, means - half_widths, means + half_widths, color=COLORS[policy], alpha=0.2, linewidth=0
    )
    times, mean = (np.arange(rewards.shape[1]) + 0.5) * dt, rewards.mean(0)
    half_width = 1.96 * rewards.std(0, ddof=1) / math.sqrt(len(rewards))
    axes[1].plot(times, mean, color=COLORS[policy], linewidth=1.2)
    axes[1].fill_between(times, mean - half_width, mean + half_width, color=COLORS[policy], alpha=0.2, linewidth=0)


# ---- a film of one episode


class Film(NamedTuple):
    """An episode, step by step; numpy arrays with the steps on the first axis."""

    ends: Any  # [steps, links, 2 ends, 2 numbers], in m
    centre: Any  # [steps, 2], of mass
    reward: Any  # [steps]


def filmed(
    there: Environment, design: Design, policy: Policy, params: PyTree, env_params: RobotParams, num_steps: int
) -> Film:
    """An episode of a policy's most probable actions, with where all links were."""
    levers = np.stack([lever(design.shape, link, at) for link in range(len(design.shape.lengths)) for at in (0.0, 1.0)])
    solid = body(design.shape, env_params.mass, levers)

    def seen(motion: Motion) -> tuple[jax.Array, jax.Array]:
        ends = places(solid, motion, solid.levers).reshape(-1, 2, 2)
        return ends, jnp.zeros(2) if design.shape.is_anchored else motion.position[:2]

    def one_step(carry: Any, key: RandomKey) -> tuple[Any, Film]:
        memory, state, inputs = carry
        memory, decision = policy.step(params, memory, inputs, key)
        action = decision.distribution.mode()
        ends, centre = seen(state.motion)
        observation, state, reward, terminated, truncated, _ = there.step(key, state, action, env_params)
        after = policies.StepInput(observation, action, reward, terminated | truncated)
        return (memory, state, after), Film(ends, centre, reward)

    def film(key: RandomKey) -> Film:
        key_reset, key_start, key_steps = jax.random.split(key, 3)
        observation, state = there.reset(key_reset, env_params)
        inputs = policies.first_input(observation, there.action_space(env_params))
        start = (policy.start(params, key_start), state, inputs)
        return jax.lax.scan(one_step, start, jax.random.split(key_steps, num_steps))[1]

    return jax.tree.map(np.asarray, jax.jit(film)(jax.random.key(7)))


def animate(path: pathlib.Path, film: Film, design: Design, params: RobotParams, *, num_rollouts: int) -> None:
    """The first and the last rollout of an episode, side by side, as an animated GIF at true speed."""
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
    """What stands still, and what will move: links, the trace, the text."""
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
        is_right = goal > 0 if design.gravity > 0 else math.cos(goal) > 0
        arrow = {"arrowstyle": "-|>", "color": "#2a8f4f", "linewidth": 2.5}
        tip, tail = (0.98, 0.82) if is_right else (0.82, 0.98)
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
    """The task in two lines of words."""
    goal = float(params.goal)
    if design.shape.is_anchored:
        aim = f"reach a place at {math.degrees(goal):.0f}°, hidden from the policy"
    else:
        aim = "go right" if (goal if design.gravity > 0 else math.cos(goal)) > 0 else "go left"
        aim += ", which the policy is not told"
    dead = np.flatnonzero(np.asarray(params.motor_strength) == 0)
    masses, strengths = (" ".join(f"{float(x):.1f}" for x in each) for each in (params.mass, params.motor_strength))
    body_of = f"masses ×({masses})   friction {float(params.friction):.2f}   motor strengths ×({strengths})"
    return f"{design.name}: {aim}{f'; motor {dead[0]} is dead (red)' if len(dead) else ''}\n{body_of}"


def interesting(sample: Any, key: RandomKey) -> RobotParams:
    """A task to be shown: with a dead motor, if tasks have any, and a goal that is not straight ahead or below."""
    for each in jax.random.split(key, 100):
        params = sample(each)
        shows_damage = bool((params.motor_strength == 0).any()) or not any(
            motor >= 0 for motor in sample.func.ranges.dead_motor
        )
        is_behind = float(params.goal) < 0 or math.cos(float(params.goal)) < 0
        if shows_damage and is_behind and math.sin(float(params.goal)) > -0.9:
            return params
    return sample(key)


def main(options: Options) -> None:
    """Train, judge, draw."""
    world, num_steps = WORLDS[options.robot], NUM_STEPS * options.num_rollouts
    options.folder.mkdir(parents=True, exist_ok=True)
    environment, sample = world.make(world.trained, num_steps=NUM_STEPS)
    samples = {"ranges trained on": sample, f"outside: {world.outside}": world.make(world.held_out)[1]}
    panels: dict[str, dict[str, np.ndarray]] = {name: {} for name in samples}
    for kind in COLORS:
        (there, policy), params = policy_of(kind, environment), None
        if kind != UNTRAINED:
            params, count = trained(
                there,
                policy,
                sample,
                num_steps=num_steps,
                minutes=options.minutes,
                reward_scale=world.reward_scale,
                seed=options.seed,
            )
            print(f"{options.robot}, a policy that {kind}: {count} meta-steps of {TASKS_PER_STEP} episodes", flush=True)
        for name, each in samples.items():
            panels[name][kind] = rewards_of(
                there, policy, params, each, num_steps=num_steps, num_tasks=options.num_tasks, seed=options.seed + 1000
            )
        if kind == REMEMBERS:
            task = interesting(sample, jax.random.key(options.seed))
            film = filmed(there, world.design, policy, params, task, num_steps)
            path = options.folder / f"{options.robot}.gif"
            animate(path, film, world.design, task, num_rollouts=options.num_rollouts)
    title = f"{options.robot}: policies trained for {options.minutes:g} minutes each"
    adaptation_curves(options.folder / f"{options.robot}.png", panels, dt=world.design.dt, title=title)
    numbers = {
        name: {kind: [each.tolist() for each in returns_by_rollout(rewards)] for kind, rewards in by_policy.items()}
        for name, by_policy in panels.items()
    }
    (options.folder / f"{options.robot}.json").write_text(json.dumps(numbers, indent=1))
    for name, by_policy in numbers.items():
        for kind, (means, half_widths) in by_policy.items():
            row = "  ".join(f"{mean:7.2f} ± {half:.2f}" for mean, half in zip(means, half_widths, strict=True))
            print(f"{name:50s} {kind:18s} {row}")


if __name__ == "__main__":
    main(tyro.cli(Options))
