"""Load Omniglot: 1623 handwritten characters of 50 alphabets, each drawn once by 20 people.

It is read from one file, `omniglot_28_u8.npz`, in the folder that `JMETA_DATA` or `data_dir` names, or from a data set
prepared by TensorFlow Datasets (which reads without TensorFlow). Both give the same classes and the same images:
uint8 28 x 28, ink high, by Pillow's Lanczos filter from the original 105 x 105. The file has the 20 examples in the
order of the drawers; TFDS does not record who drew which. Arrays that differ from this are refused, with their names.

The splits of the papers are functions of the loaded classes: `split_vinyals`, `split_lake`, `split_random`.

Reference:
  Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program induction", Science 350,
  2015.
"""

import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jmeta.decoding import UnreadableError, decoding, read_npz, read_regular, shown
from jmeta.tasks.class_arrays import group_by_class

from .image_classes import ImageClasses, ImageSplits

__all__ = [
    "FILE_NAME",
    "HOW_TO_PREPARE",
    "EVALUATION_ALPHABETS",
    "VINYALS_VALID",
    "VINYALS_TEST",
    "VINYALS_TEST_OF_GURMUKHI",
    "load",
    "split_vinyals",
    "split_lake",
    "split_random",
    "resize",
]

FILE_NAME = "omniglot_28_u8.npz"
_RESTORE = "restore the file, or make it again"
HOW_TO_PREPARE = "prepare it once, where TensorFlow is installed: `tfds build omniglot --file_format=array_record`"

# Lake's evaluation set; the other 30 alphabets are the background set.
EVALUATION_ALPHABETS = (
    *(
        "Angelic",
        "Atemayar_Qelisayer",
        "Atlantean",
        "Aurek-Besh",
        "Avesta",
        "Ge_ez",
        "Glagolitic",
        "Gurmukhi",
        "Kannada",
    ),
    *("Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti"),
    *("Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"),
)
# The lists distributed with prototypical networks: whole alphabets, but for Gurmukhi, whose last four are in meta_test.
VINYALS_VALID = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
VINYALS_TEST = EVALUATION_ALPHABETS[8:]
VINYALS_TEST_OF_GURMUKHI = tuple(f"Gurmukhi/character{i:02d}" for i in (42, 43, 44, 45))


def load(data_dir: str | os.PathLike | None = None, *, source: str | None = None) -> ImageClasses:
    """Load all characters.

    Args:
      data_dir: folder that has `omniglot_28_u8.npz`, itself or in `omniglot/`, or a TFDS folder. By default first the
        folder that the environment variable `JMETA_DATA` names, then TFDS's own default.
      source: read only from the "file", or only from "tfds"; by default from the file if there is one.

    Returns:
      The classes, sorted by name (`"Greek/character01"`) and grouped by alphabet.

    Raises:
      FileNotFoundError: if neither is found; the message says what to set.
      ValueError: if `source` is unknown, or the data are not Omniglot.

    Example:
      >>> import os
      >>> if "JMETA_DATA" in os.environ:
      ...     assert load().images.shape == (1623, 20, 28, 28, 1)
    """
    if source not in (None, "file", "tfds"):
        raise ValueError(f"source={source!r}; expected 'file', 'tfds' or None")
    folder = data_dir if data_dir is not None else os.environ.get("JMETA_DATA")
    places = [] if folder is None else [pathlib.Path(folder), pathlib.Path(folder) / "omniglot"]
    file = next((place / FILE_NAME for place in places if (place / FILE_NAME).is_file()), None)
    if file is not None and source != "tfds":
        return _from_file(file)
    if source != "file":
        prepared = _prepared_by_tfds(data_dir)
        if prepared is not None:
            return _from_tfds(prepared)
    where = "JMETA_DATA is not set" if folder is None else f"not in {folder}"
    raise FileNotFoundError(
        f"no Omniglot: {where}, nor prepared by TFDS. Set JMETA_DATA (or pass data_dir) to the folder of {FILE_NAME}, "
        f"or {HOW_TO_PREPARE}"
    )


