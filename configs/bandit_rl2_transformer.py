"""RL² with a causal transformer on Bernoulli bandits."""

from dataclasses import dataclass

from .parts import Bandit, Rl2, Testing, Training, Transformer


@dataclass(frozen=True)
class BanditRl2Transformer:
    """RL² on five-armed Bernoulli bandits with 10 pulls, remembering by attention to all earlier pulls.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779, table 1, where the network is a GRU.
    Command:  python -m experiments.train bandit_rl2_transformer
    Time:     about 4 minutes on one CPU core.
    Expected: a total reward of 6.64; the Bayes-optimal policy gets 6.66.
    """

    data: Bandit = Bandit(num_arms=5, num_pulls=10)
    model: Transformer = Transformer(width=32, num_layers=2, num_heads=4)
    method: Rl2 = Rl2(entropy_weight=0.03, entropy_schedule="linear")
    training: Training = Training(
        num_steps=3000,
        tasks_per_step=512,
        steps_per_dispatch=100,
        evaluate_every=500,
        num_valid_tasks=20_000,
        lr=2e-3,
        schedule="linear",
        clip_norm=1.0,
    )
    testing: Testing = Testing(num_tasks=100_000, tasks_at_once=500)


RECIPE = BanditRl2Transformer()
