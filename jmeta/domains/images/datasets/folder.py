"""Anyone's own images: one folder for each class.

Either `root/CLASS/*.png`, and classes are split at random; or `root/meta_train/CLASS/*.png` and likewise meta_valid and
meta_test, and the split is as given. What is wrong with a folder is said by name, with what to do.
"""

import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from .image_classes import ImageClasses, ImageSplits

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("meta_train", "meta_valid", "meta_test")


def load(
    root: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    num_channels: int = 3,
    min_images: int = 2,
    fractions: tuple[float, float] = (0.2, 0.2),
    seed: int = 0,
) -> ImageSplits:
    """Load images from folders of classes.

    Args:
      root: has a folder for each class, or the folders meta_train, meta_valid and meta_test that have them.
      size: `(height, width)` to resize all images to; by default they must be of one size already.
      num_channels: 1 for grey, 3 for RGB; images are converted.
      min_images: fewest images of a class. A task needs `num_shots + num_queries`.
      fractions: shares of the classes that become meta_valid and meta_test, where `root` does not say which.
      seed: of that random split.

    Returns:
      Splits of classes named by their folders, with `class_sizes` where classes differ in size.

    Raises:
      FileNotFoundError: if `root` is no folder.
      ValueError: if there are no class folders, one or two of the three splits only, too few classes for three splits,
        too few images in a class, images of several sizes and no `size`, an unreadable or empty file, or a class in two
        splits.
      ImportError: if Pillow is not installed.

    Example:
      >>> import pathlib, tempfile, numpy as np
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as root:
      ...     for name in ("cat", "dog", "owl", "yak", "zebra"):
      ...         (pathlib.Path(root) / name).mkdir()
      ...         for i in range(2):
      ...             Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(f"{root}/{name}/{i}.png")
      ...     [part.images.shape for part in load(root)]
      [(3, 2, 8, 8, 3), (1, 2, 8, 8, 3), (1, 2, 8, 8, 3)]
    """
    root = pathlib.Path(root)
    if num_channels not in (1, 3):
        raise ValueError(f"num_channels={num_channels}; expected 1 (grey) or 3 (RGB)")
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; expected one folder for each class in it")
    given = [root / split for split in SPLITS]
    missing = [folder.name for folder in given if not folder.is_dir()]
    if 0 < len(missing) < len(SPLITS):
        raise ValueError(
            f"{root} has some of the folders {', '.join(SPLITS)}, but not {' and '.join(missing)}; make it, or put all "
            "classes into one folder to have them split at random"
        )
    if not missing:
        class_folders = [_folders_in(folder) for folder in given]
    else:
        class_folders = _shuffled_split(_folders_in(root), fractions, seed)
    _check_disjoint(class_folders)
    paths = [[_images_in(folder, min_images) for folder in part] for part in class_folders]
    images = _read_all([path for part in paths for of_class in part for path in of_class], size, num_channels)
    return ImageSplits(*(_as_classes(part, images) for part in paths))


def _folders_in(root: pathlib.Path) -> list[pathlib.Path]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} has no folders; expected one folder of images for each class")
    return folders


def _shuffled_split(folders: list[pathlib.Path], fractions: tuple[float, float], seed: int) -> list[list[pathlib.Path]]:
    counts = [max(1, round(fraction * len(folders))) for fraction in fractions]
    if len(folders) - sum(counts) < 1 or min(fractions) < 0:
        raise ValueError(
            f"{len(folders)} classes cannot be split by fractions={fractions}: each of meta_train, meta_valid and "
            "meta_test needs a class; add classes or change fractions"
        )
    order = np.random.default_rng(seed).permutation(len(folders))
    valid, test, train = np.split(order, np.cumsum(counts))
    return [[folders[i] for i in sorted(part)] for part in (train, valid, test)]


def _check_disjoint(class_folders: list[list[pathlib.Path]]) -> None:
    names = [folder.name for part in class_folders for folder in part]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"the classes {repeated} are in more than one split; each class belongs to one")


def _images_in(folder: pathlib.Path, min_images: int) -> list[pathlib.Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(paths) < min_images:
        raise ValueError(
            f"{folder} has {len(paths)} images, but min_images={min_images}; add images (of {', '.join(SUFFIXES)}), or "
            "remove the folder"
        )
    return paths


def _read_all(
    paths: list[pathlib.Path], size: tuple[int, int] | None, num_channels: int
) -> dict[pathlib.Path, UInt8[np.ndarray, "height width channels"]]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images takes Pillow: pip install "jmeta[data]"') from error
    images = {path: _read(path, size, num_channels, Image) for path in paths}
    shapes = {image.shape: path for path, image in images.items()}
    if len(shapes) > 1:
        (one, path), (other, other_path) = list(shapes.items())[:2]
        raise ValueError(
            f"images differ in size: {path} is {one[0]} x {one[1]} (height x width), {other_path} is {other[0]} x "
            f"{other[1]}; pass size=(height, width) to resize them all"
        )
    return images


def _read(
    path: pathlib.Path, size: tuple[int, int] | None, num_channels: int, image_module: Any
) -> UInt8[np.ndarray, "height width channels"]:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; remove it, or copy it again")
    try:
        with image_module.open(path) as file:
            image = file.convert("L" if num_channels == 1 else "RGB")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); remove it, or save it again") from error
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], image_module.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, num_channels)


def _as_classes(paths: list[list[pathlib.Path]], images: dict[pathlib.Path, np.ndarray]) -> ImageClasses:
    sizes = np.array([len(of_class) for of_class in paths], np.int32)
    shape = images[paths[0][0]].shape
    padded = np.zeros((len(paths), sizes.max(), *shape), np.uint8)
    for row, of_class in zip(padded, paths, strict=True):
        row[: len(of_class)] = [images[path] for path in of_class]
    names = tuple(of_class[0].parent.name for of_class in paths)
    unequal = sizes if sizes.min() != sizes.max() else None
    return ImageClasses(padded, names, np.zeros(len(names), np.int32), ("all",), unequal)
