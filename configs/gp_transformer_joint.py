"""An autoregressive transformer neural process on samples of Gaussian processes."""

from dataclasses import dataclass

import optax

from jmeta import episode, learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """An autoregressive transformer neural process on samples of Gaussian processes.

    Paper:    Nguyen, Grover, "Transformer Neural Processes", 2022, arXiv:2207.04179 (TNP-A).
    Command:  jmeta train gp_transformer_joint
    Time:     several hours on a CPU core: a recipe for accelerators.
    Expected: not measured yet; the exact posterior has -1.79 nats, of the joint density.

    Trained and tested on the joint density of all targets of a task: each is predicted given those before it, in an
    order that every task draws. Compare its results with other joint ones only. The defaults are the protocol of TNP:
    trained on RBF kernels, whose length scale and scale every task draws; `--trained-on np_eq` is that of the library
    neuralprocesses. `jmeta evaluate RUN --baselines` compares with the exact posterior, task by task.
    """

    trained_on: tasks.Process = "tnp_rbf"
    """Process of the training tasks: of the protocol of TNP, or of the library neuralprocesses."""
    tested_on: tasks.Process | None = None
    """Process of the test tasks, of the same protocol; that of training if not given."""
    region: tasks.Region = "interpolation"
    """Where test points lie: training has them in [-2, 2], and `beyond` is [2, 6]."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the layers that embed a point; the output has them, too."""
    width: int = 64
    num_layers: int = 4
    num_heads: int = 4
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
    transformer = models.set_transformer(
        width=options.width, num_layers=options.num_layers, num_heads=options.num_heads
    )
    outputs = models.normal_outputs(models.mlp((*options.hidden, 2)), min_scale=options.min_scale)
    learner = learners.transformer_neural_process(models.mlp(options.hidden), transformer, outputs, autoregressive=True)
    protocol = tasks.regression_protocol(
        options.trained_on, tested_on=options.tested_on, region=options.region, is_joint=True
    )
    rate = optax.cosine_decay_schedule(options.meta_lr, options.training.num_steps)
    return runs.Experiment(
        learner=learner,
        loss_fn=losses.negative_log_likelihood,
        source=protocol.source,
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        metric="loss",
        evaluated=episode(learner, losses.negative_log_likelihood),
        baselines=learners.exact_posteriors(protocol, num_nodes=options.num_nodes),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
