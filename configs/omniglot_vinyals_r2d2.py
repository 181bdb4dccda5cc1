"""Ridge regression on learned features, on Omniglot."""

from dataclasses import dataclass

from .parts import Conv4, Images, Ridge, Testing, Training


@dataclass(frozen=True)
class OmniglotVinyalsR2d2:
    """R2D2, ridge regression on learned features, on Omniglot, protocol `vinyals`.

    Paper:    Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form solvers", 2019,
              arXiv:1805.08136.
    Command:  python -m experiments.train omniglot_vinyals_r2d2
    Time:     0.29 s a meta-step on one CPU core, so 20,000 take 1.6 hours.
    Expected: 97.7 % (5-way 1-shot, 1000 test tasks) after 4,000 meta-steps with --training.halve-lr-every 1000.

    Differs from the paper: four blocks of 64 filters, group normalisation.
    """

    data: Images = Images("vinyals", train_ways=20, train_shots=1, train_queries=5)
    model: Conv4 = Conv4(num_filters=64, pooling="max", norm="group")
    method: Ridge = Ridge()
    training: Training = Training(
        num_steps=20_000,
        tasks_per_step=2,
        steps_per_dispatch=50,
        evaluate_every=500,
        num_valid_tasks=200,
        lr=1e-3,
        batching="scan",
        schedule="halved",
        halve_lr_every=5000,
        patience=10,
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = OmniglotVinyalsR2d2()
