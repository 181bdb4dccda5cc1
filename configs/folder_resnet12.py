"""Prototypical networks with a ResNet-12 on your own images."""

from dataclasses import dataclass

from .parts import Folder, Protonet, Resnet12, Testing, Training


@dataclass(frozen=True)
class FolderResnet12:
    """Prototypical networks with a ResNet-12 on your own images in colour, a folder for each class.

    Paper:    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175; the network
              is that of Lee, Maji, Ravichandran, Soatto, "Meta-Learning with Differentiable Convex Optimization", 2019,
              arXiv:1904.03758, section 4.1.
    Command:  python -m experiments.train folder_resnet12 --data.path DIR [--data.host-fed]
    Time:     depends on the images; was not run but for a few steps, and wants an accelerator.
    Expected: depends on the images.

    Differs from the papers: group instead of batch normalisation, so that predictions are inductive.
    """

    data: Folder = Folder(size=(84, 84), num_channels=3)
    model: Resnet12 = Resnet12(norm="group", dropout_rate=0.1, drop_size=5)
    method: Protonet = Protonet()
    training: Training = Training(
        num_steps=20_000,
        tasks_per_step=4,
        steps_per_dispatch=20,
        evaluate_every=500,
        num_valid_tasks=200,
        schedule="halved",
        halve_lr_every=5000,
        batching="scan",
        patience=10,
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = FolderResnet12()
