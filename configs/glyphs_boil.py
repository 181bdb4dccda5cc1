"""BOIL on the embedded data set."""

from dataclasses import dataclass

from .parts import Boil, Conv4, Images, Testing, Training


@dataclass(frozen=True)
class GlyphsBoil:
    """BOIL on glyphs, tested on a script never seen in training.

    Paper:    Oh, Yoo, Kim, Yun, "BOIL: Towards Representation Change for Few-shot Learning", 2021, arXiv:2008.08882.
    Command:  python -m experiments.train glyphs_boil
    Time:     1.4 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 75.1 % inductive and 78.9 % transductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    data: Images = Images("glyphs")
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="batch")
    method: Boil = Boil(num_steps=1, inner_lr=0.5)
    training: Training = Training(
        num_steps=1000,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        lr=2e-3,
        schedule="linear",
        clip_norm=10.0,
        batching="scan",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = GlyphsBoil()
