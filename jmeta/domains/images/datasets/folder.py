"""Load your own images: one folder for each class.

Either `root/CLASS/*.png`, and classes are split at random; or `root/meta_train/CLASS/*.png` and likewise meta_valid and
meta_test, and that split is used. Errors name the file and the remedy; warnings count anomalies. The table in `pixels`
lists the kinds of images and how each is read.
"""

import hashlib
import os
import pathlib
import warnings
from collections import Counter

import numpy as np

from jmeta.decoding import shown

from .image_classes import ImageClasses, ImageSplits
from .layout import SPLITS as SPLITS
from .layout import ClassFolder, Parts, find, names
from .layout import IncompleteError as IncompleteError
from .pixels import SUFFIXES as SUFFIXES
from .pixels import Conversion, Fit, read_picture

__all__ = ["load"]

_DEEP_ENOUGH = 2**12  # the brightest value of 16 bits below which hardly any of the 256 levels are used


def load(
    root: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    num_channels: int = 3,
    fit: Fit = "squash",
    background: int = 255,
    min_images: int = 2,
    fractions: tuple[float, float] = (0.2, 0.2),
    seed: int = 0,
) -> ImageSplits:
    """Load images from folders of classes.

    The images of a class are those in its folder or, if it has none, in the one folder of images inside it
    (`CLASS/images/*.png`). The three splits are also recognised as train, val or valid, and test, if no other folder is
    next to them or if all three have folders of classes.

    Warns, with names and numbers, of: files and folders that were left out (hidden ones, other kinds, classes of fewer
    than `min_images` images); images that `fit` changed; files of which only the first frame was read; 16-bit images so
    dark that few levels remain; the same picture in several classes or splits; classes whose images are all equal, and
    data that are all of one value.

    Args:
      root: folder with a folder for each class, or with meta_train, meta_valid and meta_test that have them.
      size: `(height, width)` to resize all images to; by default they must be of one size already.
      num_channels: 1 for grey, 3 for RGB; images are converted.
      fit: how images of another shape are fitted to `size`: "squash" scales their sides differently, "crop" cuts off
        both ends of the longer side, "pad" fills the shorter one with `background`.
      background: grey value, from 0 (black) to 255 (white), behind transparent and padded images. White strokes on a
        transparent background need 0.
      min_images: least number of images in a class; smaller ones are left out. A task needs `num_shots + num_queries`.
      fractions: fractions of the classes that become meta_valid and meta_test, if `root` has no split.
      seed: seed of that random split.

    Returns:
      Splits of classes named by their folders.

    Raises:
      FileNotFoundError: if `root` is not a folder.
      ValueError: if there are no class folders, one or two of the three splits only, too few classes for three splits,
        no class with enough images, several folders of images in a class, images of several sizes and no `size`, a file
        that cannot be read (`jmeta.decoding.UnreadableError`), or a class in two splits.
      ImportError: if Pillow is not installed.

    Example:
      >>> import pathlib, tempfile, numpy as np
      >>> from PIL import Image
      >>> rng = np.random.default_rng(0)
      >>> with tempfile.TemporaryDirectory() as root:
      ...     for name in ("cat", "dog", "owl", "yak", "zebra"):
      ...         (pathlib.Path(root) / name).mkdir()
      ...         for i in range(2):
      ...             Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(f"{root}/{name}/{i}.png")
      ...     [part.images.shape for part in load(root)]
      [(3, 2, 8, 8, 3), (1, 2, 8, 8, 3), (1, 2, 8, 8, 3)]
    """
    conversion = Conversion(size, num_channels, fit, background)
    conversion.check()
    parts, ignored = find(pathlib.Path(root), min_images=min_images, fractions=fractions, seed=seed)
    reader = _Reader(conversion)
    splits = ImageSplits(*(reader.read_part(part) for part in parts))
    said = [f"left out were {', '.join(f'{count} {words}' for words, count in ignored.items())}"] if ignored else []
    for message in said + reader.remarks() + _remarks_on_pixels(parts, splits, background):
        warnings.warn(f"{shown(root)}: {message}", stacklevel=2)
    return splits


