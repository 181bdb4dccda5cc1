"""Attacks on arrays: dtypes, shapes, NaN, labels and class sizes given to samplers, and NumPy archives from disk."""

import io
import pathlib
import warnings
from typing import Any

import jax
import numpy as np

from jmeta import losses, tasks
from jmeta.decoding import read_npz
from jmeta.domains.images.datasets import omniglot
from jmeta.types import Batch, Task

from .cases import Outcome, judge
from .damage import mutated

__all__ = ["attack"]

_DTYPES = ["u1", "u2", "u4", "i1", "i4", "i8", "f2", "f4", "f8", "?", "c8", "U3", "O", "M8[s]", ">i4", ">f4"]
_SHAPES = [(), (0,), (2,), (4, 4, 1), (4, 4, 3), (3, 5), (1,)]


def attack(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """One of: few-shot samplers on the device and on the host, padding, losses, archives, the file of Omniglot."""
    return [_few_shot, _host_fed, _grouped, _padded, _loss, _archive, _omniglot][rng.integers(7)](rng, folder)


def _array(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(_DTYPES[rng.integers(len(_DTYPES))])
    array = rng.integers(0, 100, shape).astype(dtype)
    if dtype.kind in "fc" and array.size and rng.integers(3) == 0:
        array.flat[rng.integers(array.size)] = [np.nan, np.inf, -np.inf][rng.integers(3)]
    return array


def _small(rng: np.random.Generator) -> Any:
    return [1, 1, 2, 2, 3, 0, -1, 1.5, True, np.int64(2), 10**6][rng.integers(11)]


def _is_count(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool) and bool(number >= 1)


def _few_shot(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """Every example says which class it is of, so that a drawn task can be checked by its values."""
    del folder
    num_classes, num_each = int(rng.integers(0, 5)), int(rng.integers(0, 5))
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    data = _array(rng, (num_classes, num_each, *shape))
    if data.size and data.dtype.kind in "uif" and rng.integers(2):
        data[...] = np.arange(num_classes * num_each).reshape(num_classes, num_each, *[1] * len(shape))
    numbers: dict[str, Any] = {name: _small(rng) for name in ("num_ways", "num_shots", "num_queries")}
    sizes = None
    if rng.integers(2):
        sizes = rng.integers(
            -1 if rng.integers(4) == 0 else 0,
            num_each + 2,
            max(0, num_classes + int(rng.integers(-1, 2)) * int(rng.integers(2))),
        )
    scale = [None, None, True, False][rng.integers(4)]
    rotations = ["none", "none", "per_class", "as_classes", "all"][rng.integers(5)]
    is_whole = all(map(_is_count, numbers.values()))
    is_numeric = data.dtype.kind in "uifb"

    def is_right(sample: Any) -> bool:
        if not jax.numpy.issubdtype(data.dtype, np.integer) or rotations != "none" or sizes is not None or scale:
            return True
        if data.dtype == np.uint8 and len(shape) == 3:
            return True
        task = sample(jax.random.key(int(rng.integers(100))))
        drawn = np.concatenate([task.support.x, task.query.x]).reshape(-1, max(1, int(np.prod(shape))))
        flat = data.reshape(num_classes * num_each, -1)
        return drawn.shape[1] == 0 or bool((drawn[:, None] == flat[None]).all(-1).any(1).all())

    return judge(
        lambda: _quiet(tasks.few_shot, data, class_sizes=sizes, scale=scale, rotations=rotations, **numbers),
        what=f"few_shot {data.dtype}{data.shape} {numbers} sizes={sizes} {scale=} {rotations=}",
        is_right=is_right,
        must="either" if is_whole and is_numeric and rotations != "all" else "refuse",
    )


def _host_fed(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """The same on the host, where drawing costs no compilation: the examples of a label are those of one class."""
    del folder
    count = int(rng.integers(0, 20))
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    data, labels = (
        _array(rng, (count, *shape)),
        rng.integers(-3, 3, count + int(rng.integers(-1, 2)) * int(rng.integers(2)) if count else 0),
    )
    if data.size and data.dtype.kind in "if":
        data[...] = np.arange(count).reshape(count, *[1] * len(shape))
    if rng.integers(6) == 0:
        labels = labels.astype(["f4", "?", "u1", "O"][rng.integers(4)])
    numbers: dict[str, Any] = {name: _small(rng) for name in ("num_ways", "num_shots", "num_queries", "num_tasks")}
    scale = [None, None, True, False][rng.integers(4)]

    def is_right(stream: Any) -> bool:
        if max(numbers.values()) > 100:
            return True
        task = next(iter(stream))
        if not data.size or data.dtype.kind not in "if" or scale or shape not in ((2,), (1,), ()):
            return True
        for x, y in zip(task.support.x, task.support.y, strict=True):
            rows = x.reshape(len(x), -1)[:, 0].astype(int)
            if any(len(set(labels[rows[y == way]].tolist())) != 1 for way in range(numbers["num_ways"])):
                return False
        return not set(task.support.x[0].reshape(-1).tolist()) & set(task.query.x[0].reshape(-1).tolist())

    is_whole = all(map(_is_count, numbers.values()))
    return judge(
        lambda: tasks.host_fed(data, labels, seed=0, scale=scale, num_threads=0, prefetch=1, **numbers),
        what=f"host_fed {data.dtype}{data.shape} labels {labels.dtype}{labels.shape} {numbers} {scale=}",
        is_right=is_right,
        must="either" if is_whole and len(labels) == count and labels.dtype.kind in "iub" else "refuse",
    )


def _grouped(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    del folder
    count = int(rng.integers(0, 12))
    x = _array(rng, (count, *_SHAPES[rng.integers(len(_SHAPES))]))
    y = rng.integers(-3, 3, count + (0 if rng.integers(4) else 1)).astype(
        ["i8", "i4", "u1", "?", "f4", "O"][rng.integers(6)]
    )

    def is_right(grouped: Any) -> bool:
        images, sizes = grouped
        each = [x[y == label] for label in np.unique(y)]
        return len(sizes) == len(each) and all(
            np.array_equal(row[:n], of, equal_nan=x.dtype.kind in "fc")
            for row, n, of in zip(images, sizes, each, strict=True)
        )

    is_labels = y.dtype.kind in "iub" and len(y) == count
    return judge(
        lambda: tasks.group_by_class(x, y),
        what=f"group_by_class {x.dtype}{x.shape} {y.dtype}{y.shape}",
        is_right=is_right,
        must="accept" if is_labels else "refuse",
    )


def _padded(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    del folder
    sizes = [int(n) for n in rng.integers(0, 5, 2)]
    masks: list[Any] = [None if rng.integers(2) else rng.integers(0, 2, n) > 0 for n in sizes]
    support, query = (
        Batch(rng.normal(size=(n, 2)).astype("f4"), np.arange(n), mask) for n, mask in zip(sizes, masks, strict=True)
    )
    asked = {"num_support": _small(rng), "num_query": _small(rng)}

    def is_right(task: Any) -> bool:
        for batch, old, total in zip((task.support, task.query), (support, query), asked.values(), strict=True):
            n = len(old.y)
            mask = np.ones(n, bool) if old.mask is None else old.mask
            if len(batch.y) != total or not np.array_equal(batch.mask, np.r_[mask, np.zeros(total - n, bool)]):
                return False
            if not np.array_equal(batch.x[:n], old.x) or np.any(batch.x[n:]):
                return False
        return True

    are_whole = all(map(_is_count, asked.values())) and max(asked.values()) < 100
    fits = are_whole and all(total >= n for total, n in zip(asked.values(), sizes, strict=True))
    huge = max(asked.values()) > 100
    return judge(
        lambda: None if huge else tasks.pad_task(Task(support, query), **asked),
        what=f"pad_task {sizes} to {asked}",
        is_right=lambda task: huge or is_right(task),
        must="either" if huge else "accept" if fits else "refuse",
    )


def _loss(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """Cross-entropy and squared error against NumPy, on any shapes, masks and labels."""
    del folder
    n, ways = int(rng.integers(0, 4)), int(rng.integers(1, 4))
    outputs = rng.normal(size=(n, ways)).astype("f4")
    is_classes = bool(rng.integers(2))
    y = (
        rng.integers(-1 if rng.integers(4) == 0 else 0, ways + int(rng.integers(5) == 0), n).astype("i4")
        if is_classes
        else rng.normal(size=(n, ways)).astype("f4")
    )
    mask = None if rng.integers(2) else rng.integers(0, 2, n) > 0
    wrong = int(rng.integers(8))
    if wrong == 0:
        mask = rng.integers(0, 3, n)
    elif wrong == 1:
        mask = np.ones((n, 1), bool)
    elif wrong == 2:
        y = y[:, None] if is_classes else y[:, 0]
    elif wrong == 3:
        y = y.astype("f4") if is_classes else y[:1]
    loss_fn = losses.cross_entropy if is_classes else losses.squared_error
    batch = Batch(outputs, jax.numpy.asarray(y), None if mask is None else jax.numpy.asarray(mask))

    def is_right(result: Any) -> bool:
        if wrong <= 3:  # such as a column more where there is no example, or only one
            return True
        real = np.ones(n, bool) if mask is None else mask
        values = outputs[real].astype("f8")
        if not real.any():
            return float(result[0]) == 0
        if not is_classes:
            return bool(np.isclose(result[0], np.mean((values - y[real]) ** 2), rtol=1e-4))
        if ((y[real] < 0) | (y[real] >= ways)).any():
            return bool(np.isnan(result[0]))
        log_probs = values - np.log(np.exp(values).sum(-1, keepdims=True))
        return bool(np.isclose(result[0], -log_probs[np.arange(len(values)), y[real]].mean(), rtol=1e-4))

    return judge(
        lambda: loss_fn(jax.numpy.asarray(outputs), batch),
        what=f"{loss_fn.__name__} {outputs.shape} y {y.dtype}{y.shape} mask {mask!r}",
        is_right=is_right,
        must="accept" if wrong > 3 else "either",
    )


def _archive(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """An .npz file, mostly damaged, against the arrays that were written."""
    arrays = {f"a{i}": _array(rng, (int(rng.integers(0, 4)), 3)) for i in range(int(rng.integers(0, 4)))}
    file = io.BytesIO()
    save: Any = np.savez if rng.integers(2) else np.savez_compressed
    save(file, **arrays)
    whole = file.getvalue()
    content = whole if rng.integers(4) == 0 else mutated(whole, rng)

    def is_right(found: Any) -> bool:  # CRCs cover the arrays, but not every byte of the archive's own records
        return all(name not in arrays or _equal(found[name], arrays[name]) for name in found)

    has_objects = any(array.dtype == object for array in arrays.values())
    must = "either" if content != whole or not arrays else "refuse" if has_objects else "accept"
    return judge(
        lambda: read_npz(content, folder / "x.npz", remedy="make it again"),
        what=f"npz {content!r:.60}",
        is_right=is_right,
        must=must,
    )


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def _omniglot(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """A small file in the form of Omniglot's, with one of its arrays replaced."""
    count = 6
    arrays: dict[str, np.ndarray] = {
        "images": rng.integers(0, 256, (count, 3, 28, 28)).astype("u1"),
        "alphabets": np.array(["Greek", "Latin"]),
        "alphabet_id": np.arange(count) % 2,
        "character_in_alphabet": np.arange(count) // 2,
    }
    name = list(arrays)[rng.integers(4)]
    change = int(rng.integers(5))
    if change == 0:
        del arrays[name]
    elif change == 1:
        arrays[name] = _array(rng, arrays[name].shape)
    elif change == 2:
        arrays[name] = arrays[name][: int(rng.integers(0, len(arrays[name])))]
    elif change == 3:
        arrays[name] = _array(rng, _SHAPES[rng.integers(len(_SHAPES))])
    save: Any = np.savez
    save(folder / omniglot.FILE_NAME, **arrays)
    return judge(
        lambda: omniglot.load(folder, source="file"),
        what=f"omniglot: {name} changed ({change})",
        must="accept" if change == 4 else "either",
    )


def _quiet(call: Any, *arguments: Any, **named: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **named)
