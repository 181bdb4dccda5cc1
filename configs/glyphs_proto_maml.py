"""ProtoMAML on the embedded data set."""

from dataclasses import dataclass

from .parts import Conv4, Images, ProtoMaml, Testing, Training


@dataclass(frozen=True)
class GlyphsProtoMaml:
    """ProtoMAML on glyphs, tested on a script never seen in training.

    Paper:    Triantafillou et al., "Meta-Dataset", 2020, arXiv:1903.03096.
    Command:  python -m experiments.train glyphs_proto_maml
    Time:     1.4 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 82.1 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    data: Images = Images("glyphs")
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="group")
    method: ProtoMaml = ProtoMaml(num_steps=3, inner_lr=0.01)
    training: Training = Training(
        num_steps=1000,
        tasks_per_step=4,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        lr=2e-3,
        schedule="linear",
        clip_norm=10.0,
        batching="scan",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = GlyphsProtoMaml()
