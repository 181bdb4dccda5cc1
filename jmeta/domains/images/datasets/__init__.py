"""Data sets of images by class: one loader a file.

`glyphs` is rendered on the spot, `omniglot` is read from a file or from TFDS, `folder` reads anyone's own images. All
end in `ImageSplits`, which a protocol (`jmeta.domains.images.protocols`) draws tasks from.
"""

from . import folder, glyphs, omniglot
from .image_classes import ImageClasses, ImageSplits, split_hash

__all__ = ["folder", "glyphs", "omniglot", "ImageClasses", "ImageSplits", "split_hash"]
