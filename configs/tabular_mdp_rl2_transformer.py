"""RL² with a causal transformer on random tabular Markov decision processes."""

from dataclasses import dataclass

from .parts import Rl2, TabularMdp, Testing, Training, Transformer


@dataclass(frozen=True)
class TabularMdpRl2Transformer:
    """RL² with one layer of attention over transitions: 10 states, 5 actions, 10 rollouts of 10 steps.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779, section 3.2.
    Command:  python -m experiments.train tabular_mdp_rl2_transformer
    Time:     about 30 minutes on one CPU core; an hour for 25 rollouts and 2000 meta-steps.
    Expected: a total reward of 153.9 in 10 rollouts (the paper: 156.2), above PSRL (137.7 at best) and optimistic PSRL
              (142.1), below acting greedily on the posterior's means under the true prior (155.7) and UCRL2 (157.6). In
              25 rollouts 421 (the paper: 445), above PSRL (408) and below optimistic PSRL (425) and UCRL2 (453).

    Differs from the paper: attention in place of a GRU, over transitions; PPO in place of TRPO, and the critic is a
    head of the same network.
    """

    data: TabularMdp = TabularMdp(num_rollouts=10, observes_transitions=True)
    model: Transformer = Transformer(width=64, num_layers=1, num_heads=2)
    method: Rl2 = Rl2(entropy_weight=0.02, entropy_schedule="linear", gae_lambda=0.5, reward_scale=0.05)
    training: Training = Training(
        num_steps=4000,
        tasks_per_step=256,
        steps_per_dispatch=20,
        evaluate_every=400,
        num_valid_tasks=2000,
        lr=1e-3,
        schedule="linear",
        clip_norm=1.0,
    )
    testing: Testing = Testing(num_tasks=10_000, tasks_at_once=500)


RECIPE = TabularMdpRl2Transformer()
