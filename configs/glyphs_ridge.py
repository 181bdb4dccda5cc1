"""Ridge regression on learned features (R2D2) on the embedded data set."""

from dataclasses import dataclass

from .parts import Conv4, Images, Ridge, Testing, Training


@dataclass(frozen=True)
class GlyphsRidge:
    """Ridge regression on learned features (R2D2) on glyphs, tested on a script never seen in training.

    Paper:    Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form solvers", 2019,
              arXiv:1805.08136.
    Command:  python -m experiments.train glyphs_ridge
    Time:     1.0 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 85.4 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    data: Images = Images("glyphs", train_ways=20)
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="group")
    method: Ridge = Ridge()
    training: Training = Training(
        num_steps=1000,
        tasks_per_step=2,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        lr=2e-3,
        schedule="halved",
        halve_lr_every=300,
        batching="scan",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = GlyphsRidge()
