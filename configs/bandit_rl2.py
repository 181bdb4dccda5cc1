"""RL² on Bernoulli bandits."""

from dataclasses import dataclass

from .parts import Bandit, Recurrent, Rl2, Testing, Training


@dataclass(frozen=True)
class BanditRl2:
    """RL² on five-armed Bernoulli bandits with 10 pulls.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779, table 1.
    Command:  python -m experiments.train bandit_rl2
    Time:     about 4 minutes on 2 CPU cores.
    Expected: a total reward within 0.02 of 6.660, what the Bayes-optimal policy gets (the paper: 6.7).

    Differs from the paper: PPO in place of TRPO, a GRU of 64, and the critic is a head of the same network.
    """

    data: Bandit = Bandit(num_arms=5, num_pulls=10)
    model: Recurrent = Recurrent("gru", width=64)
    method: Rl2 = Rl2(entropy_weight=0.03)
    training: Training = Training(
        num_steps=10_000,
        tasks_per_step=512,
        steps_per_dispatch=100,
        evaluate_every=1000,
        num_valid_tasks=20_000,
        lr=3e-3,
        schedule="linear",
        clip_norm=1.0,
    )
    testing: Testing = Testing(num_tasks=100_000, tasks_at_once=500)


RECIPE = BanditRl2()
