"""ANIL on the embedded data set."""

from dataclasses import dataclass

from .parts import Anil, Conv4, Images, Testing, Training


@dataclass(frozen=True)
class GlyphsAnil:
    """ANIL on glyphs, tested on a script never seen in training.

    Paper:    Raghu, Raghu, Bengio, Vinyals, "Rapid Learning or Feature Reuse?", 2020, arXiv:1909.09157.
    Command:  python -m experiments.train glyphs_anil
    Time:     1.4 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 83.0 % inductive and 84.9 % transductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    data: Images = Images("glyphs")
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="batch")
    method: Anil = Anil(num_steps=5, inner_lr=0.1)
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


RECIPE = GlyphsAnil()
