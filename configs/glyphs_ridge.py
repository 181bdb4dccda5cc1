"""Ridge regression on learned features (R2D2) on the embedded data set."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Ridge regression on learned features (R2D2) on glyphs, tested on a script never seen in training.

    Paper:    Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form solvers", 2019,
              arXiv:1805.08136.
    Command:  jmeta train glyphs_ridge
    Time:     1.0 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 85.4 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    num_ways: int = 5
    num_shots: int = 1
    train_ways: int = 20
    """Classes of a training task."""
    num_filters: int = 32
    meta_lr: float = 2e-3
    """Halved every `halve_lr_every` meta-steps."""
    halve_lr_every: int = 300
    training: runs.Training = runs.Training(
        num_steps=1000,
        tasks_per_step=2,
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
        learner=learners.ridge(embedding, num_ways=options.train_ways),
        evaluated=learners.ridge(embedding, num_ways=options.num_ways),
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
