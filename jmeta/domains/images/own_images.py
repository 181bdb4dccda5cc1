"""Tasks of a folder of one's own images, drawn on the device or, where they do not fit there, on the host."""

import os
import pathlib

import numpy as np

from jmeta.tasks.host_fed import host_fed as host_fed_tasks
from jmeta.tasks.source import HostTasks, Source

from .datasets import folder
from .datasets.image_classes import ImageClasses
from .protocols import Protocol


def own_images(
    path: str | os.PathLike,
    *,
    num_ways: int,
    num_shots: int,
    num_queries: int,
    train_ways: int | None = None,
    train_shots: int | None = None,
    size: tuple[int, int] | None = None,
    num_channels: int = 3,
    host_fed: bool = False,
    tasks_per_step: int = 1,
    seed: int = 0,
) -> Source:
    """The tasks of a folder of images, one folder for each class.

    Args:
      path: as `datasets.folder.load` takes it; an empty one is refused with what to do.
      num_ways: classes in a task at test.
      num_shots: support examples of each class at test.
      num_queries: queries of each class, in training and at test.
      train_ways: classes in a training task; as many as at test if not given.
      train_shots: support examples of each class in training; as many as at test if not given.
      size: `(height, width)` that images are resized to; as they are if not given.
      num_channels: 1 for grey, 3 for colours.
      host_fed: whether the host draws training tasks, a few batches ahead, for images that do not fit on the device.
      tasks_per_step: tasks of a meta-step, if the host draws them.
      seed: of those draws.

    Raises:
      ValueError, FileNotFoundError: as `datasets.folder.load` and `Protocol.samplers`.

    Example:
      >>> import pathlib, tempfile, numpy as np
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as root:
      ...     for name in ("cat", "dog", "owl", "yak", "zebra"):
      ...         (pathlib.Path(root) / name).mkdir()
      ...         for i in range(2):
      ...             Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(f"{root}/{name}/{i}.png")
      ...     own_images(root, num_ways=1, num_shots=1, num_queries=1).describe(100).partition(" ")[2]
      '1-way 1-shot, 1 query, 100 tasks'
    """
    if not os.fspath(path):
        raise ValueError("pass the folder of your images: --path DIR")
    splits = folder.load(path, size=size, num_channels=num_channels)
    protocol = Protocol("folder", pathlib.Path(path).name, lambda _: splits, test_queries=num_queries)
    ways = num_ways if train_ways is None else train_ways
    shots = num_shots if train_shots is None else train_shots
    source = protocol.source(
        splits, num_ways=num_ways, num_shots=num_shots, train_ways=ways, train_shots=shots, train_queries=num_queries
    )
    if not host_fed:
        return source
    pixels, labels = _flat_examples(splits.meta_train)

    def open_stream(own: range) -> object:
        return host_fed_tasks(
            pixels,
            labels,
            num_ways=ways,
            num_shots=shots,
            num_queries=num_queries,
            num_tasks=tasks_per_step,
            seed=seed,
            own=own,
        )

    return source._replace(meta_train=lambda: HostTasks(open_stream))


def _flat_examples(classes: ImageClasses) -> tuple[np.ndarray, np.ndarray]:
    """The real examples of all classes, and their classes."""
    num_classes, num_each = classes.images.shape[:2]
    sizes = np.full(num_classes, num_each) if classes.class_sizes is None else classes.class_sizes
    is_real = np.arange(num_each)[None] < sizes[:, None]
    return classes.images[is_real], np.repeat(np.arange(num_classes), sizes)
