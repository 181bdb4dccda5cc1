"""Examples by class: the common parts of the samplers over such arrays.

Examples are kept one class after the other, so that classes of any sizes take no more memory than their examples. This
module checks data when a sampler is built, and rotates, scales and augments sampled examples.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from ..bounds import is_whole
from ..types import PyTree, RandomKey

__all__ = [
    "Augment",
    "ClassArrays",
    "group_by_class",
    "examples_by_label",
    "rotate",
    "sampled_dtype",
    "is_scaled",
    "finish",
    "finish_all",
    "as_class_arrays",
    "check_values",
    "large_enough",
    "check_rotations",
    "check_positive",
]

Augment = Callable[[Float[Array, "*shape"], RandomKey], Float[Array, "*shape"]]


class ClassArrays(NamedTuple):
    """Examples in the order of their classes, without padding.

    Attributes:
      x: a pytree whose leaves have all examples on their first axis, class after class.
      class_sizes: int32 `[classes]`, number of examples of each class.
    """

    x: PyTree
    class_sizes: Int[Array | np.ndarray, "classes"]


def group_by_class(
    x: Shaped[np.ndarray, "n *shape"], y: Shaped[np.ndarray, "..."]
) -> tuple[Shaped[np.ndarray, "classes examples *shape"], Int[np.ndarray, "classes"]]:
    """Arrange labelled examples as `few_shot` takes them: classes on the first axis.

    Args:
      x: examples.
      y: labels: one integer, of any value, for each. Classes are in increasing order of label.

    Returns:
      `(images, class_sizes)`; classes smaller than the largest one are padded with zeros, after their real examples.

    Raises:
      ValueError: unless there is one integer label for each example.

    Example:
      >>> import numpy as np
      >>> images, class_sizes = group_by_class(np.arange(5.0), np.array([7, 3, 7, 7, 3]))
      >>> images.tolist(), class_sizes.tolist()
      ([[1.0, 4.0, 0.0], [0.0, 2.0, 3.0]], [2, 3])
    """
    members = examples_by_label(y, len(x))
    class_sizes = np.array([len(of_class) for of_class in members], np.int32)
    images = np.zeros((len(members), class_sizes.max(initial=0), *x.shape[1:]), x.dtype)
    for row, of_class in zip(images, members, strict=True):
        row[: len(of_class)] = x[of_class]
    return images, class_sizes


def examples_by_label(labels: Shaped[np.ndarray, "..."], num_examples: int) -> list[Int[np.ndarray, "_"]]:
    """Return the indices of each label's examples, in increasing order of label.

    Raises:
      ValueError: unless there is one integer label for each example.

    Example:
      >>> import numpy as np
      >>> [each.tolist() for each in examples_by_label(np.array([7, 3, 7]), 3)]
      [[1], [0, 2]]
    """
    if labels.ndim != 1 or not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
        raise ValueError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; expected one integer for each example. Of an "
            "example with several labels choose one, or make a binary task of each label"
        )
    if len(labels) != num_examples:
        raise ValueError(f"{len(labels)} labels for {num_examples} examples; pass one for each")
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order].astype(np.int64), prepend=0))  # of all labels but perhaps the first
    return [part for part in np.split(order, starts) if len(part)]


def rotate(
    images: Shaped[Array, "*batch side side channels"], quarter_turns: Int[Array, "*batch"]
) -> Shaped[Array, "*batch side side channels"]:
    """Turn each image counter-clockwise by its number of quarter turns, in 0..3.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([[1, 2], [3, 4]])[:, :, None]
      >>> rotate(image, jnp.array(1))[:, :, 0].tolist()
      [[2, 4], [1, 3]]
    """
    turns = quarter_turns[..., None, None, None]
    images = jnp.where(turns >= 2, images[..., ::-1, ::-1, :], images)
    return jnp.where(turns % 2 == 1, jnp.swapaxes(images, -3, -2)[..., ::-1, :, :], images)


def sampled_dtype(dtype: Any) -> np.dtype:
    """Return the dtype in which examples are sampled: floating point at least float32, other dtypes unchanged.

    float64 stays so under `jax_enable_x64`, and is float32 otherwise, as everywhere in JAX. The order of bytes becomes
    the machine's.
    """
    dtype = _in_native_order(dtype)
    is_floating = jnp.issubdtype(dtype, jnp.floating)
    return jax.dtypes.canonicalize_dtype(jnp.promote_types(dtype, jnp.float32) if is_floating else dtype)


def is_scaled(dtype: Any, shape: tuple[int, ...], scale: bool | None) -> bool:
    """Return whether examples of this dtype and shape are scaled to [0, 1].

    Raises:
      ValueError: if `scale` is `None` and they might or might not be pixels.
    """
    dtype = _in_native_order(dtype)
    if scale is None and dtype == np.uint8 and len(shape) != 3:
        raise ValueError(
            f"examples are uint8 of shape {shape}, which may be pixels in 0..255, or bits or numbers; pass scale=True "
            "to have them divided by 255, or scale=False to have them as they are"
        )
    is_odd_image = len(shape) == 3 and jnp.issubdtype(dtype, jnp.integer) and dtype not in (np.uint8, np.uint16)
    if scale is None and is_odd_image:
        raise ValueError(
            f"images have dtype {dtype}; pass uint8 in 0..255 or uint16 in 0..65535 to have them scaled to [0, 1], or "
            "scale=False to have these numbers as they are"
        )
    if scale and not jnp.issubdtype(dtype, jnp.unsignedinteger):
        raise ValueError(f"scale=True, but examples have dtype {dtype}; it divides unsigned integers by their largest")
    return dtype in (np.uint8, np.uint16) and len(shape) == 3 if scale is None else scale


def _in_native_order(dtype: Any) -> np.dtype:
    """Return a dtype with the machine's order of bytes, as JAX needs it; files of other machines have another."""
    return np.dtype(dtype).newbyteorder("=")


