"""MAML on sinusoid regression, the first experiment of its paper."""

from dataclasses import dataclass

from .parts import Maml, Mlp, Sinusoid, Testing, Training


@dataclass(frozen=True)
class SinusoidMaml:
    """MAML on sinusoid regression.

    Paper:    Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400, section 5.1.
    Command:  python -m experiments.train sinusoid_maml
    Time:     about 1 minute on 2 CPU cores.
    Expected: mean squared error at 5 shots after 1, 5, 10 steps at most the paper's 0.67, 0.38, 0.35.

    Trained with 10 shots, tested with 5, as in the paper. Differs from the paper: meta-gradients are clipped, and
    meta_valid chooses the model by its loss after 10 inner steps. Trained for one step, a model goes on getting better
    at one step, while 5 or 10 steps begin to diverge on a few tasks in 10,000, and such tasks rule the mean: without
    clipping, a model chosen by 2,000 tasks had no finite mean over 10,000 after 10 steps.
    """

    data: Sinusoid = Sinusoid(num_shots=10, num_queries=10)
    model: Mlp = Mlp(hidden=(40, 40))
    method: Maml = Maml(num_steps=1, inner_lr=0.01, num_test_steps=10)
    training: Training = Training(
        num_steps=70_000,
        tasks_per_step=25,
        steps_per_dispatch=500,
        evaluate_every=2500,
        num_valid_tasks=5000,
        clip_norm=1.0,
    )
    testing: Testing = Testing(num_tasks=10_000, num_shots=5, tasks_at_once=100)


RECIPE = SinusoidMaml()
