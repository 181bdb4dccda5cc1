"""MetaOptNet on Omniglot."""

from dataclasses import dataclass

import optax

from jmeta import Learner, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """MetaOptNet, a support vector machine on learned features, on Omniglot, protocol `vinyals`.

    Paper:    Lee, Maji, Ravichandran, Soatto, "Meta-Learning with Differentiable Convex Optimization", 2019,
              arXiv:1904.03758.
    Command:  jmeta train omniglot_vinyals_meta_opt_net
    Time:     not measured yet.
    Expected: not measured yet.

    Differs from the paper: four blocks of 64 filters, group normalisation.
    """

    num_ways: int = 5
    num_shots: int = 1
    train_ways: int = 20
    """Classes of a training task."""
    train_shots: int = 1
    """Support examples of each class in training."""
    train_queries: int = 5
    """Queries of each class in training."""
    num_filters: int = 64
    error_weight: float = 0.1
    """Weight of errors on the support."""
    num_iterations: int = 200
    """Steps of the solver."""
    initial_scale: float = 10.0
    """Initial factor from an output of the machine to a logit."""
    meta_lr: float = 1e-3
    """Halved every `halve_lr_every` meta-steps."""
    halve_lr_every: int = 5000
    training: runs.Training = runs.Training(
        num_steps=20_000,
        tasks_per_step=2,
        steps_per_dispatch=50,
        evaluate_every=500,
        num_valid_tasks=200,
        batching="scan",
        patience=10,
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, halve_lr_every=options.halve_lr_every)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="max", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="max", norm="group")
    meta_lr = optax.exponential_decay(options.meta_lr, options.halve_lr_every, 0.5, staircase=True)

    def meta_opt_net(num_ways: int) -> Learner:
        return learners.meta_opt_net(
            embedding,
            num_ways=num_ways,
            error_weight=options.error_weight,
            num_iterations=options.num_iterations,
            initial_scale=options.initial_scale,
        )

    return runs.Experiment(
        learner=meta_opt_net(options.train_ways),
        evaluated=meta_opt_net(options.num_ways),
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
