"""A convolutional neural process on samples of Gaussian processes."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """A convolutional neural process on samples of Gaussian processes.

    Paper:    Gordon et al., "Convolutional Conditional Neural Processes", 2020, arXiv:1910.13556.
    Command:  jmeta train gp_convolutional
    Time:     about 80 minutes on a CPU core, validation not counted.
    Expected: -0.88 nats after 1,000 meta-steps; the exact posterior has -1.48.

    The defaults are the protocol of TNP: trained on RBF kernels, whose length scale and scale every task draws.
    `--trained-on np_eq` is that of the library neuralprocesses. `jmeta evaluate RUN --baselines` compares with the
    exact posterior, task by task. Tests beyond the points of
    training have a longer grid; the parameters are the same.
    """

    trained_on: tasks.Process = "tnp_rbf"
    """Process of the training tasks: of the protocol of TNP, or of the library neuralprocesses."""
    tested_on: tasks.Process | None = None
    """Process of the test tasks, of the same protocol; that of training if not given."""
    region: tasks.Region = "interpolation"
    """Where test points lie: training has them in [-2, 2], and `beyond` is [2, 6]."""
    widths: tuple[int, ...] = (64, 64, 64, 64, 64, 64)
    """Channels of the convolutions; the last ones are those that a prediction is made of."""
    kernel_size: int = 9
    points_per_unit: int = 24
    """Points of the grid in a unit of x."""
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
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm, points_per_unit=options.points_per_unit)
    network = models.conv1d(options.widths, kernel_size=options.kernel_size)
    decoder = models.normal_outputs(models.mlp((options.widths[-1], 2)), min_scale=options.min_scale)
    ends = (-3.0, 3.0 if options.region == "interpolation" else 7.0)
    num_grid = round((ends[1] - ends[0]) * options.points_per_unit) + 1
    learner = learners.convolutional_neural_process(network, decoder, inputs=ends, num_grid=num_grid)
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
