"""Completion of a data set's images: classes and drawings that no training saw, under a name that numbers carry."""

import hashlib
from typing import Literal

import numpy as np
from jax.tree_util import Partial

from jmeta import tasks
from jmeta.tasks.gaussian_process import Count
from jmeta.tasks.source import Source

from .datasets.image_classes import ImageClasses, ImageSplits, split_hash
from .protocols import Protocol

__all__ = ["completion"]


def completion(
    protocol: Protocol,
    splits: ImageSplits | None = None,
    *,
    train_shots: Count,
    num_shots: int,
    train_queries: int | None = None,
    tested: Literal["new classes", "new drawings"] = "new classes",
    num_held_out: int = 2,
    threshold: float | None = 0.5,
) -> Source:
    """Return the tasks of an experiment on completing images.

    The last drawings of every class of meta_train are held out. Models are selected on meta_valid, with as many pixels
    seen as in training; at test all pixels that are not seen are predicted. Images are distorted as the protocol says,
    and not rotated.

    Args:
      protocol: the data, their split and their distortion, such as `protocols.glyphs`; the rest of it is for classes.
      splits: the data, if already loaded; otherwise `protocol.load` reads them.
      train_shots: pixels that are seen in training, as in `tasks.completion`.
      num_shots: pixels that are seen at test.
      train_queries: pixels that are predicted in training and validation; `None` for all that are not seen.
      tested: whether test images are of the classes of meta_test, or the drawings of meta_train that are held out.
      num_held_out: drawings of each class that are held out, at least 1.
      threshold: makes images binary, as in `tasks.completion`; `None` leaves them grey.

    Raises:
      ValueError: if the split of the classes is not the protocol's, `tested` is unknown, a class has no more than
        `num_held_out` drawings, or as `tasks.completion`.

    Example:
      >>> import jax
      >>> from jmeta.domains.images import completion, protocols
      >>> source = completion(protocols.glyphs, train_shots=(8, 392), num_shots=39)
      >>> source.meta_test(jax.random.key(0)).query.y.shape
      (745, 1)
      >>> source.describe(1000)
      'glyphs completion, new classes, 39 of 784 pixels, 1000 tasks'
    """
    loaded = protocol.load(None) if splits is None else splits
    protocol.check_split(loaded)
    if tested not in ("new classes", "new drawings"):
        raise ValueError(f"tested={tested!r}; expected 'new classes' or 'new drawings'")
    drawn, held_out = _drawings(loaded.meta_train, num_held_out)
    images = loaded.meta_test.examples if tested == "new classes" else loaded.meta_train.examples[held_out]
    names = np.array(_names(loaded.meta_train), dtype=object)
    _, height, width, _ = images.shape

    def sampler(images: np.ndarray, num_shots: Count, num_queries: int | None) -> Partial:
        augment = protocol.augment
        return tasks.completion(
            images, num_shots=num_shots, num_queries=num_queries, threshold=threshold, augment=augment
        )

    def words(pixels: Count, which: str, num_tasks: int) -> str:
        shown = f"{pixels[0]} to {pixels[1]}" if isinstance(pixels, tuple) else f"{pixels}"
        return f"{protocol.dataset} completion, {which}, {shown} of {height * width} pixels, {num_tasks} tasks"

    is_new_class = tested == "new classes"
    return Source(  # images of meta_train go to the device when training asks for them
        meta_train=lambda: sampler(loaded.meta_train.examples[drawn], train_shots, train_queries),
        meta_valid=sampler(loaded.meta_valid.examples, train_shots, train_queries),
        meta_test=sampler(images, num_shots, None),
        name=f"{protocol.dataset} completion, {tested}",
        describe=lambda num_tasks: words(num_shots, tested, num_tasks),
        describe_valid=lambda num_tasks: words(train_shots, "new classes", num_tasks),
        split_hash=hashlib.sha256(f"{split_hash(loaded)} {num_held_out}".encode()).hexdigest(),
        seen_classes=frozenset((*loaded.meta_train.class_names, *loaded.meta_valid.class_names, *names[drawn])),
        test_classes=frozenset(loaded.meta_test.class_names if is_new_class else names[held_out]),
    )


def _drawings(classes: ImageClasses, num_held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of the examples to train on and of the last ones of every class, which are held out."""
    sizes = classes.class_sizes
    if not 0 < num_held_out < sizes.min():
        raise ValueError(
            f"num_held_out={num_held_out}; expected at least 1, and fewer than the {sizes.min()} drawings of the "
            "smallest class"
        )
    after = np.repeat(np.cumsum(sizes), sizes) - np.arange(sizes.sum())  # 1 for the last example of a class
    return after > num_held_out, after <= num_held_out


def _names(classes: ImageClasses) -> list[str]:
    """Return a name of each example."""
    sizes = classes.class_sizes
    return [f"{name} {i}" for name, size in zip(classes.class_names, sizes, strict=True) for i in range(size)]
