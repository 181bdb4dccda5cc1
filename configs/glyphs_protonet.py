"""Prototypical networks on the embedded data set: the first of the two trainings of `make run`."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Prototypical networks on glyphs, tested on a script never seen in training.

    Paper:    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175.
    Command:  jmeta train glyphs_protonet
    Time:     about 1 minute on 2 CPU cores.
    Expected: about 90 % (5-way 1-shot, inductive), where the nearest mean of pixels has 43 %.

    As in the paper, training tasks have more ways than test tasks.
    """

    num_ways: int = 5
    num_shots: int = 1
    train_ways: int = 20
    """Classes of a training task."""
    num_filters: int = 32
    meta_lr: float = 2e-3
    """Halved every `halve_lr_every` meta-steps."""
    halve_lr_every: int = 800
    training: runs.Training = runs.Training(
        num_steps=2500, tasks_per_step=2, steps_per_dispatch=50, evaluate_every=250, num_valid_tasks=320
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, halve_lr_every=options.halve_lr_every)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="strided", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="group")
    meta_lr = optax.exponential_decay(options.meta_lr, options.halve_lr_every, 0.5, staircase=True)
    return runs.Experiment(
        learner=learners.protonet(embedding, num_ways=options.train_ways),
        evaluated=learners.protonet(embedding, num_ways=options.num_ways),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(
            num_ways=options.num_ways, num_shots=options.num_shots, train_ways=options.train_ways
        ),
        optimizer=optax.adam(meta_lr),
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
