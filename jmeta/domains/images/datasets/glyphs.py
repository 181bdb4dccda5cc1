"""Glyphs: the embedded data set, letters of six scripts rendered from the fonts that matplotlib ships.

It needs no download, so it is the default: `make run` and the first example of the documentation meta-train on it. A
class is a letter; its images are that letter in 8 to 16 faces (DejaVu Sans, Sans Mono and Serif, STIX; upright and
slanted, regular and bold), scaled to a box of 20 pixels in 28 x 28. `DISTORTION`, drawn when images are sampled, makes
the classes hard to distinguish by their pixels: the nearest image of the support is correct for 42 % of the queries at
5-way 1-shot on meta_test, 86 % without it.

Splits are by script: meta_train is Latin, Greek and Cyrillic, meta_valid Armenian and Lao, meta_test Georgian. Letters
that look nearly the same (A in Latin, Greek and Cyrillic; O and o) are one class, and so are letters joined by a chain
of such pairs. The class belongs to the first of these splits that has any of its letters, so no letter of meta_test
looks like one of meta_train.
"""

import functools
import os
import pathlib
import unicodedata
from collections import Counter
from importlib import metadata, util
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from ..augment import distort
from .cache import cached_arrays
from .image_classes import ImageClasses, ImageSplits

__all__ = [
    "SCRIPTS",
    "META_TRAIN",
    "META_VALID",
    "META_TEST",
    "FACES",
    "MIN_FACES",
    "SAME_LETTER",
    "SAME_IMAGE",
    "DISTORTION",
    "load",
]

SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "LAO", "GEORGIAN")
META_TRAIN, META_VALID, META_TEST = (0, 1, 2), (3, 4), (5,)  # indices into SCRIPTS

# The faces whose character map is honest Unicode and which have letters. Not here: Computer Modern (TeX's encodings),
# STIX NonUnicode and Size (private use and brackets), DejaVu Display (a few signs), Last Resort (a box for every code).
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
)
MIN_FACES = 8

# Letters are one class when the median over their common faces of 1 - cosine(a, b) is below this, where a and b are
# their shapes stretched to fill 12 x 12 pixels. Measured: one letter in two scripts 0.000; small and capital letters of
# one form 0.015 (Яя) to 0.039 (Cc); letters that a thin stroke tells apart begin at 0.032 (DĐ) and 0.035 (o and ɵ), and
# are joined too, since a class too few costs little and a class in two splits much; other forms begin at 0.066 (ոռ),
# with EF at 0.089. No pair lies within 0.0003, so rounding changes no class.
SAME_LETTER = 0.0416
SAME_IMAGE = 0.002  # the same measure between two faces of a letter: below it the later face is left out

DISTORTION = distort(rotation=0.3, log_scale=0.2, shear=0.25, translation=2.0, elastic=0.7)


def load(cache_dir: str | os.PathLike | None = None) -> ImageSplits:
    """Load the glyphs; render them, which takes a few seconds, if the cache has none.

    Args:
      cache_dir: folder of the cache; by default `JMETA_CACHE` or the user's cache folder.

    Returns:
      Splits of classes named by the letters that they stand for ("AΑА"), grouped by script, with `class_sizes`.

    Raises:
      ImportError: if matplotlib is not installed.

    Example:
      >>> from jmeta.domains.images.datasets import glyphs
      >>> splits = glyphs.load()
      >>> splits.meta_test.images.shape[2:], splits.meta_test.group_names[splits.meta_test.groups[0]]
      ((28, 28, 1), 'GEORGIAN')
    """
    if util.find_spec("matplotlib") is None:
        raise ImportError('glyphs are rendered from the fonts of matplotlib: pip install "jmeta[data]"')
    arrays = cached_arrays(_cache_name(), _render_classes, cache_dir, check=_check)
    names = tuple(str(name) for name in arrays["class_names"])
    classes = ImageClasses.padded(arrays["images"], names, arrays["groups"], SCRIPTS, arrays["class_sizes"])
    return ImageSplits(*(classes.select(np.isin(classes.groups, part)) for part in (META_TRAIN, META_VALID, META_TEST)))