def finish(x: Shaped[Array, "n *shape"], scale: bool | None, augment: Augment | None, key: RandomKey) -> Array:
    """Scale sampled examples if `is_scaled`, convert them to `sampled_dtype`, and augment each one."""
    if is_scaled(x.dtype, x.shape[1:], scale):
        x = x.astype(jnp.float32) / jnp.iinfo(x.dtype).max
    x = x.astype(sampled_dtype(x.dtype))
    if augment is None:
        return x
    augmented = jax.vmap(augment)(x, jax.random.split(key, x.shape[0]))
    if augmented.shape != x.shape or augmented.dtype != x.dtype:
        raise ValueError(
            f"augment turned an image of shape {x.shape[1:]} and dtype {x.dtype} into {augmented.shape[1:]} and "
            f"{augmented.dtype}; it must return an image of the same shape and dtype"
        )
    return augmented


def finish_all(x: PyTree, scale: bool | None, augment: Augment | None, key: RandomKey) -> PyTree:
    """Apply `finish` to every leaf, each with its own key; a single array takes the key itself."""
    leaves, structure = jax.tree.flatten(x)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    return structure.unflatten([finish(leaf, scale, augment, key) for leaf, key in zip(leaves, keys, strict=True)])


def as_class_arrays(
    data: PyTree, class_sizes: Shaped[Array | np.ndarray, "..."] | None, scale: bool | None = None
) -> ClassArrays:
    """Arrange examples by class without padding, from either form that samplers accept.

    Args:
      data: `ClassArrays`, or a pytree whose leaves are `[classes, examples, ...]`.
      class_sizes: for such leaves, the number of real examples of each class, which come first; all if not given.
      scale: as in `few_shot`.

    Raises:
      ValueError: if shapes, sizes or dtypes are wrong.
    """
    data = jax.tree.map(lambda leaf: leaf.astype(_in_native_order(leaf.dtype), copy=False), data)
    if isinstance(data, ClassArrays):
        if class_sizes is not None:
            raise ValueError("class_sizes are given twice: ClassArrays have their own; leave them out")
        sizes = _checked_sizes(data.class_sizes)
        _check_leaves(data.x, (int(sizes.sum()),), "[examples, ...]", scale)
        return ClassArrays(data.x, sizes)
    leaves = jax.tree.leaves(data)
    lead = np.shape(leaves[0])[:2] if leaves else ()
    if len(lead) != 2 or not lead[0]:
        shape = np.shape(leaves[0]) if leaves else "of no array at all"
        raise ValueError(f"images have shape {shape}; expected [classes, examples, ...] with at least one class")
    _check_leaves(data, lead, "[classes, examples, ...]", scale)
    if class_sizes is None:
        sizes = np.full(lead[0], lead[1], np.int32)
        return ClassArrays(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data), sizes)
    sizes = _checked_sizes(class_sizes)
    if len(sizes) != lead[0] or sizes.max() > lead[1]:
        raise ValueError(
            f"class_sizes has {len(sizes)} entries of at most {sizes.max()}, but images have shape "
            f"{np.shape(leaves[0])}; pass for each class how many of its examples are real"
        )
    is_real = np.arange(lead[1]) < sizes[:, None]
    return ClassArrays(jax.tree.map(lambda leaf: leaf[is_real], data), sizes)


