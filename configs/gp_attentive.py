"""An attentive neural process on samples of Gaussian processes."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """An attentive neural process on samples of Gaussian processes.

    Paper:    Kim et al., "Attentive Neural Processes", 2019, arXiv:1901.05761.
    Command:  jmeta train gp_attentive
    Time:     about 20 minutes on a CPU core, validation not counted.
    Expected: -0.23 nats after 3,000 meta-steps; the exact posterior has -1.48.

    The defaults are the protocol of TNP: trained on RBF kernels, whose length scale and scale every task draws.
    `--trained-on np_eq` is that of the library neuralprocesses. `jmeta evaluate RUN --baselines` compares with the
    exact posterior, task by task. There is no latent path.
    """

    trained_on: tasks.Process = "tnp_rbf"
    """Process of the training tasks: of the protocol of TNP, or of the library neuralprocesses."""
    tested_on: tasks.Process | None = None
    """Process of the test tasks, of the same protocol; that of training if not given."""
    region: tasks.Region = "interpolation"
    """Where test points lie: training has them in [-2, 2], and `beyond` is [2, 6]."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of every network; the last one is that of a representation."""
    num_heads: int = 8
    min_scale: float = 0.01
    """Smallest standard deviation that is predicted."""
    meta_lr: float = 5e-4
    clip_norm: float = 10.0
    num_nodes: int = 8
    """Nodes of the exact posterior's quadrature, for each hyper-parameter."""
    training: runs.Training = runs.Training(
        num_steps=100_000, tasks_per_step=16, steps_per_dispatch=250, evaluate_every=5000, num_valid_tasks=500
    )
    testing: runs.Testing = runs.Testing(num_tasks=1000, tasks_at_once=10)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    network = models.mlp(options.hidden)
    decoder = models.normal_outputs(models.mlp((*options.hidden, 2)), min_scale=options.min_scale)
    learner = learners.attentive_neural_process(network, network, decoder, num_heads=options.num_heads)
    protocol = tasks.regression_protocol(options.trained_on, tested_on=options.tested_on, region=options.region)
    rate = optax.cosine_decay_schedule(options.meta_lr, options.training.num_steps)
    return runs.Experiment(
        learner=learner,
        loss_fn=losses.negative_log_likelihood,
        source=protocol.source,
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        metric="loss",
        baselines=learners.exact_posteriors(protocol, num_nodes=options.num_nodes),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
