"""The search for the image files of each class and split in a folder, without opening any.

Skipped images are counted, and so are files of other kinds. Files that operating systems put into every folder are
skipped silently.
"""

import os
import pathlib
from collections import Counter
from typing import NamedTuple

import numpy as np

from jmeta.decoding import shown
from jmeta.tasks.class_arrays import check_positive

from .pixels import SUFFIXES

__all__ = ["SPLITS", "IncompleteError", "ClassFolder", "Parts", "find", "names"]

SPLITS = ("meta_train", "meta_valid", "meta_test")
_SPLIT_WORDS = (("train", "training"), ("valid", "val", "validation", "dev"), ("test", "testing"))
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
_NUM_NAMED = 5  # number of names shown in a message
_MAX_DEPTH = 4  # depth of folders in a class folder


class IncompleteError(ValueError):
    """Some of the folders of the three splits are missing."""


class ClassFolder(NamedTuple):
    """One class: its folder, and the paths of its images in the order of their names."""

    folder: pathlib.Path
    images: list[pathlib.Path]


Parts = list[list[ClassFolder]]
"""The classes of meta_train, of meta_valid and of meta_test."""


class _Entries(NamedTuple):
    """The visible content of a folder, sorted by name."""

    folders: list[pathlib.Path]
    images: list[pathlib.Path]


def find(
    root: pathlib.Path, *, min_images: int, fractions: tuple[float, float], seed: int
) -> tuple[Parts, dict[str, int]]:
    """Find the images of every class, split as their folders are, or else at random.

    Args:
      root: as for `folder.load`.
      min_images: least number of images in a class; smaller ones are left out.
      fractions: fractions of the classes that become meta_valid and meta_test.
      seed: seed of the random split.

    Returns:
      `(parts, counts)`; `counts` says in words what was left out, and how much.

    Raises:
      FileNotFoundError: if `root` is not a folder.
      ValueError: as for `folder.load`.
    """
    check_positive({"min_images": min_images})
    if len(fractions) != 2 or not all(0 <= fraction < 1 for fraction in fractions):
        raise ValueError(f"fractions={fractions}; expected the shares of meta_valid and meta_test, each in [0, 1)")
    if not root.is_dir():
        raise FileNotFoundError(f"{shown(root)} is not a folder; expected one folder for each class in it")
    ignored: Counter[str] = Counter()
    entries = _entries(root, ignored)
    given = _given_splits(root, entries.folders)
    ignored["images outside of class folders"] += len(entries.images)
    if given is None:
        classes = _large_enough(root, _classes_in(root, entries.folders, ignored), min_images, ignored)
        parts = _shuffled_split(root, classes, fractions, seed)
    else:
        ignored["folders beside those of the splits"] += len(entries.folders) - len(given)
        parts = []
        for split in given:
            inside = _entries(split, ignored)
            ignored["images outside of class folders"] += len(inside.images) if inside.folders else 0
            if inside.images and not inside.folders:
                raise ValueError(
                    f"{shown(split)} holds images and no folders of classes; expected {shown(split)}/CLASS/*.png, or, "
                    f"if {shown(split.name)} is a class itself, another name for it"
                )
            parts.append(_large_enough(split, _classes_in(split, inside.folders, ignored), min_images, ignored))
    _check_disjoint(parts)
    return parts, {words: count for words, count in ignored.items() if count}


def names(paths: list[str] | list[pathlib.Path]) -> str:
    """Return the first few of many names, for a message."""
    more = f" and {len(paths) - _NUM_NAMED} more" if len(paths) > _NUM_NAMED else ""
    return ", ".join(map(shown, paths[:_NUM_NAMED])) + more


def _entries(folder: pathlib.Path, ignored: Counter[str]) -> _Entries:
    folders, images = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = pathlib.Path(entry.path)
            suffix = path.suffix.lower()
            if entry.name in _LITTER:
                continue
            if entry.name.startswith("."):
                ignored["hidden files and folders"] += 1
            elif entry.name == "__MACOSX":
                ignored["folders __MACOSX"] += 1
            elif path.is_dir():  # also by a link
                folders.append(path)
            elif suffix in SUFFIXES:
                images.append(path)
            else:
                ignored[f"files {shown(suffix)}" if suffix else "files without a suffix"] += 1
    return _Entries(sorted(folders), sorted(images))


