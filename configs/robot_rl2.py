"""RL² on a robot that has to find out where to go and what is wrong with it."""

from dataclasses import dataclass

from .parts import Recurrent, Rl2, Robot, Testing, Training


@dataclass(frozen=True)
class RobotRl2:
    """RL² on the crawler: three rollouts to find out which way to go, with a body that may be damaged.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779; the robot is this project's own.
    Command:  python -m experiments.train robot_rl2
    Time:     about 5 minutes on one CPU core.
    Expected: returns of 16.5, 18.7 and 18.9 in the three rollouts with bodies unlike those of training, where a policy
              that does not adapt has 0; and of 91, 106 and 104 with bodies from the ranges of training (`--tested-on
              trained` of `experiments.evaluate`).
    """

    data: Robot = Robot("crawler", num_rollouts=3)
    model: Recurrent = Recurrent("gru", width=64)
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


RECIPE = RobotRl2()
