"""Prototypical networks with a ResNet-12 on your own images."""

from dataclasses import dataclass
from typing import Literal

import optax

from jmeta import Model, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Prototypical networks with a ResNet-12 on your own images in colour, a folder for each class.

    Paper:    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175; the network
              is that of Lee, Maji, Ravichandran, Soatto, "Meta-Learning with Differentiable Convex Optimization", 2019,
              arXiv:1904.03758, section 4.1.
    Command:  jmeta train folder_resnet12 --path DIR [--host-fed]
    Time:     depends on the images; only a few steps were run, and it needs an accelerator.
    Expected: depends on the images.

    Differs from the papers: group instead of batch normalisation, so that predictions are inductive.
    """

    path: str = ""
    """The folder of your images: one folder for each class, or folders meta_train, meta_valid and meta_test of such
    folders."""
    size: tuple[int, int] | None = (84, 84)
    """Height and width that images are resized to; not resized if not given."""
    num_channels: int = 3
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
    widths: tuple[int, ...] = (64, 160, 320, 640)
    """Channels of the network's blocks."""
    dropout_rate: float = 0.1
    """Share of each block's output that is dropped in training."""
    drop_size: int = 5
    """Side of the dropped squares: 1 is dropout, more is DropBlock."""
    meta_lr: float = 1e-3
    """Halved every `halve_lr_every` meta-steps."""
    halve_lr_every: int = 5000
    training: runs.Training = runs.Training(
        num_steps=20_000,
        tasks_per_step=4,
        steps_per_dispatch=20,
        evaluate_every=500,
        num_valid_tasks=200,
        batching="scan",
        patience=10,
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, halve_lr_every=options.halve_lr_every)

    def resnet12(num_outputs: int | None) -> Model:
        return models.resnet12(
            num_outputs,
            widths=options.widths,
            norm="group",
            dropout_rate=options.dropout_rate,
            drop_size=options.drop_size,
        )

    embedding = resnet12(None)
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
        optimizer=optax.adam(optax.exponential_decay(options.meta_lr, options.halve_lr_every, 0.5, staircase=True)),
        baselines=images.baselines(resnet12(options.num_ways), num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
