"""In-context learning on Omniglot: a transformer that reads the support."""

from dataclasses import dataclass

import optax

from jmeta import Learner, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """In-context classification on Omniglot, protocol `vinyals`.

    Paper:    Kirsch, Harrison, Sohl-Dickstein, Metz, "General-Purpose In-Context Learning by Meta-Learning
              Transformers", 2022, arXiv:2212.04458.
    Command:  jmeta train omniglot_vinyals_in_context
    Time:     not measured yet.
    Expected: not measured yet.

    As `glyphs_in_context`: the embedding is trained with the transformer, and its norm has the statistics of the
    support.
    """

    num_ways: int = 5
    num_shots: int = 1
    train_ways: int = 5
    """Classes of a training task."""
    train_shots: int = 1
    """Support examples of each class in training."""
    train_queries: int = 5
    """Queries of each class in training."""
    max_ways: int = 5
    """Most classes of a task; at test there may be fewer than in training."""
    num_filters: int = 64
    width: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_assignments: int = 5
    """Assignments of label embeddings to classes that predictions are averaged over at test; training draws one."""
    meta_lr: float = 1e-3
    """Decays linearly to zero."""
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=20_000,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=500,
        num_valid_tasks=200,
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="strided", norm="support")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="group")
    transformer = models.set_transformer(
        width=options.width, num_layers=options.num_layers, num_heads=options.num_heads
    )

    def in_context(num_assignments: int) -> Learner:
        return learners.in_context(embedding, transformer, max_ways=options.max_ways, num_assignments=num_assignments)

    rate = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=in_context(1),
        loss_fn=losses.cross_entropy,
        source=images.protocols.vinyals.source(
            num_ways=options.num_ways,
            num_shots=options.num_shots,
            train_ways=options.train_ways,
            train_shots=options.train_shots,
            train_queries=options.train_queries,
        ),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        evaluated=in_context(options.num_assignments),
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
