"""Second-order MAML on the embedded data set: the other half of what `make run` does."""

from dataclasses import dataclass

from .parts import Conv4, Images, Maml, Testing, Training


@dataclass(frozen=True)
class GlyphsMaml:
    """Second-order MAML on glyphs, tested on a script never seen in training.

    Paper:    Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400.
    Command:  python -m experiments.train glyphs_maml
    Time:     about 2 minutes on 2 CPU cores.
    Expected: about 85 % inductive and 87 % transductive (5-way 1-shot), where the nearest mean of pixels has 43 %.
    """

    data: Images = Images("glyphs")
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="batch")
    method: Maml = Maml(num_steps=1, inner_lr=0.4, num_test_steps=3)
    training: Training = Training(
        num_steps=3500,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=500,
        num_valid_tasks=320,
        lr=2e-3,
        schedule="linear",
        clip_norm=10.0,
        batching="scan",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = GlyphsMaml()
