"""Relation networks on the embedded data set."""

from dataclasses import dataclass

from .parts import Conv4, Images, Relation, Testing, Training


@dataclass(frozen=True)
class GlyphsRelation:
    """Relation networks on glyphs, tested on a script never seen in training.

    Paper:    Sung et al., "Learning to Compare: Relation Network for Few-Shot Learning", 2018, arXiv:1711.06025.
    Command:  python -m experiments.train glyphs_relation
    Time:     3.3 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 81.1 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    data: Images = Images("glyphs")
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="group")
    method: Relation = Relation(hidden=(128, 32))
    training: Training = Training(
        num_steps=1500,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=500,
        num_valid_tasks=320,
        lr=2e-3,
        schedule="linear",
        batching="scan",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = GlyphsRelation()