def _cache_name() -> str:
    """Name the cache file by everything that the rendering depends on: a version of this method, and the fonts."""
    return f"glyphs-1-matplotlib-{metadata.version('matplotlib')}"


def _check(arrays: dict[str, np.ndarray]) -> None:
    """Refuse arrays that `_render_classes` cannot have made."""
    shapes = {name: (array.dtype.kind, array.shape[1:]) for name, array in arrays.items()}
    numbers = {"groups": ("i", ()), "class_sizes": ("i", ())}
    if shapes != {"images": ("u", (len(FACES), 28, 28, 1)), "class_names": ("U", ()), **numbers}:
        raise ValueError("it holds other arrays than glyphs")
    sizes, groups = arrays["class_sizes"], arrays["groups"]
    is_one_each = all(array.shape[:1] == sizes.shape != (0,) for array in arrays.values())
    if not is_one_each or sizes.min() < 1 or sizes.max() > len(FACES) or not np.isin(groups, range(len(SCRIPTS))).all():
        raise ValueError("it holds other numbers than glyphs")


def _render_classes() -> dict[str, np.ndarray]:
    """Render all letters in all faces, and join and sort them into classes."""
    letters, has_face = _letters()
    images, shapes = _render(letters, has_face)
    members_of = _connected(_letter_distances(shapes, has_face) < SAME_LETTER)
    script = np.array([SCRIPTS.index(_script(letter)) for letter in letters])
    rows = []
    for members in members_of:
        chosen = max(members, key=lambda i: has_face[i].sum())  # the first of the letters in most faces
        faces = _distinct_faces(shapes[chosen], has_face[chosen])
        if len(faces) >= MIN_FACES:
            rows.append((script[members].min(), "".join(letters[i] for i in members), images[chosen, faces]))
    rows.sort(key=lambda row: row[:2])
    padded = np.zeros((len(rows), len(FACES), 28, 28, 1), np.uint8)
    for row, (_, _, of_class) in zip(padded, rows, strict=True):
        row[: len(of_class), :, :, 0] = of_class
    return {
        "images": padded,
        "class_names": np.array([name for _, name, _ in rows]),
        "groups": np.array([group for group, _, _ in rows], np.int32),
        "class_sizes": np.array([len(of_class) for _, _, of_class in rows], np.int32),
    }


def _script(letter: str) -> str:
    return unicodedata.name(letter).split()[0]


@functools.cache
def _font(face: str) -> Any:
    """Return a face as matplotlib's FT2Font: matplotlib is imported only here and below, where it is used."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    return FT2Font(str(pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"))


def _letters() -> tuple[list[str], Bool[np.ndarray, "letters faces"]]:
    """Return the undecomposed letters that exist in enough faces, and in which of `FACES` they exist."""
    charmaps = [set(_font(face).get_charmap()) for face in FACES]
    counts = Counter(code for charmap in charmaps for code in charmap)
    letters = [
        chr(code)
        for code, count in sorted(counts.items())
        if count >= MIN_FACES
        and unicodedata.category(chr(code)) in ("Lu", "Ll", "Lo")
        and not unicodedata.decomposition(chr(code))
        and _script(chr(code)) in SCRIPTS
    ]
    return letters, np.array([[ord(letter) in charmap for charmap in charmaps] for letter in letters])


def _render(
    letters: list[str], has_face: Bool[np.ndarray, "letters faces"]
) -> tuple[UInt8[np.ndarray, "letters faces 28 28"], Float[np.ndarray, "letters faces pixels"]]:
    """Render each letter in each face twice: as an image of the data set, and as a stretched unit vector to compare."""
    images = np.zeros((*has_face.shape, 28, 28), np.uint8)
    shapes = np.zeros((*has_face.shape, 144), np.float32)
    for i, j in np.argwhere(has_face):
        edges = _outline(FACES[j], letters[i])
        extent = np.ptp(edges, axis=(0, 1))
        aspect = extent / extent.max()
        images[i, j] = np.round(255 * _fill(edges, 20 * aspect, 28))
        shape = _fill(edges, 12 * np.minimum(1, 2 * aspect), 12).reshape(-1)
        shapes[i, j] = shape / np.linalg.norm(shape)
    return images, shapes


def _outline(face: str, letter: str) -> Float[np.ndarray, "edges 2 2"]:
    """Return the edges (two points x, y each) of a letter's outline, in font units: no hinting, so FreeTypes agree."""
    from matplotlib import ft2font
    from matplotlib.path import Path

    font = _font(face)
    font.load_char(ord(letter), flags=ft2font.LoadFlags.NO_SCALE | ft2font.LoadFlags.NO_HINTING)
    polygons = Path(*font.get_path()).to_polygons()
    return np.concatenate([np.stack([polygon, np.roll(polygon, -1, 0)], 1) for polygon in polygons])