def _checked_sizes(class_sizes: Array | np.ndarray) -> Int[np.ndarray, "classes"]:
    sizes = np.asarray(class_sizes)
    if sizes.ndim != 1 or not len(sizes) or not np.issubdtype(sizes.dtype, np.integer) or sizes.min() < 0:
        raise ValueError(f"class_sizes={sizes}; expected for each class its number of examples, as an integer")
    return sizes.astype(np.int32)


def _check_leaves(x: PyTree, lead: tuple[int, ...], expected: str, scale: bool | None) -> None:
    for leaf in jax.tree.leaves(x):
        if np.shape(leaf)[: len(lead)] != lead:
            raise ValueError(
                f"an array has shape {np.shape(leaf)}; expected {expected}, beginning with {lead} as class_sizes and "
                "the other arrays say"
            )
        check_values(leaf, np.shape(leaf)[len(lead) :], scale)


def check_values(leaf: Any, shape: tuple[int, ...], scale: bool | None) -> None:
    """Refuse a leaf that JAX cannot hold unchanged, and one that needs `scale`."""
    dtype = _in_native_order(leaf.dtype)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise ValueError(f"images have dtype {dtype}; pass numbers: floating point, integers or bool")
    is_scaled(dtype, shape, scale)
    held = sampled_dtype(dtype)
    if np.issubdtype(dtype, np.integer) and held != dtype and leaf.size:
        low, high = int(leaf.min()), int(leaf.max())
        if low < np.iinfo(held).min or high > np.iinfo(held).max:
            raise ValueError(
                f"examples of dtype {dtype} go from {low} to {high}, which {held} cannot hold; renumber them"
            )


def large_enough(class_sizes: Int[np.ndarray, "classes"], at_least: int) -> np.ndarray:
    """Return a mask of the classes with at least `at_least` examples; warn about the others.

    Raises:
      ValueError: if there is none.
    """
    is_large = class_sizes >= at_least
    small = np.flatnonzero(~is_large)
    needs = f"a task needs {at_least} examples of each class (shots and queries), but {len(small)} classes have fewer"
    if not is_large.any():
        raise ValueError(
            f"{needs}, class {small[0]} only {class_sizes[small[0]]}; lower num_shots or num_queries, or drop these "
            "classes"
        )
    if len(small):
        warnings.warn(
            f"{needs} and are left out, class {small[0]} with {class_sizes[small[0]]} among them; "
            f"{is_large.sum()} are left",
            stacklevel=3,
        )
    return is_large


def check_rotations(x: PyTree, rotations: str, known: tuple[str, ...]) -> None:
    """Refuse unknown `rotations`, and `[examples, ...]` that cannot be turned."""
    if rotations not in known:
        raise ValueError(f"rotations={rotations!r}; expected one of {', '.join(map(repr, known))}")
    shapes = [np.shape(leaf)[1:] for leaf in jax.tree.leaves(x)]
    if rotations != "none" and not all(len(shape) == 3 and shape[0] == shape[1] for shape in shapes):
        raise ValueError(
            f"rotations={rotations!r} needs square images [side, side, channels], but they have shape "
            f"{', '.join(map(str, shapes))}; pass rotations='none', or crop them"
        )


def check_positive(numbers: Mapping[str, Any]) -> None:
    """Refuse numbers below 1 and types other than integers, by name."""
    for name, number in numbers.items():
        if not is_whole(number, least=-(2**63)):
            raise ValueError(f"{name}={number!r}; expected an integer of at least 1")
        if number < 1:
            raise ValueError(f"{name}={number}; expected at least 1")
