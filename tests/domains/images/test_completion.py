"""Sources of images to complete: which images are seen when, and the words for it."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from jmeta import tasks
from jmeta.domains import images
from jmeta.domains.images import protocols
from jmeta.domains.images.datasets import ImageClasses, ImageSplits

SIZES = np.array([3, 5])
PROTOCOL = dataclasses.replace(protocols.glyphs, split_hash=None, augment=None)


def classes(name, first):
    """Two classes of three and of five drawings; all pixels of a drawing have its number."""
    numbers = np.zeros((2, 5), np.uint8)
    numbers[0, :3], numbers[1] = first + np.arange(3), first + np.arange(3, 8)
    pixels = np.broadcast_to(numbers[:, :, None, None, None], (2, 5, 4, 4, 1))
    return ImageClasses.padded(pixels, (f"{name}a", f"{name}b"), class_sizes=SIZES)


SPLITS = ImageSplits(classes("train", 10), classes("valid", 20), classes("test", 30))


def source(**options):
    return images.completion(PROTOCOL, SPLITS, train_shots=(1, 3), num_shots=2, threshold=None, **options)


def drawn(sample):
    """The numbers of the images that are drawn."""
    many = jax.jit(tasks.stacked(sample, 200))(jax.random.key(0))
    return set(np.unique(np.round(np.asarray(many.support.y[:, 0, 0]) * 255)).astype(int).tolist())


def test_held_out_drawings_and_other_classes_are_not_trained_on():
    new = source()
    assert drawn(new.meta_train()) == {10, 13, 14, 15}
    assert drawn(new.meta_valid) == set(range(20, 28))
    assert drawn(new.meta_test) == set(range(30, 38))
    assert drawn(source(tested="new drawings").meta_test) == {11, 12, 16, 17}
    assert drawn(source(num_held_out=1).meta_train()) == {10, 11, 13, 14, 15, 16}


def test_tests_on_what_was_trained_on_are_recognised():
    one, two = source(num_held_out=1, tested="new drawings"), source(tested="new drawings")
    assert one.split_hash != two.split_hash
    assert two.test_classes == {"traina 1", "traina 2", "trainb 3", "trainb 4"}
    assert one.seen_classes & two.test_classes == {"traina 1", "trainb 3"}
    for each in (source(), source(tested="new drawings")):
        assert each.split_hash == two.split_hash
        assert not each.seen_classes & each.test_classes


def test_pixels_and_words():
    each = source(train_queries=5)
    samplers: list[Any] = [each.meta_train(), each.meta_test]
    train, test = (jax.eval_shape(sample, jax.random.key(0)) for sample in samplers)
    assert [train.support.y.shape, train.query.y.shape, test.query.y.shape] == [(3, 1), (5, 1), (14, 1)]
    assert each.describe(7) == "glyphs completion, new classes, 2 of 16 pixels, 7 tasks"
    assert each.describe_valid is not None
    assert each.describe_valid(7) == "glyphs completion, new classes, 1 to 3 of 16 pixels, 7 tasks"
    assert source(tested="new drawings").name == "glyphs completion, new drawings"


def test_mistakes():
    with pytest.raises(ValueError, match="num_held_out=3; .* fewer than the 3 drawings"):
        source(num_held_out=3)
    with pytest.raises(ValueError, match="is defined on the split"):
        images.completion(protocols.glyphs, SPLITS, train_shots=3, num_shots=2)
