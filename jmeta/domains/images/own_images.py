"""Tasks from a folder of your own images, drawn on the device or, where images do not fit there, on the host."""

import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jmeta.decoding import shown
from jmeta.tasks.host_fed import host_fed as host_fed_tasks
from jmeta.tasks.source import HostTasks, Source
from jmeta.types import Batch, Task

from .datasets import ImageSplits, folder
from .datasets.pixels import Conversion, Fit
from .protocols import Protocol

__all__ = ["own_images"]


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
    fit: Fit = "squash",
    background: int = 255,
    host_fed: bool = False,
    tasks_per_step: int = 1,
    seed: int = 0,
) -> Source:
    """Build the source of tasks for a folder of images, one folder for each class.

    If the folder is gone and `size` is given, a trained run can still be loaded: the source has a `placeholder`, and
    drawing a task raises the error that names what is missing.

    Args:
      path: the folder, laid out as `datasets.folder.load` describes.
      num_ways: classes in a task at test.
      num_shots: support examples of each class at test.
      num_queries: queries of each class, in training and at test.
      train_ways: classes in a training task; as many as at test if not given.
      train_shots: support examples of each class in training; as many as at test if not given.
      size: `(height, width)` that images are resized to; unchanged if not given.
      num_channels: 1 for grey, 3 for colour.
      fit: "squash", "crop" or "pad", for images of another shape than `size`.
      background: grey value behind transparent and padded images, from 0 (black) to 255 (white).
      host_fed: whether the host draws training tasks, a few batches ahead, for images that do not fit on the device.
      tasks_per_step: tasks in a meta-step; used only if the host draws them.
      seed: seed of the draws on the host.

    Returns:
      A source whose `record` has the classes of the splits and how images were prepared.

    Raises:
      ValueError: as for `datasets.folder.load` and `Protocol.samplers`.
      FileNotFoundError: if the folder is gone; if `size` is given, only when tasks are drawn.

    Example:
      >>> import pathlib, tempfile, numpy as np
      >>> from PIL import Image
      >>> rng = np.random.default_rng(0)
      >>> with tempfile.TemporaryDirectory() as root:
      ...     for name in ("cat", "dog", "owl", "yak", "zebra"):
      ...         (pathlib.Path(root) / name).mkdir()
      ...         for i in range(2):
      ...             Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(f"{root}/{name}/{i}.png")
      ...     own_images(root, num_ways=1, num_shots=1, num_queries=1).describe(100).partition(" ")[2]
      '1-way 1-shot, 1 query, 100 tasks'
    """
    if not os.fspath(path):
        raise ValueError("pass the folder of your images: --path DIR")
    conversion = Conversion(size, num_channels, fit, background)
    name = shown(pathlib.Path(path).name)
    ways = num_ways if train_ways is None else train_ways
    shots = num_shots if train_shots is None else train_shots

    def host_tasks(examples: np.ndarray, labels: np.ndarray, error: Exception | None = None) -> HostTasks:
        numbers: Any = {"num_ways": ways, "num_shots": shots, "num_queries": num_queries, "num_tasks": tasks_per_step}

        def open_stream(own: range) -> object:
            get_image = np.asarray if error is None else _raising(error, but_first=True)
            return host_fed_tasks(examples, labels, **numbers, seed=seed, own=own, get_image=get_image)

        return HostTasks(open_stream)

    try:
        splits = folder.load(path, **conversion._asdict())
    except (FileNotFoundError, folder.IncompleteError) as caught:
        error = caught
        if size is None:
            raise
        protocol = Protocol("folder", name, _raising(error), test_queries=num_queries)
        source = _without_data(protocol, error, (*size, num_channels), num_ways, num_shots, num_queries)
        if not host_fed:
            return source
        labels = np.repeat(np.arange(ways), shots + num_queries)
        zeros = np.zeros((len(labels), *size, num_channels), np.uint8)
        return source._replace(meta_train=lambda: host_tasks(zeros, labels, error))
    protocol = Protocol("folder", name, lambda _: splits, test_queries=num_queries)
    source = protocol.source(
        splits, num_ways=num_ways, num_shots=num_shots, train_ways=ways, train_shots=shots, train_queries=num_queries
    )
    source = source._replace(record=_record(splits, conversion))
    if not host_fed:
        return source
    train = splits.meta_train
    labels = np.repeat(np.arange(len(train.class_sizes)), train.class_sizes)
    return source._replace(meta_train=lambda: host_tasks(train.examples, labels))


def _record(splits: ImageSplits, conversion: Conversion) -> dict[str, Any]:
    """Return, as JSON, the classes with their numbers of images, and the preparation of the images."""
    classes = {
        split: dict(zip(map(shown, part.class_names), part.class_sizes.tolist(), strict=True))
        for split, part in splits._asdict().items()
    }
    shape = list(splits.meta_train.examples.shape[1:])
    return {"classes": classes, "image_shape": shape, "preparation": conversion._asdict()}


def _without_data(
    protocol: Protocol, error: Exception, shape: tuple[int, ...], num_ways: int, num_shots: int, num_queries: int
) -> Source:
    """Build a source that a trained run can be loaded with, and whose samplers raise `error`."""

    def batch(num_each: int) -> Batch:
        return Batch(jnp.zeros((num_ways * num_each, *shape)), jnp.zeros(num_ways * num_each, jnp.int32))

    sample = Partial(_raising(error))
    return Source(
        meta_train=lambda: sample,
        meta_valid=sample,
        meta_test=sample,
        name=f"{protocol.name}/{protocol.dataset} {num_ways}-way {num_shots}-shot",
        describe=lambda num_tasks: protocol.describe(num_ways=num_ways, num_shots=num_shots, num_tasks=num_tasks),
        placeholder=Task(batch(num_shots), batch(num_queries)),
    )


def _raising(error: Exception, *, but_first: bool = False) -> Any:
    """Build a function that raises; with `but_first` not in its first call, in which a stream looks at the dtype."""
    allowed = [but_first]

    def fail(argument: Any) -> Any:
        if allowed[0]:
            allowed[0] = False
            return argument
        raise error

    return fail
