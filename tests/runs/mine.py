"""A recipe file of one's own, which knows nothing but what is installed: the tests copy it into an empty folder."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """MAML on sinusoids, of my own."""

    inner_lr: float = 0.01
    num_shots: int = 3
    hidden: tuple[int, ...] = (8,)
    training: runs.Training = runs.Training(
        num_steps=40, tasks_per_step=4, steps_per_dispatch=10, evaluate_every=20, num_valid_tasks=10
    )
    testing: runs.Testing = runs.Testing(num_tasks=10)


def build(options: Options) -> runs.Experiment:
    sample = tasks.sinusoid(num_shots=options.num_shots, num_queries=4)
    network = models.mlp((*options.hidden, 1))
    return runs.Experiment(
        learner=learners.maml(network, losses.squared_error, optax.sgd(options.inner_lr), num_steps=1),
        loss_fn=losses.squared_error,
        source=tasks.Source(lambda: sample, sample, sample, "mine", lambda num_tasks: f"mine, {num_tasks} tasks"),
        optimizer=optax.adam(1e-3),
        metric="loss",
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
