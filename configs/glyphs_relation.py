"""Relation networks on the embedded data set."""

from dataclasses import dataclass

import optax

import jmeta
from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Relation networks on glyphs, tested on a script never seen in training.

    Paper:    Sung et al., "Learning to Compare: Relation Network for Few-Shot Learning", 2018, arXiv:1711.06025.
    Command:  jmeta train glyphs_relation
    Time:     3.3 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 81.1 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    hidden: tuple[int, ...] = (128, 32)
    """Widths of the comparison network's hidden layers."""
    meta_lr: float = 2e-3
    """Decays linearly to zero."""
    training: runs.Training = runs.Training(
        num_steps=1500,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=500,
        num_valid_tasks=320,
        batching="scan",
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="strided", norm="group")
    comparison = models.mlp((*options.hidden, 1))
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="group")
    learner = learners.relation(embedding, comparison, num_ways=options.num_ways)
    return runs.Experiment(
        learner=learner,
        episode_fn=jmeta.episode(learner, learners.relation_loss),  # squared error, as in the paper
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.adam(optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)),
        training_names={"loss": "objective"},
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