def split_vinyals(classes: ImageClasses) -> ImageSplits:
    """Split by the lists distributed with prototypical networks: 1028, 172 and 423 characters.

    Args:
      classes: all of Omniglot, as `load` returns it.

    Reference:
      Vinyals et al., arXiv:1606.04080; Snell, Swersky, Zemel, arXiv:1703.05175, section 3.1.
    """
    names, alphabets = np.array(classes.class_names), _alphabet_of(classes)
    is_test = np.isin(alphabets, VINYALS_TEST) | np.isin(names, VINYALS_TEST_OF_GURMUKHI)
    is_valid = np.isin(alphabets, VINYALS_VALID)
    return _split(classes, is_valid, is_test)


def split_lake(classes: ImageClasses) -> ImageSplits:
    """Split by Lake's background and evaluation alphabets: 792, 172 and 659 characters.

    meta_valid is five of the background alphabets, the same ones as in `split_vinyals`: no paper fixes a choice.

    Args:
      classes: all of Omniglot, as `load` returns it.
    """
    alphabets = _alphabet_of(classes)
    return _split(classes, np.isin(alphabets, VINYALS_VALID), np.isin(alphabets, EVALUATION_ALPHABETS))


def split_random(classes: ImageClasses, *, seed: int = 0) -> ImageSplits:
    """Split at random, with a seed, into 1100, 100 and 423 characters: the 1200/423 of MAML and Reptile.

    100 of the 1200 are meta_valid, as in MAML's code; Reptile trains on all 1200. The authors' own split depends on the
    order of a file system and cannot be reproduced.

    Reference:
      Finn, Abbeel, Levine, arXiv:1703.03400, section 5.2; Nichol, Achiam, Schulman, arXiv:1803.02999, section 6.1.
    """
    order = np.random.default_rng(seed).permutation(np.argsort(classes.class_names))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    return _split(classes, (rank >= 1100) & (rank < 1200), rank >= 1200)


