"""A prior-fitted network on sinusoids and lines: a transformer that predicts a density by bins."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """A prior-fitted network on sinusoids and lines: a transformer that predicts a density by bins.

    Paper:    Müller, Hollmann, Pineda Arango, Grabocka, Hutter, "Transformers Can Do Bayesian Inference", 2021,
              arXiv:2112.10510.
    Command:  jmeta train sine_or_line_prior_fitted
    Time:     about 4 minutes on a CPU core, validation not counted.
    Expected: 1.59 nats at 2 shots and 0.88 at 5, after 3,000 meta-steps; the exact posterior has 1.02 and 0.42.

    Half of the tasks are sinusoids and half are lines, with noise of 0.3; one model is trained for 1 to 10 shots.
    `jmeta evaluate RUN --baselines` compares with the exact posterior, task by task.
    """

    train_shots: tuple[int, int] = (1, 10)
    """Fewest and most shots in training."""
    train_queries: int = 20
    num_shots: int = 5
    """Shots at test."""
    num_queries: int = 20
    """Queries at test."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the layers that embed a point; the output has them, too."""
    width: int = 64
    num_layers: int = 4
    num_heads: int = 4
    num_bins: int = 100
    meta_lr: float = 1e-3
    clip_norm: float = 10.0
    num_nodes: int = 32
    """Nodes of the exact posterior's quadrature, for each of a curve's two numbers; 1 and 2 shots need more."""
    training: runs.Training = runs.Training(
        num_steps=10_000, tasks_per_step=16, steps_per_dispatch=250, evaluate_every=1000, num_valid_tasks=1000
    )
    testing: runs.Testing = runs.Testing(num_tasks=1000, tasks_at_once=10)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    transformer = models.set_transformer(
        width=options.width, num_layers=options.num_layers, num_heads=options.num_heads
    )
    edges = jnp.linspace(-18.0, 18.0, options.num_bins + 1)  # a line is within ±18
    outputs = models.binned_outputs(models.mlp((*options.hidden, options.num_bins)), edges)
    learner = learners.transformer_neural_process(models.mlp(options.hidden), transformer, outputs)
    rate = optax.cosine_decay_schedule(options.meta_lr, options.training.num_steps)
    return runs.Experiment(
        learner=learner,
        loss_fn=losses.negative_log_likelihood,
        source=tasks.sinusoid_or_line_source(
            train_shots=options.train_shots,
            train_queries=options.train_queries,
            num_shots=options.num_shots,
            num_queries=options.num_queries,
        ),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        metric="loss",
        baselines={"exact posterior": learners.exact_sinusoid_or_line(num_nodes=options.num_nodes)},
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
