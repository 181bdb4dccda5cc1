"""A recipe file of one's own, on image files of one's own, which the host or the device draws tasks from."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Prototypical networks on my images."""

    path: str = "images"
    num_ways: int = 2
    num_shots: int = 1
    host_fed: bool = True
    training: runs.Training = runs.Training(
        num_steps=60, tasks_per_step=4, steps_per_dispatch=10, evaluate_every=20, num_valid_tasks=10
    )
    testing: runs.Testing = runs.Testing(num_tasks=10, tasks_at_once=5)


def build(options: Options) -> runs.Experiment:
    source = images.own_images(
        options.path,
        num_ways=options.num_ways,
        num_shots=options.num_shots,
        num_queries=2,
        num_channels=1,
        host_fed=options.host_fed,
        tasks_per_step=options.training.tasks_per_step,
        seed=options.training.seed,
    )
    return runs.Experiment(
        learner=learners.protonet(models.mlp((8, 4)), num_ways=options.num_ways),
        loss_fn=losses.cross_entropy,
        source=source,
        optimizer=optax.adam(1e-3),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
