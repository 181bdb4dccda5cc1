"""Where a recipe's tasks come from: samplers of its data, and the words that its numbers stand beside."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from configs import parts
from jmeta import tasks
from jmeta.domains.images import protocols
from jmeta.domains.images.datasets import folder
from jmeta.domains.images.datasets.image_classes import ImageClasses, split_hash
from jmeta.domains.images.protocols import Protocol

SampleTask = jax.tree_util.Partial
"""`key -> Task`, with the data as its leaves."""
SampleBatch = jax.tree_util.Partial
"""`key -> Batch`, likewise."""


class HostTasks(NamedTuple):
    """Stacked tasks drawn on the host, as many as a meta-step sees: what `jmeta.tasks.host_fed` returns."""

    tasks: Any


class Source(NamedTuple):
    """Where tasks come from.

    Attributes:
      meta_train: a sampler of single tasks, or a stream of stacked ones.
      meta_valid, meta_test: samplers of single tasks.
      name: of the protocol, with the kind of tasks.
      protocol: in words, how tasks are drawn for testing; every number is written beside it.
      valid_protocol: likewise, of meta_valid.
      num_test_tasks: of meta_test.
      split_hash: of which class is in which split; `None` where there are no classes.
      train_ways, test_ways: outputs of a network with a head.
      test_steps: inner steps at test that the protocol prescribes, if it does.
      supervised: `batch_size -> (sample, num_classes)`: batches over all classes of meta_train, labelled by them;
        `None` where there are no classes, or only tasks of them.
    """

    meta_train: SampleTask | HostTasks
    meta_valid: SampleTask
    meta_test: SampleTask
    name: str
    protocol: str
    valid_protocol: str
    num_test_tasks: int
    split_hash: str | None
    train_ways: int
    test_ways: int
    test_steps: int | None
    supervised: Callable[[int], tuple[SampleBatch, int]] | None = None


def source(data: parts.Data, testing: parts.Testing, part: parts.Training, own: range) -> Source:
    """The tasks of a recipe; of those that the host draws, this process's `own` of each meta-step.

    Raises:
      ValueError, FileNotFoundError: if the data are not there, or too few for such tasks.
    """
    match data:
        case parts.Sinusoid():
            return _sinusoid(data, testing, part)
        case parts.Blobs():
            return _blobs(data, testing, part)
        case parts.Images():
            return _images(data, testing, part)
        case parts.Folder():
            return _folder(data, testing, part, own)
    raise ValueError(f"{type(data).__name__} has environments and no examples")


def _sinusoid(data: parts.Sinusoid, testing: parts.Testing, part: parts.Training) -> Source:
    trained = tasks.sinusoid(num_shots=data.num_shots, num_queries=data.num_queries)
    tested = tasks.sinusoid(num_shots=testing.num_shots, num_queries=data.num_test_queries)
    num_tasks = _num_tasks(testing, 1000)
    words = _words(f"sinusoid {testing.num_shots}-shot, {data.num_test_queries} queries", num_tasks, part)
    return Source(trained, tested, tested, *words, num_tasks, None, train_ways=1, test_ways=1, test_steps=None)


def _blobs(data: parts.Blobs, testing: parts.Testing, part: parts.Training) -> Source:
    trained, tested = (
        tasks.gaussian_blobs(
            num_ways=part.num_ways,
            num_shots=part.num_shots,
            num_queries=data.num_queries,
            num_features=data.num_features,
            spread=data.spread,
        )
        for part in (data, testing)
    )
    num_tasks = _num_tasks(testing, 1000)
    kind = f"blobs {testing.num_ways}-way {testing.num_shots}-shot, {data.num_queries} queries"
    words = _words(kind, num_tasks, part)
    return Source(trained, tested, tested, *words, num_tasks, None, data.num_ways, testing.num_ways, test_steps=None)


def _num_tasks(testing: parts.Testing, default: int) -> int:
    return default if testing.num_tasks is None else testing.num_tasks


def _words(kind: str, num_tasks: int, part: parts.Training) -> tuple[str, str, str]:
    """`(name, protocol, valid_protocol)` of tasks that are drawn and not stored."""
    return kind.split(",")[0], f"{kind}, {num_tasks} tasks", f"{kind}, {part.num_valid_tasks} tasks, of meta_valid"


def _words_of(protocol: Protocol, testing: parts.Testing, num_tasks: int, part: parts.Training) -> tuple[str, str, str]:
    """`(name, protocol, valid_protocol)` of tasks of images."""
    ways, shots = testing.num_ways, testing.num_shots
    tested, valid = (
        protocol.describe(num_ways=ways, num_shots=shots, num_tasks=n) for n in (num_tasks, part.num_valid_tasks)
    )
    name = f"{protocol.name}/{protocol.dataset} {ways}-way {shots}-shot"
    return name, tested, f"{valid}, of meta_valid"


def _images(data: parts.Images, testing: parts.Testing, part: parts.Training) -> Source:
    protocol = named_protocol(data.protocol)
    splits = protocol.load(None)
    ways, shots = testing.num_ways, testing.num_shots
    samplers = protocol.samplers(
        splits,
        num_ways=ways,
        num_shots=shots,
        train_ways=data.train_ways,
        train_shots=data.train_shots,
        train_queries=data.train_queries,
    )
    num_tasks = _num_tasks(testing, protocol.num_test_tasks)
    return Source(
        *samplers,
        *_words_of(protocol, testing, num_tasks, part),
        num_test_tasks=num_tasks,
        split_hash=split_hash(splits),
        train_ways=data.train_ways or protocol.train_ways or ways,
        test_ways=ways,
        test_steps=protocol.num_inner_steps(num_ways=ways),
        supervised=_supervised(splits.meta_train, protocol),
    )


def _supervised(classes: ImageClasses, protocol: Protocol) -> Callable[[int], tuple[SampleBatch, int]]:
    """Distorted as the protocol's tasks are, and turned if they are: turned images are classes of their own."""
    rotations = "none" if protocol.train_rotations == "none" else "as_classes"

    def of_size(batch_size: int) -> tuple[SampleBatch, int]:
        sample = tasks.supervised(
            classes.images,
            batch_size=batch_size,
            rotations=rotations,
            class_sizes=classes.class_sizes,
            augment=protocol.augment,
        )
        return sample, len(classes.images) * (1 if rotations == "none" else 4)

    return of_size


