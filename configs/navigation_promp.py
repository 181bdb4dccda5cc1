"""ProMP on point navigation."""

from dataclasses import dataclass

from .parts import MamlRl, Mlp, Navigation, Testing, Training


@dataclass(frozen=True)
class NavigationPromp:
    """ProMP on dense point navigation: `navigation_maml` with a surrogate of low variance within and PPO without.

    Paper:    Rothfuss, Lee, Clavera, Asfour, Abbeel, "ProMP", 2019, arXiv:1810.06784; settings of its appendix.
    Command:  python -m experiments.train navigation_promp
    Time:     about 5 minutes on one CPU core.
    Expected: mean returns of -39.5, -12.2, -7.7 and -6.7 after 0 to 3 gradient steps; with two inner steps in training,
              of 0.3 and 0.1, in place of one, -38.9, -12.4, -4.1 and -4.0 (the command is in RESULTS.md).
    """

    data: Navigation = Navigation("dense", num_rollouts=1)
    model: Mlp = Mlp(hidden=(100, 100))
    method: MamlRl = MamlRl(
        num_steps=1,
        inner_lr=0.1,
        later_inner_lr=0.02,
        surrogate="likelihood_ratio",
        outer="ppo",
        clip=0.3,
        num_epochs=5,
        kl_weight=5e-4,
    )
    training: Training = Training(
        num_steps=500,
        tasks_per_step=20,
        steps_per_dispatch=10,
        evaluate_every=50,
        num_valid_tasks=100,
        lr=1e-3,
    )
    testing: Testing = Testing(num_tasks=1000, tasks_at_once=20)


RECIPE = NavigationPromp()
