"""Meta-SGD on the embedded data set."""

from dataclasses import dataclass

from .parts import Conv4, Images, MetaSgd, Testing, Training


@dataclass(frozen=True)
class GlyphsMetaSgd:
    """Meta-SGD on glyphs, tested on a script never seen in training.

    Paper:    Li, Zhou, Chen, Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017, arXiv:1707.09835.
    Command:  python -m experiments.train glyphs_meta_sgd
    Time:     1.4 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 71.7 % inductive and 73.9 % transductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.

    Training is short: in as many meta-steps `glyphs_maml` has 72.4 % inductive, and in its own 3500 about 85 %.
    """

    data: Images = Images("glyphs")
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="batch")
    method: MetaSgd = MetaSgd(num_steps=1, initial_lr=0.4)
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


RECIPE = GlyphsMetaSgd()
