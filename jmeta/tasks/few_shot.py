"""N-way K-shot tasks from labelled arrays that live on the device.

Image tasks come from here: `few_shot` turns examples by class into a sampler `sample(key) -> Task`, and `stacked` turns
one task into many. A sampler is a `jax.tree_util.Partial`: its arrays are leaves, so it can be an argument of a jitted
function, the data never become a compile-time constant, and two samplers with equal settings share one compilation.

Only the examples of the task are gathered, and only they are rotated, scaled and distorted. Classes and examples are
drawn by a Fisher-Yates shuffle cut off after its first few steps, which for 20 of 4112 classes is over a hundred times
faster on a CPU than a random permutation or a top-k.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Int, Shaped, UInt32

from ..types import Batch, PyTree, RandomKey, Task
from .class_arrays import (
    Augment,
    ClassArrays,
    as_class_arrays,
    check_positive,
    check_rotations,
    finish_all,
    group_by_class,
    large_enough,
    rotate,
)

__all__ = ["few_shot", "stacked", "as_partial", "draw_distinct"]


def few_shot(
    data: PyTree | ClassArrays,
    *,
    num_ways: int,
    num_shots: int,
    num_queries: int,
    rotations: str = "none",
    groups: Int[Array | np.ndarray, "_"] | None = None,
    class_sizes: Shaped[Array | np.ndarray, "..."] | None = None,
    scale: bool | None = None,
    augment: Augment | None = None,
) -> Partial:
    """Build a sampler of N-way K-shot classification tasks.

    Classes are drawn without replacement and get the labels `0..num_ways-1` in random order; the examples of a class
    are drawn without replacement, so support and query are disjoint. Examples come in random order: nothing can be
    learned from a position.

    Args:
      data: examples by class: an array `[classes, examples, ...]`, a pytree of such, or `ClassArrays`, which have no
        padding. Images `[height, width, channels]` of uint8 or uint16 are kept as such on the device and sampled as
        float32 in [0, 1]. Floating point is sampled unscaled, in float32 (float64 under `jax_enable_x64`), and so are
        integers (tokens, counts) and bool, in their own dtype.
      num_ways: classes in a task.
      num_shots: support examples of each class.
      num_queries: query examples of each class.
      rotations: "none"; "per_class", each class of a task is turned by its own random multiple of 90° (Finn et al.
        2017); or "as_classes", each rotation of a class is a class, four times as many in all (Vinyals et al. 2016).
        Images are turned when sampled: no copies are stored.
      groups: for each class the group that it belongs to (an alphabet). A task then lies within one group, drawn
        uniformly among the groups of at least `num_ways` classes.
      class_sizes: for each class the number of its examples that are real; they come first. All are real by default.
        Classes too small for a task are left out, with a warning.
      scale: whether unsigned integers are divided by their largest value. It is required for arrays that may or may not
        be pixels: uint8 of another rank than images, and images of other integers.
      augment: `(image, key) -> image` for one sampled image, applied to every one with its own key.

    Returns:
      `sample(key) -> Task`, with `x` as the data and int32 `y`.

    Raises:
      ValueError: if a number is not positive, there are too few classes, no class is large enough, `rotations` is
        unknown or the images cannot be turned, lengths disagree, or a dtype cannot be sampled; at trace time if
        `augment` changes an image's shape or dtype.

    Example:
      >>> import jax, numpy as np
      >>> images = np.zeros((20, 10, 28, 28, 1), np.uint8)
      >>> sample = few_shot(images, num_ways=5, num_shots=1, num_queries=3, rotations="per_class")
      >>> task = jax.jit(sample)(jax.random.key(0))
      >>> task.support.x.shape, task.query.y.shape
      ((5, 28, 28, 1), (15,))

    Reference:
      Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, "Matching Networks for One Shot Learning", 2016,
      arXiv:1606.04080, section 4.1 (rotations as classes); Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017,
      arXiv:1703.03400, section 5.2.
    """
    check_positive({"num_ways": num_ways, "num_shots": num_shots, "num_queries": num_queries})
    x, sizes = as_class_arrays(data, class_sizes, scale)
    check_rotations(x, rotations, ("none", "per_class", "as_classes"))
    groups = np.zeros(len(sizes), np.int32) if groups is None else np.asarray(groups)
    if len(groups) != len(sizes):
        raise ValueError(f"groups has {len(groups)} entries for {len(sizes)} classes; pass one for each")
    sizes = np.asarray(sizes)
    is_large = large_enough(sizes, num_shots + num_queries)
    members, group_sizes = group_by_class(np.flatnonzero(is_large).astype(np.int32), groups[is_large])
    enough = group_sizes * (4 if rotations == "as_classes" else 1) >= num_ways
    if not enough.any():
        raise ValueError(
            f"num_ways={num_ways}, but {'the largest group has' if groups.any() else 'there are'} only "
            f"{group_sizes.max()} classes (rotations={rotations!r}); lower num_ways or bring more classes"
        )
    draw = _FewShot(num_ways, num_shots, num_queries, rotations, scale, augment)
    starts = np.cumsum(sizes, dtype=np.int32) - sizes
    return Partial(draw, *jax.tree.map(jnp.asarray, (x, members[enough], group_sizes[enough], starts, sizes)))


def stacked(sample: Callable[[RandomKey], Task], num_tasks: int) -> Partial:
    """Build a sampler of `num_tasks` stacked tasks: every leaf has the tasks on its first axis.

    Args:
      sample: a sampler of one task. If it is a `Partial`, its arrays stay leaves.
      num_tasks: number of tasks in a batch.

    Returns:
      `sample(key) -> tasks`; the task at index i comes from the i-th of `jax.random.split(key, num_tasks)`.

    Raises:
      ValueError: if `num_tasks` is not positive.

    Example:
      >>> import jax
      >>> from jmeta import tasks
      >>> sample = stacked(tasks.sinusoid(num_shots=5, num_queries=10), 25)
      >>> sample(jax.random.key(0)).query.x.shape
      (25, 10, 1)
    """
    check_positive({"num_tasks": num_tasks})
    return Partial(_Stacked(num_tasks), as_partial(sample))


def as_partial(sample: Callable[[RandomKey], Any]) -> Partial:
    """Wrap a sampler as a pytree, so that a jitted function can take it; a plain function has no leaves.

    Example:
      >>> as_partial(lambda key: key)("key")
      'key'
    """
    return sample if isinstance(sample, Partial) else Partial(sample)


def draw_distinct(bits: UInt32[Array, "count"], population: Int[Array, ""] | int) -> Int[Array, "count"]:
    """Draw as many distinct numbers of `0..population-1` as there are random `bits`, all selections equally likely.

    Every ordered selection is equally likely. These are the first steps of a Fisher-Yates shuffle that remembers only
    the positions it changed: time and memory grow with `count`², not with the population, which may be a traced number.
    `count` must not exceed it. With n numbers, probabilities are off by about n / 2³², below 10⁻⁵ for any data set
    here.

    Example:
      >>> import jax
      >>> sorted(draw_distinct(jax.random.bits(jax.random.key(0), 3), 3).tolist())
      [0, 1, 2]
    """
    steps = jnp.arange(len(bits))
    swapped_with = steps + (bits % (population - steps).astype(jnp.uint32)).astype(jnp.int32)

    def current(moved: Array, step: Array, place: Array) -> Array:
        """Return the number at `place` before `step`: the place itself unless an earlier step put another one there."""
        last = jnp.max(jnp.where((swapped_with == place) & (steps < step), steps, -1), initial=-1)
        return jnp.where(last >= 0, moved[last], place)

    def swap(moved: Array, step: Array) -> tuple[Array, Array]:
        drawn = current(moved, step, swapped_with[step])
        return jnp.where(steps == step, current(moved, step, step), moved), drawn

    return jax.lax.scan(swap, steps, steps)[1]


@dataclass(frozen=True)
class _FewShot:
    """The settings of `few_shot`: hashable, and so the static part of its `Partial`."""

    num_ways: int
    num_shots: int
    num_queries: int
    rotations: str
    scale: bool | None
    augment: Augment | None

    def __call__(
        self,
        x: PyTree,
        members: Int[Array, "groups members"],
        group_sizes: Int[Array, "groups"],
        starts: Int[Array, "classes"],
        class_sizes: Int[Array, "classes"],
        key: RandomKey,
    ) -> Task:
        key_bits, key_augment = jax.random.split(key)
        ways, num_each = self.num_ways, self.num_shots + self.num_queries
        # One call for all the randomness but the augmentation's: each further call costs compile time.
        bits = jax.random.bits(key_bits, (1 + 2 * ways + 2 * ways * num_each,), jnp.uint32)
        of_group, of_classes, of_turns, of_examples, of_order = jnp.split(
            bits, np.cumsum([1, ways, ways, ways * num_each])
        )
        group = of_group[0] % group_sizes.shape[0]
        classes, turns = self.draw_classes(members[group], group_sizes[group], of_classes, of_turns)
        examples = jax.vmap(draw_distinct)(of_examples.reshape(ways, num_each), class_sizes[classes])
        # Support before query, and each in random order; gathered, turned and augmented together.
        num_support = ways * self.num_shots
        support, query = jnp.split(jnp.arange(ways * num_each).reshape(ways, num_each), [self.num_shots], axis=1)
        of_support, of_query = jnp.split(of_order, [num_support])
        chosen = jnp.concatenate(
            [support.reshape(-1)[jnp.argsort(of_support)], query.reshape(-1)[jnp.argsort(of_query)]]
        )
        labels = chosen // num_each
        rows = starts[classes[labels]] + examples.reshape(-1)[chosen]
        x = jax.tree.map(lambda leaf: leaf[rows], x)
        if self.rotations != "none":
            x = jax.tree.map(lambda leaf: rotate(leaf, turns[labels]), x)
        batch = Batch(finish_all(x, self.scale, self.augment, key_augment), labels.astype(jnp.int32))
        return Task(
            jax.tree.map(lambda leaf: leaf[:num_support], batch), jax.tree.map(lambda leaf: leaf[num_support:], batch)
        )

    def draw_classes(
        self,
        members: Int[Array, "members"],
        num_members: Int[Array, ""],
        of_classes: UInt32[Array, "ways"],
        of_turns: UInt32[Array, "ways"],
    ) -> tuple[Int[Array, "ways"], Int[Array, "ways"]]:
        if self.rotations == "as_classes":
            drawn = draw_distinct(of_classes, 4 * num_members)
            return members[drawn % num_members], drawn // num_members
        turns = of_turns % (4 if self.rotations == "per_class" else 1)
        return members[draw_distinct(of_classes, num_members)], turns.astype(jnp.int32)


@dataclass(frozen=True)
class _Stacked:
    num_tasks: int

    def __call__(self, sample: Partial, key: RandomKey) -> PyTree:
        return jax.vmap(sample)(jax.random.split(key, self.num_tasks))
