"""Selection of classes and the hash of a split."""

import numpy as np

from jmeta.domains.images.datasets import ImageClasses, ImageSplits, split_hash

CLASSES = ImageClasses.padded(
    np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1, 1),
    ("a", "b", "c", "d"),
    np.array([0, 0, 1, 1], np.int32),
    ("x", "y"),
    np.array([1, 1, 1, 1], np.int32),
)


def test_select_keeps_everything_of_a_class_together():
    for indices in (np.array([3, 1]), np.array([False, True, False, True])):
        part = CLASSES.select(indices)
        for name, image, group in zip(part.class_names, part.images, part.groups, strict=True):
            original = CLASSES.class_names.index(name)
            assert image == CLASSES.images[original]
            assert group == CLASSES.groups[original]


def test_the_hash_depends_on_membership_and_on_nothing_else():
    def splits(*parts):
        return ImageSplits(*(CLASSES.select(np.array(part)) for part in parts))

    one = split_hash(splits([0, 1], [2], [3]))
    assert one == split_hash(splits([1, 0], [2], [3]))
    assert one == split_hash(
        splits([0, 1], [2], [3])._replace(meta_test=CLASSES.select(np.array([3]))._replace(examples=0))
    )
    assert len({one, split_hash(splits([0, 2], [1], [3])), split_hash(splits([0, 1], [3], [2]))}) == 3


def test_classes_of_any_sizes_take_the_memory_of_their_images():
    rng = np.random.default_rng(0)
    padded, sizes = rng.integers(1, 256, (5, 4, 2, 3, 1), np.uint8), np.array([4, 1, 2, 4, 3])
    padded[np.arange(4) >= sizes[:, None]] = 0
    classes = ImageClasses.padded(padded, tuple("abcde"), class_sizes=sizes)
    assert classes.examples.shape == (14, 2, 3, 1)
    np.testing.assert_array_equal(classes.images, padded)
    for indices in (np.array([4, 1, 1]), np.array([], int), sizes == 4):
        part = classes.select(indices)
        np.testing.assert_array_equal(part.class_sizes, sizes[indices])
        most = sizes[indices].max(initial=0)
        np.testing.assert_array_equal(part.images, padded[indices][:, :most])
