"""The common result of every image loader: classes with their images, in three splits of classes.

Here data sets take one form: a protocol builds its samplers from `ImageSplits`, whichever loader they came from.
"""

import hashlib
from typing import NamedTuple

import numpy as np

__all__ = ["ImageClasses", "ImageSplits", "split_hash"]


class ImageClasses(NamedTuple):
    """Images by class, one after the other: classes of any sizes take no more memory than their images.

    Attributes:
      examples: uint8 `[examples, height, width, channels]`, class after class.
      class_sizes: int32 `[classes]`, number of examples of each class.
      class_names: one name for each class, unique in the whole data set.
      groups: int32 `[classes]`, the group (alphabet, script) of each class.
      group_names: names of the groups; `groups` indexes them.

    Example:
      >>> import numpy as np
      >>> one_each = ImageClasses.padded(np.zeros((3, 1, 8, 8, 1), np.uint8), ("a", "b", "c"))
      >>> one_each.select(np.array([2, 0])).class_names
      ('c', 'a')
    """

    examples: np.ndarray
    class_sizes: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray
    group_names: tuple[str, ...]

    @classmethod
    def padded(
        cls,
        images: np.ndarray,
        class_names: tuple[str, ...],
        groups: np.ndarray | None = None,
        group_names: tuple[str, ...] = ("all",),
        class_sizes: np.ndarray | None = None,
    ) -> "ImageClasses":
        """Build from `[classes, examples, height, width, channels]`, the first `class_sizes` of each being real."""
        num_classes, num_each = images.shape[:2]
        sizes = np.full(num_classes, num_each) if class_sizes is None else np.asarray(class_sizes)
        flat = images.reshape(-1, *images.shape[2:]) if class_sizes is None else images[_is_real(sizes, num_each)]
        groups = np.zeros(num_classes, np.int32) if groups is None else groups
        return cls(flat, sizes.astype(np.int32), class_names, groups, group_names)

    @property
    def images(self) -> np.ndarray:
        """The images as `[classes, examples, height, width, channels]`; where classes differ in size, a padded copy."""
        most = int(self.class_sizes.max(initial=0))
        if (self.class_sizes == most).all():
            return self.examples.reshape(len(self.class_sizes), most, *self.examples.shape[1:])
        images = np.zeros((len(self.class_sizes), most, *self.examples.shape[1:]), self.examples.dtype)
        images[_is_real(self.class_sizes, most)] = self.examples
        return images

    def select(self, indices: np.ndarray) -> "ImageClasses":
        """Return the classes at `indices`, an array of integers or a mask, in that order."""
        names = tuple(np.asarray(self.class_names, dtype=object)[indices])
        starts, sizes = np.cumsum(self.class_sizes) - self.class_sizes, self.class_sizes[indices]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        chosen = np.repeat(starts[indices], sizes) + within
        return ImageClasses(self.examples[chosen], sizes, names, self.groups[indices], self.group_names)


def _is_real(class_sizes: np.ndarray, num_each: int) -> np.ndarray:
    return np.arange(num_each) < class_sizes[:, None]


class ImageSplits(NamedTuple):
    """Three disjoint sets of classes: for meta-training, validation and test."""

    meta_train: ImageClasses
    meta_valid: ImageClasses
    meta_test: ImageClasses


def split_hash(splits: ImageSplits) -> str:
    """Return the SHA-256 of the assignment of classes to splits; it depends on no order and on no pixel.

    Example:
      >>> import numpy as np
      >>> one = lambda name: ImageClasses.padded(np.zeros((1, 1, 2, 2, 1), np.uint8), (name,))
      >>> split_hash(ImageSplits(one("a"), one("b"), one("c")))[:8]
      'd1dba166'
    """
    lines = [f"{split}\t{name}" for split, part in splits._asdict().items() for name in sorted(part.class_names)]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()  # names may be any bytes
