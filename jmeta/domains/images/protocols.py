"""Named protocols: the way that tasks are drawn from a data set, so that a number says what it measures.

Published few-shot numbers differ in the split, the rotations, the queries, the number of tasks, the inner steps at test
and whether batch statistics saw the whole query. A `Protocol` fixes all of these under one name. `describe` returns the
words for every number that is printed or stored; `samplers` builds the samplers of the three splits, after checking
that the split of the data is the protocol's.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from jax.tree_util import Partial

from jmeta.tasks.class_arrays import Augment, ClassArrays
from jmeta.tasks.few_shot import few_shot
from jmeta.tasks.source import Source
from jmeta.tasks.supervised import supervised
from jmeta.types import RandomKey, Task

from .datasets import glyphs as glyphs_data
from .datasets import omniglot
from .datasets.image_classes import ImageClasses, ImageSplits, split_hash

__all__ = ["Samplers", "Protocol", "glyphs", "vinyals", "finn2017", "reptile2018", "lake"]


class Samplers(NamedTuple):
    """Samplers of one task, `sample(key) -> Task`, for each split; meta_valid draws its tasks as meta_test does."""

    meta_train: Partial
    meta_valid: Partial
    meta_test: Partial


@dataclass(frozen=True)
class Protocol:
    """The way that tasks are drawn in meta-training and at test.

    Attributes:
      name: label of the numbers.
      dataset: name of the data set.
      load: `data_dir | None -> ImageSplits`, reads and splits the data.
      split_hash: `split_hash` of these splits, or `None` for a user's own data.
      train_rotations: rotations of meta_train, as in `few_shot`.
      test_rotations: rotations of meta_valid and meta_test.
      train_ways: classes in a task of meta_train; `None`: as many as at test.
      train_shots: shots in a task of meta_train; `None`: as many as at test.
      train_queries: queries per class in meta_train; `None`: as many as shots.
      test_queries: queries per class in meta_valid and meta_test; `None`: as many as shots.
      num_test_tasks: number of meta_test tasks that each result is the mean over.
      inner_steps: `((num_ways, steps), ...)`, the inner steps at test of gradient-based learners by ways; empty where
        the protocol leaves it to the learner.
      transductive: whether the published numbers saw the whole query, through its batch statistics; `None` where both
        kinds are published. `jmeta.evaluate` reports both wherever they differ.
      within_groups: whether a task lies within one group (alphabet).
      augment: distortion of sampled images, as in `few_shot`.

    Example:
      >>> lake.describe(num_ways=5, num_shots=1)
      'lake/omniglot 5-way 1-shot, 15 queries, 1000 tasks'
    """

    name: str
    dataset: str
    load: Callable[[str | os.PathLike | None], ImageSplits]
    split_hash: str | None = None
    train_rotations: str = "none"
    test_rotations: str = "none"
    train_ways: int | None = None
    train_shots: int | None = None
    train_queries: int | None = None
    test_queries: int | None = 15
    num_test_tasks: int = 1000
    inner_steps: tuple[tuple[int, int], ...] = ()
    transductive: bool | None = False
    within_groups: bool = False
    augment: Augment | None = None

    def describe(self, *, num_ways: int, num_shots: int, num_tasks: int | None = None) -> str:
        """Describe the protocol in the words that accompany every number.

        `num_tasks` replaces the protocol's own number of tasks. The words name rotations at test, and say whether
        published numbers are transductive.
        """
        queries = num_shots if self.test_queries is None else self.test_queries
        tasks = self.num_test_tasks if num_tasks is None else num_tasks
        words = [f"{self.name}/{self.dataset} {num_ways}-way {num_shots}-shot"]
        words += [] if self.test_rotations == "none" else [f"rotations {self.test_rotations.replace('_', ' ')}"]
        words += ["1 query" if queries == 1 else f"{queries} queries", f"{tasks} tasks"]
        words += {True: ["published transductive"], None: ["published both ways"], False: []}[self.transductive]
        return ", ".join(words)

    def num_inner_steps(self, *, num_ways: int) -> int | None:
        """Return the inner steps at test for tasks of `num_ways` classes; `None` where the protocol leaves it open.

        Example:
          >>> finn2017.num_inner_steps(num_ways=20)
          5
        """
        return dict(self.inner_steps).get(num_ways)

    def samplers(
        self,
        splits: ImageSplits,
        *,
        num_ways: int,
        num_shots: int,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> Samplers:
        """Build samplers of single tasks from the three splits.

        Args:
          splits: the result of `load`.
          num_ways: classes in a task at test.
          num_shots: support examples of each class at test.
          train_ways: classes in a task of meta_train, instead of the protocol's own number.
          train_shots: shots in meta_train, instead of the protocol's own number.
          train_queries: queries per class in meta_train, instead of the protocol's own number.

        Raises:
          ValueError: if the split of the classes is not the protocol's, or there are too few for such tasks.

        Example:
          >>> import jax
          >>> sample = glyphs.samplers(glyphs.load(None), num_ways=5, num_shots=1).meta_test
          >>> sample(jax.random.key(0)).query.x.shape
          (15, 28, 28, 1)
        """
        self.check_split(splits)
        ways = _first_given(train_ways, self.train_ways, num_ways)
        shots = _first_given(train_shots, self.train_shots, num_shots)
        return Samplers(
            self._trained(splits.meta_train, ways, shots, train_queries),
            self._tested(splits.meta_valid, num_ways, num_shots),
            self._tested(splits.meta_test, num_ways, num_shots),
        )

    def source(
        self,
        splits: ImageSplits | None = None,
        *,
        num_ways: int,
        num_shots: int,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> Source:
        """Build the samplers of all splits with the words for their numbers, for an experiment.

        Args:
          splits: the data, if already loaded; otherwise `load` reads them.
          num_ways, num_shots, train_ways, train_shots, train_queries: as for `samplers`.

        Raises:
          ValueError: as for `samplers`; for training tasks, when they are requested.

        Example:
          >>> glyphs.source(num_ways=5, num_shots=1).describe(1000)
          'glyphs/glyphs 5-way 1-shot, 3 queries, 1000 tasks'
        """
        loaded = self.load(None) if splits is None else splits
        self.check_split(loaded)
        ways = _first_given(train_ways, self.train_ways, num_ways)
        shots = _first_given(train_shots, self.train_shots, num_shots)
        return Source(  # images of meta_train go to the device when training asks for them
            meta_train=lambda: self._trained(loaded.meta_train, ways, shots, train_queries),
            meta_valid=self._tested(loaded.meta_valid, num_ways, num_shots),
            meta_test=self._tested(loaded.meta_test, num_ways, num_shots),
            name=f"{self.name}/{self.dataset} {num_ways}-way {num_shots}-shot",
            describe=lambda num_tasks: self.describe(num_ways=num_ways, num_shots=num_shots, num_tasks=num_tasks),
            num_test_tasks=self.num_test_tasks,
            split_hash=split_hash(loaded),
            seen_classes=frozenset((*loaded.meta_train.class_names, *loaded.meta_valid.class_names)),
            test_classes=frozenset(loaded.meta_test.class_names),
        )

    def pretraining(self, splits: ImageSplits, *, batch_size: int) -> tuple[Partial, int]:
        """Build a sampler of batches over all classes of meta_train, for learners that are not trained on tasks.

        Images are distorted like the protocol's tasks; where tasks are rotated, rotated images are classes of their
        own.

        Args:
          splits: the result of `load`.
          batch_size: examples in a batch.

        Returns:
          `(sample, num_classes)`; `sample(key)` is a task whose support and query are one batch.

        Example:
          >>> import jax
          >>> sample, num_classes = glyphs.pretraining(glyphs.load(None), batch_size=16)
          >>> sample(jax.random.key(0)).support.x.shape
          (16, 28, 28, 1)
        """
        classes = splits.meta_train
        rotations = "none" if self.train_rotations == "none" else "as_classes"
        by_class = ClassArrays(classes.examples, classes.class_sizes)
        sample = supervised(by_class, batch_size=batch_size, rotations=rotations, augment=self.augment)
        num_classes = len(classes.class_names) * (1 if rotations == "none" else 4)
        return Partial(_batch_as_task, sample), num_classes

    def check_split(self, splits: ImageSplits) -> None:
        """Refuse classes that are not split as the protocol says.

        Raises:
          ValueError: if the split of the classes is not the protocol's.
        """
        found = split_hash(splits)
        if self.split_hash not in (None, found):
            raise ValueError(
                f"protocol {self.name!r} is defined on the split {self.split_hash[:12]}..., but these classes have "
                f"{found[:12]}...; pass what its `load` returns, or name your own with "
                "`dataclasses.replace(protocol, name=..., split_hash=None)`"
            )

    def _trained(self, classes: ImageClasses, ways: int, shots: int, queries: int | None) -> Partial:
        num_queries = _first_given(queries, self.train_queries, shots)
        return self._sampler(classes, ways, shots, num_queries, self.train_rotations)

    def _tested(self, classes: ImageClasses, ways: int, shots: int) -> Partial:
        return self._sampler(classes, ways, shots, _first_given(self.test_queries, shots), self.test_rotations)

    def _sampler(self, classes: ImageClasses, ways: int, shots: int, queries: int, rotations: str) -> Partial:
        return few_shot(
            ClassArrays(classes.examples, classes.class_sizes),
            num_ways=ways,
            num_shots=shots,
            num_queries=queries,
            rotations=rotations,
            groups=classes.groups if self.within_groups else None,
            augment=self.augment,
        )


def _batch_as_task(sample: Partial, key: RandomKey) -> Task:
    batch = sample(key)
    return Task(batch, batch)


def _first_given(*numbers: int | None) -> int:
    return next(number for number in numbers if number is not None)


def _load_glyphs(data_dir: str | os.PathLike | None) -> ImageSplits:
    del data_dir  # glyphs are rendered, not read
    return glyphs_data.load()


def _load_vinyals(data_dir: str | os.PathLike | None) -> ImageSplits:
    return omniglot.split_vinyals(omniglot.load(data_dir))


def _load_lake(data_dir: str | os.PathLike | None) -> ImageSplits:
    return omniglot.split_lake(omniglot.load(data_dir))


def _load_random(data_dir: str | os.PathLike | None) -> ImageSplits:
    return omniglot.split_random(omniglot.load(data_dir))


# jmeta's own: the embedded glyphs. Some classes have only 8 images: 5 shots and 3 queries.
glyphs = Protocol(
    name="glyphs",
    dataset="glyphs",
    load=_load_glyphs,
    split_hash="ec53cf6c8a43ac16b70ade7eaf453319a3e3490b6b29eef894278235000b6a0f",
    train_queries=3,
    test_queries=3,
    augment=glyphs_data.DISTORTION,
)

# Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175, section 3.1 and the
# authors' code. Training tasks are 60-way 5-shot with 5 queries; rotations are classes at test too.
vinyals = Protocol(
    name="vinyals",
    dataset="omniglot",
    load=_load_vinyals,
    split_hash="7dd603c505186a6b5c4e3ffc34ef3872b9fd9b5171e98eafcfead6d07551142c",
    train_rotations="as_classes",
    test_rotations="as_classes",
    train_ways=60,
    train_shots=5,
    train_queries=5,
)

# Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400, section 5.2 and appendix A.1.
finn2017 = Protocol(
    name="finn2017",
    dataset="omniglot",
    load=_load_random,
    split_hash="89a9309997423f43d665f2c814790e595881ae41e3b558e95636a4cb660c6cb4",
    train_rotations="per_class",
    test_rotations="per_class",
    test_queries=None,
    num_test_tasks=600,
    inner_steps=((5, 3), (20, 5)),
    transductive=True,
)

# Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999, section 6.1, appendix A.
# Reptile uses no query in training; ours has one per class, for other learners and for the training loss.
reptile2018 = Protocol(
    name="reptile2018",
    dataset="omniglot",
    load=_load_random,
    split_hash="89a9309997423f43d665f2c814790e595881ae41e3b558e95636a4cb660c6cb4",
    train_rotations="as_classes",
    train_shots=10,
    train_queries=1,
    test_queries=1,
    num_test_tasks=10_000,
    inner_steps=((5, 50), (20, 50)),
    transductive=None,
)

# Lake's alphabets: tasks within one alphabet that was never seen. 15 queries and 1000 tasks are our choice: Lake's own
# trials are 20-way 1-shot runs fixed in advance. Of meta_train, alphabets with fewer classes than ways are left out.
lake = Protocol(
    name="lake",
    dataset="omniglot",
    load=_load_lake,
    split_hash="6c20d0c408a495e80e6879eb452d39fc6ec6f4fdaff94f3656544ed27022d319",
    within_groups=True,
)
