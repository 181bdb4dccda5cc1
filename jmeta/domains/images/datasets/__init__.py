"""Data sets of images by class: one loader per file.

`glyphs` is rendered at first use, `omniglot` is read from a file or from TFDS, `folder` reads a user's own images. All
return `ImageSplits`, from which a protocol (`jmeta.domains.images.protocols`) draws tasks.
"""

from . import folder, glyphs, omniglot
from .image_classes import ImageClasses, ImageSplits, split_hash

__all__ = ["folder", "glyphs", "omniglot", "ImageClasses", "ImageSplits", "split_hash"]
