"""Bayesian MAML on sinusoids of unknown frequency, trained on few tasks."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """Bayesian MAML on sinusoids of unknown frequency, trained on few tasks.

    Paper:    Kim, Yoon, Dia, Kim, Bengio, Ahn, "Bayesian Model-Agnostic Meta-Learning", 2018, arXiv:1806.03836.
    Command:  jmeta train sinusoid_finite_bayesian_maml
    Time:     about 40 minutes on a CPU core, validation not counted.
    Expected: not measured yet; the exact posterior has -2.5 nats at 10 shots.

    Training sees a finite set of tasks, whose amplitude, frequency and phase differ; validation and test have new ones.
    The paper of Bayesian MAML has these tasks. It trains 10 particles on the chaser loss; here
    the loss is that of the mixture for the query, unless there are leader steps.
    `jmeta evaluate RUN --baselines` compares with the exact posterior, task by task.
    """

    num_train_tasks: int = 100
    """Tasks in the training set."""
    train_shots: int = 10
    train_queries: int = 10
    num_shots: int = 10
    """Shots at test."""
    num_queries: int = 20
    """Queries at test."""
    hidden: tuple[int, ...] = (40, 40, 40)
    """Widths of the hidden layers."""
    min_scale: float = 0.01
    """Smallest standard deviation that is predicted."""
    num_steps: int = 5
    """Inner steps."""
    inner_lr: float = 0.01
    num_particles: int = 5
    num_leader_steps: int | None = None
    """Steps on support and query to the leader of the chaser loss; none to train on the loss of the mixture."""
    meta_lr: float = 1e-3
    clip_norm: float = 10.0
    num_kept: int = 256
    """Frequencies that the exact posterior keeps."""
    training: runs.Training = runs.Training(
        num_steps=20_000, tasks_per_step=10, steps_per_dispatch=250, evaluate_every=1000, num_valid_tasks=500
    )
    testing: runs.Testing = runs.Testing(num_tasks=1000, tasks_at_once=10)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    network = models.normal_outputs(models.mlp((*options.hidden, 2)), min_scale=options.min_scale)
    learner = learners.bayesian_maml(
        network,
        losses.negative_log_likelihood,
        optax.sgd(options.inner_lr),
        num_steps=options.num_steps,
        num_particles=options.num_particles,
        num_leader_steps=options.num_leader_steps,
    )
    rate = optax.cosine_decay_schedule(options.meta_lr, options.training.num_steps)
    return runs.Experiment(
        learner=learner,
        loss_fn=losses.negative_log_likelihood,
        source=tasks.finite_sinusoid_source(
            num_train_tasks=options.num_train_tasks,
            train_shots=options.train_shots,
            train_queries=options.train_queries,
            num_shots=options.num_shots,
            num_queries=options.num_queries,
        ),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        metric="loss",
        baselines={"exact posterior": learners.exact_sinusoid(noise=0.01, num_kept=options.num_kept)},
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
