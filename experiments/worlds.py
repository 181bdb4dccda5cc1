"""Environments of recipes: what acts in them, how long an episode is, and which tasks are drawn for what."""

from typing import Any, NamedTuple

from configs import parts
from jmeta.domains.rl import environments
from jmeta.domains.rl.environments import Environment

from . import robots
from .sources import Source


class World(NamedTuple):
    """Environments of one kind, and how long an episode in them is.

    Attributes:
      environment: its parameters are the task.
      sample: `key -> env_params`.
      sample_test: the same for tasks of meta_test.
      num_steps: of an episode.
      num_rollouts: of an episode, if its rollouts are judged one by one, and else 0.
      name: in words.
      tested_on: likewise, how tasks of meta_test differ from those; nothing if they do not.
    """

    environment: Environment
    sample: Any
    sample_test: Any
    num_steps: int
    num_rollouts: int
    name: str
    tested_on: str = ""


def world(data: parts.Environments) -> World:
    """The environments of a recipe."""
    match data:
        case parts.Bandit(num_arms, num_pulls, kind):
            make = environments.bernoulli_bandit if kind == "bernoulli" else environments.gaussian_bandit
            environment, sample = make(num_arms)
            name = f"{kind} bandit, {num_arms} arms, {num_pulls} pulls"
            return World(environment, sample, sample, num_pulls, 0, name)
        case parts.TabularMdp(num_rollouts, num_states, num_actions, horizon, observes_transitions):
            environment, sample = environments.tabular_mdp(
                num_states=num_states, num_actions=num_actions, horizon=horizon
            )
            if observes_transitions:
                environment = environments.with_previous_observation(environment)
            name = (
                f"tabular MDP, {num_states} states, {num_actions} actions, {num_rollouts} rollouts of {horizon} steps"
            )
            return World(environment, sample, sample, num_rollouts * horizon, num_rollouts, name)
        case parts.Navigation(reward, num_rollouts, horizon, ends_at_goal):
            if reward == "dense":
                horizon = horizon or 100
                goal_radius = 0.01 if ends_at_goal else 0.0
                environment, sample = environments.point_navigation(num_steps=horizon, goal_radius=goal_radius)
            else:
                horizon = horizon or 20
                environment, sample = environments.sparse_point_navigation(num_steps=horizon)
            environment = environments.scaled_actions(environment)
            name = f"{reward} point navigation, {num_rollouts} rollouts of {horizon} steps"
            return World(environment, sample, sample, num_rollouts * horizon, num_rollouts, name)
        case parts.Robot(robot_name, num_rollouts, tested_on):
            robot = robots.ROBOTS[robot_name]
            environment, sample = robot.make(robot.trained, num_steps=robots.NUM_STEPS)
            is_outside = tested_on == "held_out"
            sample_test = robot.make(robot.held_out, num_steps=robots.NUM_STEPS)[1] if is_outside else sample
            other = f", bodies outside of training's ranges ({robot.outside})" if is_outside else ""
            name = f"{robot_name}, {num_rollouts} rollouts of {robots.NUM_STEPS} steps"
            return World(environment, sample, sample_test, num_rollouts * robots.NUM_STEPS, num_rollouts, name, other)


def source_of(there: World, testing: parts.Testing, part: parts.Training) -> Source:
    """Tasks of environments; they have no data, so those of testing are others than those of training by their keys."""
    num_tasks = 1000 if testing.num_tasks is None else testing.num_tasks
    return Source(
        there.sample,
        there.sample,
        there.sample_test,
        name=there.name,
        protocol=f"{there.name}{there.tested_on}, {num_tasks} tasks",
        valid_protocol=f"{there.name}, {part.num_valid_tasks} tasks, of meta_valid",
        num_test_tasks=num_tasks,
        split_hash=None,
        train_ways=0,
        test_ways=0,
        test_steps=None,
    )
