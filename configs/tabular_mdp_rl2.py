"""RL² on random tabular Markov decision processes."""

from dataclasses import dataclass

from .parts import Recurrent, Rl2, TabularMdp, Testing, Training


@dataclass(frozen=True)
class TabularMdpRl2:
    """RL² on random tabular MDPs: 10 states, 5 actions, 10 rollouts of 10 steps.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779, section 3.2.
    Command:  python -m experiments.train tabular_mdp_rl2
    Time:     about 8 minutes on one CPU core.
    Expected: a total reward of 116, where acting at random has 100. That is far from the paper's 156, whose meta-steps
              have ten times as many steps of environments, and from the 154 of `tabular_mdp_rl2_transformer`.

    Differs from the paper: PPO in place of TRPO, and the critic is a head of the same network.
    """

    data: TabularMdp = TabularMdp(num_rollouts=10)
    model: Recurrent = Recurrent("gru", width=128, max_span=100)
    method: Rl2 = Rl2(entropy_weight=0.05, entropy_schedule="linear", gae_lambda=0.5, reward_scale=0.05)
    training: Training = Training(
        num_steps=2000,
        tasks_per_step=256,
        steps_per_dispatch=20,
        evaluate_every=200,
        num_valid_tasks=2000,
        lr=1e-3,
        schedule="linear",
        clip_norm=1.0,
    )
    testing: Testing = Testing(num_tasks=10_000, tasks_at_once=500)


RECIPE = TabularMdpRl2()