def _fill(
    edges: Float[np.ndarray, "edges 2 2"], size: Float[np.ndarray, "2"], side: int, samples: int = 6
) -> Float[np.ndarray, "side side"]:
    """Compute the coverage in [0, 1] of an outline scaled to `size` (width, height) pixels, in a square image.

    It uses the winding number of samples x samples points in each pixel: each crossing of an edge with a row of points
    adds its direction, and a running sum along the row counts them; ink is where the sum is not zero.
    """
    low = edges.min((0, 1))
    edges = samples * ((edges - low) / np.ptp(edges, axis=(0, 1)) * size + (side - size) / 2)
    (x0, y0), (x1, y1) = edges[:, 0].T, edges[:, 1].T
    points = np.arange(side * samples) + 0.5
    edge, row = np.nonzero((y0[:, None] <= points) != (y1[:, None] <= points))
    x = x0[edge] + (points[row] - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    crossings = np.zeros((len(points), len(points) + 1), np.int32)
    np.add.at(crossings, (row, np.ceil(x - 0.5).astype(int).clip(0, len(points))), np.sign(y1 - y0)[edge].astype(int))
    ink = np.cumsum(crossings, axis=1)[:, :-1] != 0
    return ink.reshape(side, samples, side, samples).mean((1, 3))[::-1]  # fonts count upwards, images downwards


def _letter_distances(
    shapes: Float[np.ndarray, "letters faces pixels"], has_face: Bool[np.ndarray, "letters faces"]
) -> Float[np.ndarray, "letters letters"]:
    """Return, for each pair of letters, the median over their common faces of 1 - cosine."""
    distances = np.full((len(FACES), len(shapes), len(shapes)), np.nan, np.float32)
    for j in range(len(FACES)):
        of_face = shapes[has_face[:, j], j]
        distances[j][np.ix_(has_face[:, j], has_face[:, j])] = 1 - of_face @ of_face.T
    return np.nanmedian(distances, axis=0)  # any two letters have a face in common


def _connected(is_linked: Bool[np.ndarray, "n n"]) -> list[list[int]]:
    """Return the connected components of a graph, each as the increasing list of its nodes."""
    component = np.arange(len(is_linked))
    for i, j in np.argwhere(np.triu(is_linked, 1)):
        component[component == component[j]] = component[i]
    return [np.flatnonzero(component == label).tolist() for label in np.unique(component)]


def _distinct_faces(shapes: Shaped[np.ndarray, "faces pixels"], has_face: Bool[np.ndarray, "faces"]) -> list[int]:
    """Return the faces of a letter without those that nearly repeat an earlier one (Mono often repeats Sans)."""
    distinct: list[int] = []
    for face in np.flatnonzero(has_face):
        if all(1 - shapes[face] @ shapes[other] >= SAME_IMAGE for other in distinct):
            distinct.append(int(face))
    return distinct
