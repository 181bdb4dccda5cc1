"""What every loader of images returns: classes with their images, in three splits of classes.

This is where data sets become alike: a protocol builds its samplers from `ImageSplits`, whichever loader it came from.
"""

import hashlib
from typing import NamedTuple

import numpy as np


class ImageClasses(NamedTuple):
    """Images by class.

    Attributes:
      images: uint8 `[classes, examples, height, width, channels]`.
      class_names: one name for each class, unique in the whole data set.
      groups: int32 `[classes]`, the group (alphabet, script) of each class.
      group_names: names of the groups; `groups` counts in them.
      class_sizes: int32 `[classes]`, how many examples of each class are real (they come first); `None` when all are.
    """

    images: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray
    group_names: tuple[str, ...]
    class_sizes: np.ndarray | None = None

    def select(self, indices: np.ndarray) -> "ImageClasses":
        """The classes at `indices`, an array of integers or a mask, in that order."""
        names = tuple(np.asarray(self.class_names, dtype=object)[indices])
        sizes = None if self.class_sizes is None else self.class_sizes[indices]
        return ImageClasses(self.images[indices], names, self.groups[indices], self.group_names, sizes)


class ImageSplits(NamedTuple):
    """Three disjoint sets of classes: to meta-train on, to choose by, to report."""

    meta_train: ImageClasses
    meta_valid: ImageClasses
    meta_test: ImageClasses


def split_hash(splits: ImageSplits) -> str:
    """SHA-256 of which class is in which split; it depends on no order and on no pixel.

    Example:
      >>> import numpy as np
      >>> one = lambda name: ImageClasses(np.zeros((1, 1, 2, 2, 1), np.uint8), (name,), np.zeros(1, np.int32), ("all",))
      >>> split_hash(ImageSplits(one("a"), one("b"), one("c")))[:8]
      'd1dba166'
    """
    lines = [f"{split}\t{name}" for split, part in splits._asdict().items() for name in sorted(part.class_names)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
