"""Matching networks with full context embeddings on the embedded data set."""

from dataclasses import dataclass

from .parts import Conv4, Images, Matching, Testing, Training


@dataclass(frozen=True)
class GlyphsMatching:
    """Matching networks with full context embeddings on glyphs, tested on a script never seen in training.

    Paper:    Vinyals et al., "Matching Networks for One Shot Learning", 2016, arXiv:1606.04080.
    Command:  python -m experiments.train glyphs_matching
    Time:     1.4 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 81.5 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    data: Images = Images("glyphs")
    model: Conv4 = Conv4(num_filters=20, pooling="strided", norm="group")
    method: Matching = Matching(full_context=True)
    training: Training = Training(
        num_steps=1000,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        lr=2e-3,
        schedule="halved",
        halve_lr_every=300,
        batching="scan",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = GlyphsMatching()
