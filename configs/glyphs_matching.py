"""Matching networks with full context embeddings on the embedded data set."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Matching networks with full context embeddings on glyphs, tested on a script never seen in training.

    Paper:    Vinyals et al., "Matching Networks for One Shot Learning", 2016, arXiv:1606.04080.
    Command:  jmeta train glyphs_matching
    Time:     1.4 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 81.5 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 20
    full_context: bool = True
    """Whether embeddings depend on the whole support (full context embeddings)."""
    num_process_steps: int = 5
    """Steps of the LSTM that embeds a query in that context."""
    meta_lr: float = 2e-3
    """Halved every `halve_lr_every` meta-steps."""
    halve_lr_every: int = 300
    training: runs.Training = runs.Training(
        num_steps=1000,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        batching="scan",
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, halve_lr_every=options.halve_lr_every)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="strided", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="group")
    meta_lr = optax.exponential_decay(options.meta_lr, options.halve_lr_every, 0.5, staircase=True)
    return runs.Experiment(
        learner=learners.matching(
            embedding,
            num_ways=options.num_ways,
            full_context=options.full_context,
            num_process_steps=options.num_process_steps,
        ),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.adam(meta_lr),
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