def _given_splits(root: pathlib.Path, folders: list[pathlib.Path]) -> list[pathlib.Path] | None:
    """Return the folders of meta_train, meta_valid and meta_test, by these or the usual names; `None` without any.

    A class may be named "train". So usual names count only if no other folder is next to them, or if all three exist
    and have folders in them.
    """
    kinds = [[folder for folder in folders if _plain(folder.name) in words] for words in _SPLIT_WORDS]
    found = [folder for kind in kinds for folder in kind]
    are_ours = any(folder.name in SPLITS for folder in found)
    are_all = bool(found) and len(found) == len(folders)
    are_three = all(kinds) and all(_entries(folder, Counter()).folders for folder in found)
    if not (are_ours or are_all or are_three):
        return None
    if are_ours:  # "train" next to "meta_train" is not a split
        exact = [[folder for folder in folders if folder.name == name] for name in SPLITS]
        kinds = [ours or kind for ours, kind in zip(exact, kinds, strict=True)]
    missing = [name for name, kind in zip(SPLITS, kinds, strict=True) if not kind]
    if missing:
        raise IncompleteError(
            f"{shown(root)} has some of the folders {', '.join(SPLITS)} (by these names, or {names(found)}), but not "
            f"{' and '.join(missing)}; make it, or put all classes into one folder to have them split at random"
        )
    if twice := [kind for kind in kinds if len(kind) > 1]:
        raise ValueError(f"{shown(root)} has {names(twice[0])} for one split; keep one of them")
    return [kind[0] for kind in kinds]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").removeprefix("meta_")


def _classes_in(root: pathlib.Path, folders: list[pathlib.Path], ignored: Counter[str]) -> list[ClassFolder]:
    if not folders:
        raise ValueError(f"{shown(root)} has no folders; expected one folder of images for each class")
    return [ClassFolder(folder, _images_of(folder, ignored)) for folder in folders]


def _images_of(folder: pathlib.Path, ignored: Counter[str], depth: int = 0) -> list[pathlib.Path]:
    """Return the images in a class folder, or in the only folder of images inside it."""
    here = _entries(folder, ignored)
    if depth > _MAX_DEPTH:  # links may lead in a circle
        return []
    if here.images:
        ignored["folders beside the images of a class"] += len(here.folders)
        return here.images
    inside = [images for images in (_images_of(inner, ignored, depth + 1) for inner in here.folders) if images]
    if len(inside) > 1:
        raise ValueError(
            f"{shown(folder)} has {len(inside)} folders of images ({names([each[0].parent for each in inside])}), so "
            "which level names the classes? Pass the folder above the classes, and move apart what is no class"
        )
    return inside[0] if inside else []


def _large_enough(
    root: pathlib.Path, classes: list[ClassFolder], min_images: int, ignored: Counter[str]
) -> list[ClassFolder]:
    """Return the classes with enough images; the others are counted."""
    large = [each for each in classes if len(each.images) >= min_images]
    small = [each for each in classes if len(each.images) < min_images]
    if not large:
        first = small[0]
        raise ValueError(
            f"{shown(first.folder)} has {len(first.images)} images, but min_images={min_images}; add images (of "
            f"{', '.join(SUFFIXES)}), or remove the folder. No class in {shown(root)} has as many; there are "
            f"{dict(ignored) or 'no other files'} beside them"
        )
    if small:
        ignored[f"classes of fewer than {min_images} images ({names([each.folder for each in small])})"] += len(small)
    return large


def _shuffled_split(root: pathlib.Path, classes: list[ClassFolder], fractions: tuple[float, float], seed: int) -> Parts:
    counts = [max(1, round(fraction * len(classes))) for fraction in fractions]
    if len(classes) - sum(counts) < 1:
        hint = f" (or pass {shown(classes[0].folder)}, if classes are in it)" if len(classes) == 1 else ""
        raise ValueError(
            f"{shown(root)}: {len(classes)} classes cannot be split by fractions={fractions}: each of meta_train, "
            f"meta_valid and meta_test needs a class; add classes or change fractions{hint}"
        )
    order = np.random.default_rng(seed).permutation(len(classes))
    valid, test, train = np.split(order, np.cumsum(counts))
    return [[classes[i] for i in sorted(part)] for part in (train, valid, test)]


def _check_disjoint(parts: Parts) -> None:
    counts = Counter(each.folder.name for part in parts for each in part)
    repeated = sorted(shown(name) for name, count in counts.items() if count > 1)
    if repeated:
        more = f" and {len(repeated) - _NUM_NAMED} more" if len(repeated) > _NUM_NAMED else ""
        raise ValueError(
            f"the classes {repeated[:_NUM_NAMED]}{more} are in more than one split; each class belongs to one. To have "
            "classes split at random, put all images of a class into one folder, and all these into one"
        )
