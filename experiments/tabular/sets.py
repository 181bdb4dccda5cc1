"""Real tables: those that come with scikit-learn, and the molecules of a data folder."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets  # pyright: ignore[reportMissingImports]

__all__ = ["Split", "Table", "bundled", "molecules", "split"]


class Table(NamedTuple):
    """A table to classify.

    Attributes:
      name: for the results.
      x: `[rows, columns]`.
      y: `[rows]`, labels from 0.
      is_bundled: whether it comes with scikit-learn.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    is_bundled: bool = True


class Split(NamedTuple):
    """Labelled rows and rows to predict, drawn from a table."""

    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray


def bundled() -> list[Table]:
    """Return all seven sets that come with scikit-learn, and a second task from the digits.

    A number to predict becomes the class of being above its median; the first of Linnerud's three is taken. The two
    photographs become a table of their 8 x 8 patches: mean and deviation of each colour, and which photograph it is.
    """
    of_classes = {
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
        "breast cancer": datasets.load_breast_cancer,
        "digits": datasets.load_digits,
    }
    tables = [Table(name, *_arrays(load)) for name, load in of_classes.items()]
    digits = tables[-1]
    tables.append(Table("digits, odd or even", digits.x, digits.y % 2))
    for name, load in {"diabetes": datasets.load_diabetes, "Linnerud": datasets.load_linnerud}.items():
        x, targets = _arrays(load)
        first = targets.reshape(len(x), -1)[:, 0]
        tables.append(Table(f"{name}, above the median", x, (first > np.median(first)).astype(int)))
    photographs = [_patches(np.asarray(image)) for image in datasets.load_sample_images().images]
    labels = np.repeat(np.arange(len(photographs)), [len(each) for each in photographs])
    return [*tables, Table("patches of two photographs", np.concatenate(photographs), labels)]


def molecules(data_dir: pathlib.Path) -> list[Table]:
    """Return a table of each of two collections of molecules, for the label whose classes are closest to even.

    Columns are the bits of a circular fingerprint.
    """
    return [_molecules(data_dir / "molecules" / f"{name.lower()}_ecfp4_2048.npz", name) for name in ("Tox21", "SIDER")]


def split(table: Table, *, num_support: int, num_queries: int, num_features: int, seed: int) -> Split:
    """Draw rows such that classes have their shares among the labelled ones, and reduce the columns.

    At most half of the rows are labelled. Of more columns than `num_features`, those are kept that vary most among the
    labelled rows.
    """
    rng = np.random.default_rng(seed)
    num_support = min(num_support, len(table.y) // 2)
    order = rng.permutation(len(table.y))
    rank = np.empty(len(order))
    for label in np.unique(table.y):  # the rows of a class are spread evenly over the order
        of_class = order[table.y[order] == label]
        rank[of_class] = (np.arange(len(of_class)) + rng.uniform()) / len(of_class)
    order = np.argsort(rank, kind="stable")
    support, query = order[:num_support], rng.permutation(order[num_support:])[:num_queries]
    kept = np.sort(np.argsort(-table.x[support].var(0), kind="stable")[:num_features])
    x = table.x[:, kept].astype(np.float32)
    return Split(x[support], table.y[support], x[query], table.y[query])


def _arrays(load: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    x, y = load(return_X_y=True)
    return np.asarray(x), np.asarray(y)


def _patches(image: np.ndarray, size: int = 8) -> np.ndarray:
    height, width = (extent // size for extent in image.shape[:2])
    pixels = image[: height * size, : width * size].reshape(height, size, width, size, 3) / 255
    return np.concatenate([pixels.mean((1, 3)), pixels.std((1, 3))], -1).reshape(height * width, 6)


def _molecules(path: pathlib.Path, name: str) -> Table:
    with np.load(path, allow_pickle=False) as arrays:
        bits, labels, names = (arrays[key] for key in ("ecfp", "label", "task"))
    known = labels >= 0
    chosen = int(np.argmin(np.abs(np.where(known, labels, 0).sum(0) / known.sum(0) - 0.5)))
    rows = known[:, chosen]
    x = np.unpackbits(bits[rows], axis=1).astype(np.float32)
    return Table(f"{name}, {names[chosen]}", x, labels[rows, chosen].astype(int), is_bundled=False)
