"""An attentive neural process on sinusoids and lines."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """An attentive neural process on sinusoids and lines.

    Paper:    Kim, Mnih, Schwarz, Garnelo, Eslami, Rosenbaum, Vinyals, Teh, "Attentive Neural Processes", 2019,
              arXiv:1901.05761.
    Command:  jmeta train sine_or_line_attentive
    Time:     about 1 minute on a CPU core, validation not counted.
    Expected: 2.08 nats at 2 shots and 1.19 at 5, after 6,000 meta-steps; the exact posterior has 1.02 and 0.42.

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
    """Widths of the hidden layers of every network; the last one is that of a representation."""
    num_latents: int = 16
    num_heads: int = 4
    num_samples: int = 20
    """Samples of the latent vector that predict together at test."""
    min_scale: float = 0.1
    """Smallest standard deviation that is predicted."""
    meta_lr: float = 1e-3
    clip_norm: float = 10.0
    num_nodes: int = 32
    """Nodes of the exact posterior's quadrature, for each of a curve's two numbers; 1 and 2 shots need more."""
    training: runs.Training = runs.Training(
        num_steps=20_000, tasks_per_step=16, steps_per_dispatch=250, evaluate_every=1000, num_valid_tasks=1000
    )
    testing: runs.Testing = runs.Testing(num_tasks=1000, tasks_at_once=10)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    encoder = models.mlp(options.hidden)
    decoder = models.normal_outputs(models.mlp((*options.hidden, 2)), min_scale=options.min_scale)
    latents = models.normal_outputs(models.mlp((*options.hidden, 2 * options.num_latents)), min_scale=0.01)
    path = learners.LatentPath(encoder, latents, num_samples=options.num_samples)
    learner = learners.attentive_neural_process(encoder, encoder, decoder, num_heads=options.num_heads, latent=path)
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
