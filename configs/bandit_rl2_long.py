"""RL² on Bernoulli bandits with many pulls."""

from dataclasses import dataclass

from .parts import Bandit, Recurrent, Rl2, Testing, Training


@dataclass(frozen=True)
class BanditRl2Long:
    """RL² on Bernoulli bandits with 100 pulls.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779, table 1.
    Command:  python -m experiments.train bandit_rl2_long --data.num-arms 5
    Time:     about 10 minutes on one CPU core, and no less on two.
    Expected: a total reward of 78.0 with 5 arms and, with 8000 steps and λ = 0.8, 82.8 with 10 (the paper, with a GRU
              of 256: 78.7 and 83.5).

    Differs from the paper: PPO in place of TRPO, a GRU of 64 whose units begin with memories of 1 to 50 steps, and the
    critic is a head of the same network. Two things decide whether 100 pulls are learned from at all: those memories,
    and rewards scaled so that the critic's guesses are near 1.
    """

    data: Bandit = Bandit(num_arms=5, num_pulls=100)
    model: Recurrent = Recurrent("gru", width=64, max_span=50)
    method: Rl2 = Rl2(
        entropy_weight=0.05, entropy_schedule="linear", gae_lambda=0.7, reward_scale=0.1, num_minibatches=4
    )
    training: Training = Training(
        num_steps=4000,
        tasks_per_step=512,
        steps_per_dispatch=20,
        evaluate_every=200,
        num_valid_tasks=2000,
        lr=2e-3,
        schedule="linear",
        clip_norm=1.0,
    )
    testing: Testing = Testing(num_tasks=100_000, tasks_at_once=500)


RECIPE = BanditRl2Long()
