"""Reptile on the embedded data set."""

from dataclasses import dataclass

from .parts import Conv4, Images, Reptile, Testing, Training


@dataclass(frozen=True)
class GlyphsReptile:
    """Reptile on glyphs, tested on a script never seen in training.

    Paper:    Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999.
    Command:  python -m experiments.train glyphs_reptile
    Time:     0.9 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 61.0 % inductive and 64.3 % transductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.

    Far from converged: meta_valid still rose when these few meta-steps ended, of which the paper takes 100,000. With an
    inner optimizer that starts afresh for every task it reached 46.9 % and 48.4 %.
    """

    data: Images = Images("glyphs", train_shots=5, train_queries=1)
    model: Conv4 = Conv4(num_filters=32, pooling="strided", norm="batch")
    method: Reptile = Reptile(num_steps=5, batch_size=10, inner_lr=3e-3, num_test_steps=50, test_batch_size=5)
    training: Training = Training(
        num_steps=1000,
        tasks_per_step=5,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        optimizer="sgd",
        lr=1.0,
        schedule="linear",
        batching="scan",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = GlyphsReptile()