def resize(image: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "28 28"]:
    """Resize an original drawing, ink high, to 28 x 28 by Pillow's Lanczos filter."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('resizing Omniglot takes Pillow: pip install "jmeta[data]"') from error
    return np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.LANCZOS))


def _split(classes: ImageClasses, is_valid: np.ndarray, is_test: np.ndarray) -> ImageSplits:
    return ImageSplits(*(classes.select(chosen) for chosen in (~is_valid & ~is_test, is_valid, is_test)))


def _alphabet_of(classes: ImageClasses) -> np.ndarray:
    return np.array(classes.group_names)[classes.groups]


def _from_file(path: pathlib.Path) -> ImageClasses:
    arrays = read_npz(read_regular(path), path, remedy=_RESTORE)
    if missing := {"images", "alphabets", "alphabet_id", "character_in_alphabet"} - set(arrays):
        raise ValueError(f"{shown(path)} lacks the arrays {sorted(missing)}; expected Omniglot as 28 x 28 uint8")
    images, names, ids, characters = (
        arrays[name] for name in ("images", "alphabets", "alphabet_id", "character_in_alphabet")
    )
    count = len(images) if images.ndim else 0
    _expect(path, "images", images, images.dtype == np.uint8 and images.ndim == 4, "uint8 [classes, drawers, 28, 28]")
    _expect(
        path, "images", images, images.shape[2:] == (28, 28) and images.size > 0, "uint8 [classes, drawers, 28, 28]"
    )
    _expect(path, "images", images, images.max() > 1, "uint8 with ink at 255, not at 1")
    _expect(path, "alphabets", names, names.ndim == 1 and names.dtype.kind == "U", "one-dimensional text")
    for name, numbers in (("alphabet_id", ids), ("character_in_alphabet", characters)):
        is_right = numbers.shape == (count,) and np.issubdtype(numbers.dtype, np.integer)
        _expect(path, name, numbers, is_right, f"integers, one for each of the {count} classes of `images`")
    _expect(path, "alphabet_id", ids, 0 <= ids.min() <= ids.max() < len(names), f"indices in 0..{len(names) - 1}")
    _expect(path, "character_in_alphabet", characters, characters.min() >= 0, "numbers from 0 on")
    classes = _sorted_classes(images, [str(names[i]) for i in ids], characters)
    if twice := sorted({name for name, other in itertools.pairwise(sorted(classes.class_names)) if name == other}):
        raise ValueError(f"{shown(path)} has several classes named {shown(twice[0])}; {_RESTORE}")
    return classes


def _expect(path: pathlib.Path, name: str, array: np.ndarray, is_right: bool | np.bool_, expected: str) -> None:
    if not is_right:
        numbers = np.issubdtype(array.dtype, np.number) and array.size
        values = f", {array.min()} to {array.max()}" if numbers else ""
        raise ValueError(
            f"{shown(path)}: `{name}` is {array.dtype} {list(array.shape)}{values}; expected {expected}; {_RESTORE}"
        )


def _prepared_by_tfds(data_dir: str | os.PathLike | None) -> pathlib.Path | None:
    """Return the folder of the newest Omniglot that TFDS prepared, or None."""
    folder = data_dir if data_dir is not None else os.environ.get("TFDS_DATA_DIR")
    try:
        folder = pathlib.Path.home() / "tensorflow_datasets" if folder is None else pathlib.Path(folder)
    except RuntimeError:  # a user without a home
        return None
    return max((path.parent for path in folder.glob("omniglot/*/dataset_info.json")), default=None)


def _from_tfds(prepared: pathlib.Path) -> ImageClasses:
    """Read the two disjoint sets (small1 and small2 are parts of train), in the order of examples that TFDS stored."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(f'{shown(prepared)} takes TFDS to read: pip install "jmeta[data]"') from error
    _check_features(prepared / "features.json")
    with decoding(prepared, "Omniglot", HOW_TO_PREPARE):
        builder: Any = tfds.builder_from_directory(prepared)
        try:
            sources = [builder.as_data_source(split=split) for split in ("train", "test")]
        except NotImplementedError as error:
            raise UnreadableError(f"{shown(prepared)} cannot be read at random; {HOW_TO_PREPARE}") from error
        records = [record for source in sources for record in source]
        images = np.stack([resize(255 - record["image"][:, :, 0]) for record in records])
        by_label, sizes = group_by_class(images, np.array([record["label"] for record in records]))
        if sizes.min() != sizes.max():
            raise ValueError(f"it has {sizes.min()} to {sizes.max()} examples of a class")
        first = {int(record["label"]): record for record in records}
        alphabets = [
            builder.info.features["alphabet"].int2str(int(first[label]["alphabet"])) for label in sorted(first)
        ]
        characters = np.array([first[label]["alphabet_char_id"] + 1 for label in sorted(first)])
        return _sorted_classes(by_label, alphabets, characters)


def _check_features(path: pathlib.Path) -> None:
    """Refuse features whose classes are not TFDS's own: TFDS imports, and so executes, the named modules."""
    with decoding(path, "a description of features", HOW_TO_PREPARE):
        described = json.loads(read_regular(path))
        for name in _class_names(described):
            if not name.startswith("tensorflow_datasets.core.features."):
                raise UnreadableError(
                    f"{shown(path)} names {shown(name)[:100]}, which is not one of TFDS's own features and would be "
                    f"executed; {HOW_TO_PREPARE}"
                )


def _class_names(described: Any) -> Iterator[str]:
    """Yield everything that TFDS looks up as a Python class or a protocol buffer, in both of its formats."""
    if isinstance(described, dict):
        for key, value in described.items():
            if key in ("pythonClassName", "python_class_name", "type"):
                yield str(value)
            yield from _class_names(value)
    elif isinstance(described, list):
        for value in described:
            yield from _class_names(value)


def _sorted_classes(images: np.ndarray, alphabets: list[str], characters: np.ndarray) -> ImageClasses:
    names = [f"{alphabet}/character{character:02d}" for alphabet, character in zip(alphabets, characters, strict=True)]
    order = np.argsort(names)
    group_names = tuple(sorted(set(alphabets)))
    groups = np.array([group_names.index(alphabets[i]) for i in order], np.int32)
    return ImageClasses.padded(images[order][..., None], tuple(names[i] for i in order), groups, group_names)
