"""RL² with SNAIL on Bernoulli bandits."""

from dataclasses import dataclass

from .parts import Bandit, Rl2, Snail, Testing, Training


@dataclass(frozen=True)
class BanditRl2Snail:
    """SNAIL on five-armed Bernoulli bandits with 10 pulls.

    Paper:    Mishra, Rohaninejad, Chen, Abbeel, "A Simple Neural Attentive Meta-Learner", 2018, arXiv:1707.03141,
              section 5.2.1 (bandits).
    Command:  python -m experiments.train bandit_rl2_snail
    Time:     about 6 minutes on one CPU core.
    Expected: a total reward of 6.63; the Bayes-optimal policy gets 6.66.
    """

    data: Bandit = Bandit(num_arms=5, num_pulls=10)
    model: Snail = Snail(width=32, num_blocks=2, num_filters=16, key_width=16, value_width=16)
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


RECIPE = BanditRl2Snail()
