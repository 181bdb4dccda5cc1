"""Data sets of images by class: one loader a file.

`glyphs` is rendered on the spot, `omniglot` is read from a file or from TFDS, `folder` reads anyone's own images. All
end in `ImageSplits`, which a protocol (`jmeta.domains.images.protocols`) draws tasks from.
"""

from . import folder as folder
from . import glyphs as glyphs
from . import omniglot as omniglot
from .image_classes import ImageClasses as ImageClasses
from .image_classes import ImageSplits as ImageSplits
from .image_classes import split_hash as split_hash