def _folder(data: parts.Folder, testing: parts.Testing, part: parts.Training, own_tasks: range) -> Source:
    if not data.path:
        raise ValueError("pass the folder of your images: --data.path DIR")
    splits = folder.load(data.path, size=data.size, num_channels=data.num_channels)
    split = split_hash(splits)
    own = Protocol("folder", pathlib.Path(data.path).name, lambda _: splits, test_queries=data.num_queries)
    ways, shots = data.train_ways or testing.num_ways, data.train_shots or testing.num_shots
    num_tasks = _num_tasks(testing, own.num_test_tasks)
    if data.host_fed:
        pixels, labels = _flat_examples(splits.meta_train)
        stream = tasks.host_fed(
            pixels,
            labels,
            num_ways=ways,
            num_shots=shots,
            num_queries=data.num_queries,
            num_tasks=part.tasks_per_step,
            seed=part.seed,
            own=own_tasks,
        )
        splits = splits._replace(meta_train=splits.meta_valid)  # so that only the others go to the device
        samplers = own.samplers(
            splits, num_ways=testing.num_ways, num_shots=testing.num_shots, train_queries=data.num_queries
        )
        samplers, supervised = (HostTasks(stream), samplers.meta_valid, samplers.meta_test), None
    else:
        samplers = own.samplers(
            splits,
            num_ways=testing.num_ways,
            num_shots=testing.num_shots,
            train_ways=ways,
            train_shots=shots,
            train_queries=data.num_queries,
        )
        supervised = _supervised(splits.meta_train, own)
    return Source(
        *samplers,
        *_words_of(own, testing, num_tasks, part),
        num_test_tasks=num_tasks,
        split_hash=split,
        train_ways=ways,
        test_ways=testing.num_ways,
        test_steps=None,
        supervised=supervised,
    )


def _flat_examples(classes: ImageClasses) -> tuple[np.ndarray, np.ndarray]:
    """The real examples of all classes, and their classes."""
    num_classes, num_each = classes.images.shape[:2]
    sizes = np.full(num_classes, num_each) if classes.class_sizes is None else classes.class_sizes
    is_real = np.arange(num_each)[None] < sizes[:, None]
    return classes.images[is_real], np.repeat(np.arange(num_classes), sizes)


def named_protocol(name: parts.ProtocolName) -> Protocol:
    """The protocol of this name."""
    return getattr(protocols, name)
