"""RL² on point navigation, three rollouts an episode."""

from dataclasses import dataclass

from .parts import Navigation, Recurrent, Rl2, Testing, Training


@dataclass(frozen=True)
class NavigationRl2:
    """RL² on dense point navigation; `navigation_varibad` is the same with VariBAD in its place.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779; the problem is from the MAML paper, in shorter rollouts.
    Command:  python -m experiments.train navigation_rl2
    Time:     about a minute on one CPU core.
    Expected: returns of -3.1, -0.8 and -0.8 in the three rollouts; standing still has -7.7.

    Rewards are scaled so that the critic's guesses are near 1: with rewards as they are, nothing is learned.
    """

    data: Navigation = Navigation("dense", num_rollouts=3, horizon=20, ends_at_goal=False)
    model: Recurrent = Recurrent("gru", width=64, max_span=30)
    method: Rl2 = Rl2(discount=0.97, gae_lambda=0.9, entropy_weight=0.0, num_epochs=4, reward_scale=0.1)
    training: Training = Training(
        num_steps=800,
        tasks_per_step=64,
        steps_per_dispatch=10,
        evaluate_every=100,
        num_valid_tasks=500,
        lr=3e-3,
        schedule="linear",
        clip_norm=1.0,
    )
    testing: Testing = Testing(num_tasks=10_000, tasks_at_once=100)


RECIPE = NavigationRl2()
