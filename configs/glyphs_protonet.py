"""Prototypical networks on the embedded data set: half of what `make run` does."""

from dataclasses import dataclass

from .parts import Conv4, Images, Protonet, Testing, Training


@dataclass(frozen=True)
class GlyphsProtonet:
    """Prototypical networks on glyphs, tested on a script never seen in training.

    Paper:    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175.
    Command:  python -m experiments.train glyphs_protonet
    Time:     about 1 minute on 2 CPU cores.
    Expected: about 90 % (5-way 1-shot, inductive), where the nearest mean of pixels has 43 %.

    As in the paper, training tasks have more ways than test tasks.
    """

    data: Images = Images("glyphs", train_ways=20)
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="group")
    method: Protonet = Protonet()
    training: Training = Training(
        num_steps=2500,
        tasks_per_step=2,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        schedule="halved",
        halve_lr_every=800,
        lr=2e-3,
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = GlyphsProtonet()