class _Reader:
    """Reader of the images of classes; it counts the conversions that change something."""

    def __init__(self, conversion: Conversion) -> None:
        self.conversion = conversion
        self.first: tuple[pathlib.Path, tuple[int, ...]] | None = None  # all others have its shape
        self.counts: Counter[str] = Counter()
        self.peak: int | None = None

    def read_part(self, part: list[ClassFolder]) -> ImageClasses:
        """Read the classes of one split; it needs no more memory than their images."""
        sizes = np.array([len(each.images) for each in part], np.int32)
        examples = np.zeros(0, np.uint8)
        for i, path in enumerate(path for each in part for path in each.images):
            pixels = self.read(path)
            if i == 0:
                examples = np.empty((sizes.sum(), *pixels.shape), np.uint8)
            examples[i] = pixels
        class_names = tuple(each.folder.name for each in part)
        return ImageClasses(examples, sizes, class_names, np.zeros(len(part), np.int32), ("all",))

    def read(self, path: pathlib.Path) -> np.ndarray:
        picture = read_picture(path, self.conversion)
        shape = picture.pixels.shape
        if self.first is None:
            self.first = path, shape
        if shape != self.first[1]:
            other, first = self.first
            raise ValueError(
                f"images differ in size: {shown(other)} is {first[0]} x {first[1]} (height x width), {shown(path)} is "
                f"{shape[0]} x {shape[1]}; pass size=(height, width) to resize them all"
            )
        self.counts.update(all=1, reshaped=picture.was_reshaped, frames=picture.has_more_frames)
        if picture.peak is not None:
            self.peak = max(picture.peak, self.peak or 0)
        return picture.pixels

    def remarks(self) -> list[str]:
        """Return remarks on conversions that lose or change something."""
        count, (_, _, fit, _) = self.counts, self.conversion
        remarks = []
        if count["reshaped"]:
            done = {"squash": "squashed", "crop": "cropped", "pad": "padded"}[fit]
            remarks.append(
                f"{count['reshaped']} of {count['all']} images have another shape than size={self.conversion.size} and "
                f"were {done}; choose by fit='squash', 'crop' or 'pad'"
            )
        if count["frames"]:
            remarks.append(f"{count['frames']} of {count['all']} files hold several frames; the first of each was read")
        if self.peak is not None and self.peak < _DEEP_ENOUGH:
            remarks.append(
                f"the images of more than 8 bits go to {self.peak} of 65535, which leaves {self.peak // 256 + 1} of "
                "256 levels; scale them up before"
            )
        return remarks


def _remarks_on_pixels(parts: Parts, splits: ImageSplits, background: int) -> list[str]:
    """Return remarks on suspicious data: one value everywhere, equal images in a class, pictures in several places."""
    values = {int(value) for part in splits for value in (part.examples.min(), part.examples.max())}
    if len(values) == 1:
        hint = "; are they white on transparent? Then pass background=0" if values == {background} else ""
        return [f"all images come out constant: every value is {values.pop()}{hint}"]
    places: dict[bytes, list[tuple[str, str, pathlib.Path]]] = {}
    equal = []
    for split, part, classes in zip(SPLITS, parts, splits, strict=True):
        paths = [(split, each.folder.name, path) for each in part for path in each.images]
        digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in classes.examples]
        for digest, place in zip(digests, paths, strict=True):
            places.setdefault(digest, []).append(place)
        ends = np.cumsum(classes.class_sizes)
        for each, end, size in zip(part, ends, classes.class_sizes, strict=True):
            if size > 1 and len(set(digests[end - size : end])) == 1:
                equal.append(each.folder)
    remarks = [f"in {len(equal)} classes all images are equal: {names(equal)}"] if equal else []
    shared = [found for found in places.values() if len({name for _, name, _ in found}) > 1]
    for what, field in (("splits", 0), ("classes", 1)):  # each picture is named once
        among = [found for found in shared if (len({split for split, _, _ in found}) > 1) == (field == 0)]
        pairs = [f"{found[0][2]} = {next(p for p in found if p[field] != found[0][field])[2]}" for found in among]
        remarks += [f"{len(among)} pictures are in several {what}: {names(pairs)}"] if among else []
    return remarks
