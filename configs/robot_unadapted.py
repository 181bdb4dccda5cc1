"""A robot's policy that adapts to nothing: one for all tasks, to see what adapting is worth."""

from dataclasses import dataclass

from .parts import Forgetful, Rl2, Robot, Testing, Training


@dataclass(frozen=True)
class RobotUnadapted:
    """PPO on the crawler's tasks with a policy of the present observation alone.

    Paper:    Schulman et al., "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347.
    Command:  python -m experiments.train robot_unadapted
    Time:     about 4 minutes on one CPU core.
    Expected: a return of 0, since it cannot know which way to go.
    """

    data: Robot = Robot("crawler", num_rollouts=3)
    model: Forgetful = Forgetful(hidden=(64, 64))
    method: Rl2 = Rl2(
        discount=0.98, gae_lambda=0.95, reward_scale=0.2, entropy_weight=0.0, num_epochs=4, initial_log_std=-0.5
    )
    training: Training = Training(
        num_steps=1000,
        tasks_per_step=100,
        steps_per_dispatch=10,
        evaluate_every=100,
        num_valid_tasks=400,
        lr=1e-3,
        schedule="linear",
        clip_norm=0.5,
    )
    testing: Testing = Testing(num_tasks=1000, tasks_at_once=100)


RECIPE = RobotUnadapted()
