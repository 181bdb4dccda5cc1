"""MAML for reinforcement learning on point navigation, the paper's first such experiment."""

from dataclasses import dataclass

from .parts import MamlRl, Mlp, Navigation, Testing, Training


@dataclass(frozen=True)
class NavigationMaml:
    """MAML with policy gradients on dense point navigation.

    Paper:    Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400, section 5.3.
    Command:  python -m experiments.train navigation_maml
    Time:     about 10 minutes on 2 CPU cores.
    Expected: mean return of -39.0 and -12.7 after 0 and 1 gradient steps (the paper: -40.4 and -11.7). At the second
              step a few tasks run away and rule the mean (the paper: -3.3); half of the tasks are above -6.8.

    Inner REINFORCE at a rate of 0.1, and 0.05 from the second step on; outer TRPO; linear feature baseline; 20 rollouts
    a gradient, 20 tasks. Models are chosen by their return after one step, as they are trained.
    """

    data: Navigation = Navigation("dense", num_rollouts=1)
    model: Mlp = Mlp(hidden=(100, 100))
    method: MamlRl = MamlRl(num_steps=1, inner_lr=0.1, later_inner_lr=0.05)
    training: Training = Training(
        num_steps=500,
        tasks_per_step=20,
        steps_per_dispatch=10,
        evaluate_every=50,
        num_valid_tasks=100,
    )
    testing: Testing = Testing(num_tasks=1000, tasks_at_once=20)


RECIPE = NavigationMaml()
