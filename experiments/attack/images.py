"""Attacks on image files and folders of them: damaged files of all kinds, odd names, odd trees, links and pipes."""

import os
import pathlib
import warnings
from typing import Any

import numpy as np

from jmeta.domains.images.datasets import folder as image_folder
from jmeta.domains.images.datasets.pixels import Conversion, read_picture

from .cases import Outcome, judge
from .damage import expected, mutated, originals, with_right_checksums

__all__ = ["attack"]

_FILES = originals()
_WHOLE = {name: expected(name, content) for name, content in _FILES.items()}
_NAMES = [
    "a",
    "b c",
    "é",
    "e\u0301",
    "[x]",
    "**",
    "train",
    "meta_test",
    "-rf",
    "%41",
    "\udce9",
    "a\nb",
    "\x1b[2J",
    "日本",
    "CON",
]
_LITTER = [".DS_Store", "Thumbs.db", ".hidden.png", "notes.txt", "README", "labels.csv"]


def attack(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """Read one damaged file, or a folder of classes."""
    return _file(rng, folder) if rng.integers(4) else _tree(rng, folder)


def _file(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    name = list(_FILES)[rng.integers(len(_FILES))]
    content = _FILES[name] if rng.integers(8) == 0 else mutated(_FILES[name], rng)
    if name.startswith("png") and rng.integers(2):
        content = with_right_checksums(content)
    path = folder / f"{_NAMES[rng.integers(len(_NAMES))]}.png"
    path.write_bytes(content)
    conversion = Conversion() if rng.integers(2) else _conversion(rng)

    def is_right(picture: Any) -> bool:
        pixels = picture.pixels
        shape = conversion.size or pixels.shape[:2]
        if pixels.dtype != np.uint8 or pixels.shape != (*shape, conversion.num_channels):
            return False
        right = expected(name, content) if conversion == Conversion() else None
        return right is None or (right.shape == pixels.shape and bool(abs(pixels - right).max() <= 1))

    must = "accept" if content == _FILES[name] else "either"
    return judge(
        lambda: _quiet(read_picture, path, conversion), what=f"{name} {content!r:.80}", is_right=is_right, must=must
    )


def _conversion(rng: np.random.Generator) -> Conversion:
    size = (int(rng.integers(1, 20)), int(rng.integers(1, 20))) if rng.integers(3) else None
    fits: Any = ["squash", "crop", "pad"]
    return Conversion(size, int(rng.choice([1, 3])), fits[rng.integers(3)], int(rng.integers(256)))


def _tree(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """A folder of classes: in one of several layouts, of files whose pixels are known, with odd things beside them."""
    root = folder / _NAMES[rng.integers(len(_NAMES))]
    layout = rng.integers(4)
    splits = [[""], ["meta_train", "meta_valid", "meta_test"], ["train", "val", "test"], [""]][layout]
    names = [str(name) for name in rng.permutation(np.array(_NAMES, object))]
    whole = {name: pixels for name, pixels in _WHOLE.items() if pixels is not None}
    right: dict[str, list[np.ndarray]] = {}
    for i in range(int(rng.integers(3, 7))):
        place = root / splits[i % len(splits)] / names[i] / ("images" if layout == 3 else "")
        place.mkdir(parents=True)
        chosen = sorted(rng.choice(list(whole), int(rng.integers(1, 4))))
        for j, kind in enumerate(chosen):
            (place / f"{j}.png").write_bytes(_FILES[kind])
        right[names[i]] = [whole[kind] for kind in chosen]
    is_harmed = rng.integers(2) and _harm(root, rng)
    numbers: dict[str, Any] = {"min_images": int(rng.integers(1, 3)), "seed": int(rng.integers(9))}

    def is_right(found: Any) -> bool:
        if is_harmed:
            return True
        loaded = {name: list(images) for part in found for name, images in _by_class(part)}
        kept = {name: pixels for name, pixels in right.items() if len(pixels) >= numbers["min_images"]}
        return loaded.keys() == kept.keys() and all(
            len(loaded[name]) == len(kept[name])
            and all(abs(a - b).max() <= 1 for a, b in zip(loaded[name], kept[name], strict=True))
            for name in kept
        )

    return judge(lambda: _quiet(image_folder.load, root, **numbers), what=f"tree {layout} {numbers}", is_right=is_right)


def _by_class(part: Any) -> list[tuple[str, np.ndarray]]:
    ends = np.cumsum(part.class_sizes)
    return [
        (name, part.examples[end - size : end])
        for name, end, size in zip(part.class_names, ends, part.class_sizes, strict=True)
    ]


def _harm(root: pathlib.Path, rng: np.random.Generator) -> bool:
    """Put something odd into a tree; return whether what is loaded from it may be other than what was in it."""
    places = [path for path in root.rglob("*") if path.is_dir()]
    place = places[rng.integers(len(places))]
    match rng.integers(8):
        case 0:
            (place / _LITTER[rng.integers(len(_LITTER))]).write_bytes(rng.bytes(20))
            return False
        case 1:
            (place / "__MACOSX").mkdir()
            (place / "__MACOSX" / "._0.png").write_bytes(rng.bytes(20))
            return False
        case 2:
            os.mkfifo(place / "pipe.png")
        case 3:
            (place / "nowhere.png").symlink_to(root / "nothing")
        case 4:
            (place / "around").symlink_to(root)
        case 5:
            (place / "damaged.png").write_bytes(mutated(_FILES["png_L"], rng))
        case 6:
            (place / "folder.png").mkdir()
        case 7:
            (place / "empty").mkdir()
    return True


def _quiet(call: Any, *arguments: Any, **named: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **named)
