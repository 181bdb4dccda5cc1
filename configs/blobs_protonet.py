"""Prototypical networks on Gaussian blobs: the smallest classification run, for trying things out."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """Prototypical networks on Gaussian blobs: a run of seconds that needs no data.

    Paper:    none; the method is Snell, Swersky, Zemel, "Prototypical Networks", 2017, arXiv:1703.05175.
    Command:  jmeta train blobs_protonet
    Time:     about 10 seconds on 2 CPU cores.
    Expected: about the accuracy of the nearest mean of the inputs, which is optimal here.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_queries: int = 5
    num_features: int = 8
    spread: float = 1.0
    """Standard deviation within a blob; that of the centres is 1."""
    widths: tuple[int, ...] = (64, 32)
    """Widths of the network's layers."""
    meta_lr: float = 1e-3
    training: runs.Training = runs.Training(
        num_steps=1000, tasks_per_step=8, steps_per_dispatch=100, evaluate_every=200, num_valid_tasks=400
    )
    testing: runs.Testing = runs.Testing(tasks_at_once=100)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr)
    sample = tasks.gaussian_blobs(
        num_ways=options.num_ways,
        num_shots=options.num_shots,
        num_queries=options.num_queries,
        num_features=options.num_features,
        spread=options.spread,
    )
    name = f"blobs {options.num_ways}-way {options.num_shots}-shot"
    return runs.Experiment(
        learner=learners.protonet(models.mlp(options.widths), num_ways=options.num_ways),
        loss_fn=losses.cross_entropy,
        source=tasks.Source(
            meta_train=lambda: sample,
            meta_valid=sample,
            meta_test=sample,
            name=name,
            describe=lambda num_tasks: f"{name}, {options.num_queries} queries, {num_tasks} tasks",
        ),
        optimizer=optax.adam(options.meta_lr),
        baselines={"nearest mean of the inputs": learners.nearest_mean(num_ways=options.num_ways)},
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
