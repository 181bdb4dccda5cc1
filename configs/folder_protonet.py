"""Prototypical networks on your own images."""

from dataclasses import dataclass

from .parts import Conv4, Folder, Protonet, Testing, Training


@dataclass(frozen=True)
class FolderProtonet:
    """Prototypical networks on your own images, a folder for each class.

    Paper:    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175.
    Command:  python -m experiments.train folder_protonet --data.path DIR [--data.host-fed]
    Time:     depends on the images.
    Expected: depends on the images.
    """

    data: Folder = Folder()
    model: Conv4 = Conv4(num_filters=32, pooling="max", norm="group")
    method: Protonet = Protonet()
    training: Training = Training(
        num_steps=2000, tasks_per_step=4, steps_per_dispatch=20, evaluate_every=200, num_valid_tasks=200, patience=5
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = FolderProtonet()
