"""An ensemble of MAMLs on sinusoids and lines."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """An ensemble of MAMLs on sinusoids and lines.

    Paper:    Lakshminarayanan, Pritzel, Blundell, "Deep Ensembles", 2017, arXiv:1612.01474.
    Command:  jmeta train sine_or_line_ensemble
    Time:     about 6 minutes on a CPU core, validation not counted.
    Expected: 2.26 nats at 2 shots and 1.99 at 5, after 5,000 meta-steps; the exact posterior has 1.02 and 0.42.

    Half of the tasks are sinusoids and half are lines, with noise of 0.3; one model is trained for 1 to 10 shots. Each
    member has its own start, trained on the same tasks. `jmeta evaluate RUN --baselines` compares with the exact
    posterior, task by task.
    """

    train_shots: tuple[int, int] = (1, 10)
    """Fewest and most shots in training."""
    train_queries: int = 20
    num_shots: int = 5
    """Shots at test."""
    num_queries: int = 20
    """Queries at test."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    min_scale: float = 0.1
    """Smallest standard deviation that is predicted."""
    num_steps: int = 5
    """Inner steps."""
    inner_lr: float = 0.01
    num_members: int = 5
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
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    network = models.normal_outputs(models.mlp((*options.hidden, 2)), min_scale=options.min_scale)
    inner = optax.sgd(options.inner_lr)
    one = learners.maml(network, losses.negative_log_likelihood, inner, num_steps=options.num_steps)
    learner = learners.deep_ensemble(one, num_members=options.num_members)
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
