"""A prior-fitted classifier of small tables: an in-context transformer, trained on synthetic tables alone."""

from dataclasses import dataclass

import optax
from jax.tree_util import Partial

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """A prior-fitted classifier of small tables: an in-context transformer, trained on synthetic tables alone.

    Paper:    Hollmann, Müller, Eggensperger, Hutter, "TabPFN: A Transformer That Solves Small Tabular Classification
              Problems in a Second", 2022, arXiv:2207.01848.
    Command:  jmeta train tabular_prior_fitted
    Time:     about 30 minutes of CPU time.
    Expected: `python -m experiments.tabular` tests it on tables that come with scikit-learn.

    Tables are of structural causal models and of random functions. An adaptation sees columns and names of classes in
    a random order; tests average over several.
    """

    train_support: tuple[int, int] = (20, 128)
    """Fewest and most labelled rows in training and validation."""
    train_queries: int = 48
    num_support: int = 100
    """Labelled rows at test."""
    num_queries: int = 48
    """Rows to predict at test."""
    num_features: tuple[int, int] = (2, 32)
    """Fewest and most columns."""
    num_ways: tuple[int, int] = (2, 10)
    """Fewest and most classes."""
    hidden: tuple[int, ...] = (128,)
    """Widths of the layers that embed a row."""
    width: int = 64
    num_layers: int = 4
    num_heads: int = 4
    num_orders: int = 8
    """Orders of columns and of classes that predictions are averaged over at test."""
    num_baseline_steps: int = 100
    """Steps of Adam of the baseline, logistic regression."""
    meta_lr: float = 1.5e-3
    warmup: int = 300
    """Meta-steps in which the rate rises to `meta_lr`, at most a tenth of all; it falls along a cosine afterwards."""
    clip_norm: float = 1.0
    training: runs.Training = runs.Training(
        num_steps=8000, tasks_per_step=16, steps_per_dispatch=50, evaluate_every=500, num_valid_tasks=200
    )
    testing: runs.Testing = runs.Testing(num_tasks=1000, tasks_at_once=10)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    most_ways = options.num_ways[1]
    transformer = models.set_transformer(
        width=options.width, num_layers=options.num_layers, num_heads=options.num_heads
    )
    embedding = models.mlp((*options.hidden, options.width))
    learner = learners.standardized(learners.in_context(embedding, transformer, max_ways=most_ways))
    by_regression = learners.from_scratch(
        models.mlp((most_ways,)), losses.cross_entropy, optax.adamw(0.1), num_steps=options.num_baseline_steps
    )
    num_steps = options.training.num_steps
    warmup = min(options.warmup, num_steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, options.meta_lr, warmup, num_steps)
    return runs.Experiment(
        learner=learner,
        loss_fn=losses.cross_entropy,
        source=source(options),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        evaluated=learners.ensembled(learner, num_samples=options.num_orders),
        metric="loss",
        baselines={"logistic regression": learners.standardized(by_regression)},
        training=options.training,
        testing=options.testing,
    )


def source(options: Options) -> tasks.Source:
    """Return the tables: supports of many sizes in training and validation, and of one size at test."""
    mechanisms = [tasks.mechanisms.causal_network(), tasks.mechanisms.random_functions()]

    def tables(num_support: int | tuple[int, int], num_queries: int) -> Partial:
        return tasks.tables(
            mechanisms,
            num_support=num_support,
            num_queries=num_queries,
            num_features=options.num_features,
            num_ways=options.num_ways,
        )

    trained = tables(options.train_support, options.train_queries)
    tested = tables(options.num_support, options.num_queries)
    few, many = options.train_support
    return tasks.Source(
        meta_train=lambda: trained,
        meta_valid=trained,
        meta_test=tested,
        name="synthetic tables",
        describe=lambda num_tasks: (
            f"synthetic tables, {options.num_support} labelled rows, {options.num_queries} queries, {num_tasks} tasks"
        ),
        describe_valid=lambda num_tasks: f"synthetic tables, {few} to {many} labelled rows, {num_tasks} tasks",
    )


if __name__ == "__main__":
    runs.main(build, Options)
