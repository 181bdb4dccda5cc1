"""Baseline++ on the embedded data set."""

from dataclasses import dataclass

from .parts import Conv4, FineTune, Images, Testing, Training


@dataclass(frozen=True)
class GlyphsBaselinePlusPlus:
    """Baseline++ on glyphs, tested on a script never seen in training.

    Paper:    Chen, Liu, Kira, Wang, Huang, "A Closer Look at Few-shot Classification", 2019, arXiv:1904.04232.
    Command:  python -m experiments.train glyphs_baseline_plus_plus
    Time:     0.8 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 80.3 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    data: Images = Images("glyphs")
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="group")
    method: FineTune = FineTune(head="cosine", num_steps=100, inner_lr=0.01, batch_size=64)
    training: Training = Training(
        num_steps=1500,
        tasks_per_step=1,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        lr=2e-3,
        schedule="halved",
        halve_lr_every=300,
        batching="scan",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = GlyphsBaselinePlusPlus()
