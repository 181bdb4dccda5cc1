"""MAML for reinforcement learning on a robot."""

from dataclasses import dataclass

from .parts import MamlRl, Mlp, Robot, Testing, Training


@dataclass(frozen=True)
class RobotMaml:
    """MAML with policy gradients on the crawler: 20 rollouts a gradient step.

    Paper:    Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400, section 5.3; the robot is
              this project's own.
    Command:  python -m experiments.train robot_maml
    Time:     about 15 minutes on one CPU core.
    Expected: returns of -4, 23, 29 and 32 after 0 to 3 gradient steps with bodies unlike those of training, and 77
              after one with bodies from the ranges of training (`--tested-on trained` of `experiments.evaluate`).
    """

    data: Robot = Robot("crawler", num_rollouts=1)
    model: Mlp = Mlp(hidden=(64, 64))
    method: MamlRl = MamlRl(
        num_steps=1,
        inner_lr=0.1,
        later_inner_lr=0.05,
        surrogate="likelihood_ratio",
        num_rollouts=20,
        horizon=50,
        discount=0.98,
        gae_lambda=0.97,
        initial_log_std=-0.5,
    )
    training: Training = Training(
        num_steps=400,
        tasks_per_step=20,
        steps_per_dispatch=5,
        evaluate_every=50,
        num_valid_tasks=100,
    )
    testing: Testing = Testing(num_tasks=1000, tasks_at_once=20)


RECIPE = RobotMaml()
