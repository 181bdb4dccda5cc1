"""Prototypical networks on your own images."""

from dataclasses import dataclass
from typing import Literal

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Prototypical networks on your own images, a folder for each class.

    Paper:    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175.
    Command:  jmeta train folder_protonet --path DIR [--host-fed]
    Time:     depends on the images.
    Expected: depends on the images.
    """

    path: str = ""
    """The folder of your images: one folder for each class, or folders meta_train, meta_valid and meta_test of such
    folders."""
    size: tuple[int, int] | None = (28, 28)
    """Height and width that images are resized to; not resized if not given."""
    num_channels: int = 1
    """1 for grey images, 3 for colour."""
    fit: Literal["squash", "crop", "pad"] = "squash"
    """How an image of another shape than `size` is fitted: `squash` scales its sides apart, `crop` cuts the longer
    one, `pad` fills up the shorter one."""
    background: int = 255
    """Grey value behind transparent and padded images, from 0 (black) to 255 (white)."""
    num_ways: int = 5
    num_shots: int = 1
    num_queries: int = 5
    """Queries of each class, in training and at test."""
    train_ways: int | None = None
    """Classes of a training task; as many as at test if not given."""
    train_shots: int | None = None
    """Support examples of each class in training; as many as at test if not given."""
    host_fed: bool = False
    """Draw training tasks on the host, a few batches ahead, for images that do not fit on the device."""
    num_filters: int = 32
    meta_lr: float = 1e-3
    training: runs.Training = runs.Training(
        num_steps=2000, tasks_per_step=4, steps_per_dispatch=20, evaluate_every=200, num_valid_tasks=200, patience=5
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="max", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="max", norm="group")
    train_ways = options.num_ways if options.train_ways is None else options.train_ways
    return runs.Experiment(
        learner=learners.protonet(embedding, num_ways=train_ways),
        evaluated=learners.protonet(embedding, num_ways=options.num_ways),
        loss_fn=losses.cross_entropy,
        source=images.own_images(
            options.path,
            num_ways=options.num_ways,
            num_shots=options.num_shots,
            num_queries=options.num_queries,
            train_ways=train_ways,
            train_shots=options.train_shots,
            size=options.size,
            num_channels=options.num_channels,
            fit=options.fit,
            background=options.background,
            host_fed=options.host_fed,
            tasks_per_step=options.training.tasks_per_step,
            seed=options.training.seed,
        ),
        optimizer=optax.adam(options.meta_lr),
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
