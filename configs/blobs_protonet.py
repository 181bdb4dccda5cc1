"""Prototypical networks on Gaussian blobs: the smallest classification run, for trying things out."""

from dataclasses import dataclass

from .parts import Blobs, Mlp, Protonet, Testing, Training


@dataclass(frozen=True)
class BlobsProtonet:
    """Prototypical networks on Gaussian blobs, a run of seconds without any data.

    Paper:    none; the method is Snell, Swersky, Zemel, "Prototypical Networks", 2017, arXiv:1703.05175.
    Command:  python -m experiments.train blobs_protonet
    Time:     about 10 seconds on 2 CPU cores.
    Expected: about the accuracy of the nearest mean of the inputs, which is optimal here.
    """

    data: Blobs = Blobs()
    model: Mlp = Mlp(hidden=(64, 32))
    method: Protonet = Protonet()
    training: Training = Training(
        num_steps=1000, tasks_per_step=8, steps_per_dispatch=100, evaluate_every=200, num_valid_tasks=400
    )
    testing: Testing = Testing(tasks_at_once=100)


RECIPE = BlobsProtonet()
