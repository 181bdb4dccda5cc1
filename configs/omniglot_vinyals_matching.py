"""Matching networks with full context embeddings on Omniglot."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Matching networks with full context embeddings on Omniglot, protocol `vinyals`.

    Paper:    Vinyals et al., "Matching Networks for One Shot Learning", 2016, arXiv:1606.04080, section 4.1.1.
    Command:  jmeta train omniglot_vinyals_matching
              for 20 ways add --num-ways 20 --train-ways 20
    Time:     0.2 to 0.5 s a meta-step on one CPU core; the full 20,000 were not run.
    Expected: the paper has 98.1 % (5-way 1-shot), 98.9 % (5w5s), 93.8 % (20w1s), 98.5 % (20w5s); RESULTS.md has the
              result of 5,000 meta-steps with `--halve-lr-every 1250`.

    Differs from the paper: group instead of batch normalisation, so that predictions are inductive.
    """

    num_ways: int = 5
    num_shots: int = 1
    train_ways: int = 5
    """Classes of a training task."""
    train_shots: int = 1
    """Support examples of each class in training."""
    train_queries: int = 5
    """Queries of each class in training."""
    num_filters: int = 64
    full_context: bool = True
    """Whether embeddings depend on the whole support (full context embeddings)."""
    num_process_steps: int = 5
    """Steps of the LSTM that embeds a query in that context."""
    meta_lr: float = 1e-3
    """Halved every `halve_lr_every` meta-steps."""
    halve_lr_every: int = 5000
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=20_000,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=500,
        num_valid_tasks=200,
        batching="scan",
        patience=10,
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, halve_lr_every=options.halve_lr_every, clip_norm=options.clip_norm)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="max", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="max", norm="group")
    trained, tested = (
        learners.matching(
            embedding,
            num_ways=num_ways,
            full_context=options.full_context,
            num_process_steps=options.num_process_steps,
        )
        for num_ways in (options.train_ways, options.num_ways)
    )
    meta_lr = optax.exponential_decay(options.meta_lr, options.halve_lr_every, 0.5, staircase=True)
    return runs.Experiment(
        learner=trained,
        evaluated=tested,
        loss_fn=losses.cross_entropy,
        source=images.protocols.vinyals.source(
            num_ways=options.num_ways,
            num_shots=options.num_shots,
            train_ways=options.train_ways,
            train_shots=options.train_shots,
            train_queries=options.train_queries,
        ),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
