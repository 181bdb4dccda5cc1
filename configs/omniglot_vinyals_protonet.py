"""Prototypical networks on Omniglot, in the protocol that the paper established."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Prototypical networks on Omniglot, protocol `vinyals`.

    Paper:    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175, section 3.1.
    Command:  jmeta train omniglot_vinyals_protonet
              jmeta evaluate RUN [--num-ways 20] [--num-shots 5]
    Time:     0.7 to 1 s a meta-step on 2 CPU cores that were busy with other work too; the full 20,000 were not run.
    Expected: the paper has 98.8 % (5-way 1-shot), 99.7 % (5w5s), 96.0 % (20w1s), 98.9 % (20w5s); RESULTS.md has the
              result of a shortened run with `--train-shots 1`.

    Training tasks are 60-way 5-shot with 5 queries a class. Differs from the paper: group instead of batch
    normalisation, so that predictions are inductive; meta_valid selects the model and is never trained on.
    """

    num_ways: int = 5
    num_shots: int = 1
    train_ways: int = 60
    """Classes of a training task."""
    train_shots: int = 5
    """Support examples of each class in training."""
    train_queries: int = 5
    """Queries of each class in training."""
    num_filters: int = 64
    meta_lr: float = 1e-3
    """Halved every `halve_lr_every` meta-steps."""
    halve_lr_every: int = 2000
    training: runs.Training = runs.Training(
        num_steps=20_000, tasks_per_step=1, steps_per_dispatch=50, evaluate_every=500, num_valid_tasks=200, patience=10
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, halve_lr_every=options.halve_lr_every)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="max", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="max", norm="group")
    meta_lr = optax.exponential_decay(options.meta_lr, options.halve_lr_every, 0.5, staircase=True)
    return runs.Experiment(
        learner=learners.protonet(embedding, num_ways=options.train_ways),
        evaluated=learners.protonet(embedding, num_ways=options.num_ways),
        loss_fn=losses.cross_entropy,
        source=images.protocols.vinyals.source(
            num_ways=options.num_ways,
            num_shots=options.num_shots,
            train_ways=options.train_ways,
            train_shots=options.train_shots,
            train_queries=options.train_queries,
        ),
        optimizer=optax.adam(meta_lr),
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
