"""Batches over all classes for pre-training: labels, balance, rotations."""

import jax
import numpy as np
import pytest

from jmeta.tasks import ClassArrays, group_by_class, supervised


def test_labels_name_the_class_and_only_real_examples_come():
    sizes = np.array([1, 3, 2])
    images = (100.0 * np.arange(3)[:, None] + np.arange(3))[:, :, None]
    batch = supervised(images, batch_size=600, class_sizes=sizes)(jax.random.key(0))
    values = np.asarray(batch.x[:, 0]).astype(int)
    np.testing.assert_array_equal(values // 100, batch.y)
    assert (values % 100 < sizes[batch.y]).all()
    assert np.bincount(batch.y).min() > 150  # 200 expected of each class, standard deviation 12


def test_unbalanced_batches_draw_every_example_equally_often():
    sizes = np.array([1, 4, 0 + 3])
    images = (100.0 * np.arange(3)[:, None] + np.arange(4))[:, :, None]
    batch = supervised(images, batch_size=4000, class_sizes=sizes, class_balanced=False)(jax.random.key(0))
    values, counts = np.unique(batch.x[:, 0], return_counts=True)
    assert values.tolist() == [0, 100, 101, 102, 103, 200, 201, 202]
    assert abs(counts - 500).max() < 100  # standard deviation 21
    np.testing.assert_array_equal(batch.x[:, 0] // 100, batch.y)


def test_rotations_become_labels():
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4, 1), np.uint8)
    batch = supervised(images, batch_size=300, rotations="as_classes")(jax.random.key(0))
    for image, label in zip(np.round(255 * np.asarray(batch.x)), np.asarray(batch.y), strict=True):
        turned = [np.rot90(original, label // 3) for original in images[label % 3]]
        assert any(np.array_equal(image, original) for original in turned)
    assert set(np.unique(batch.y)) == set(range(12))


def test_mistakes_are_refused():
    images = np.zeros((3, 2, 4, 4, 1), np.uint8)
    with pytest.raises(ValueError, match="batch_size=0"):
        supervised(images, batch_size=0)
    with pytest.raises(ValueError, match="rotations='per_class'; expected one of 'none', 'as_classes'"):
        supervised(images, batch_size=2, rotations="per_class")
    with pytest.raises(ValueError, match="expected \\[classes, examples, ...\\] with at least one class"):
        supervised(images[:0], batch_size=2)


def test_group_by_class_keeps_every_example_once():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.integers(-2, 3, 40)
    images, sizes = group_by_class(x, y)
    assert sizes.sum() == 40
    for label, of_class, size in zip(np.unique(y), images, sizes, strict=True):
        np.testing.assert_array_equal(of_class[:size], x[y == label])
        assert not of_class[size:].any()


@pytest.mark.parametrize("y", [np.zeros((4, 3), int), np.zeros(4), np.array(["a", "b", "c", "d"]), np.zeros(())])
def test_labels_that_are_not_one_integer_each_are_refused(y):
    with pytest.raises(ValueError, match="labels have shape .* expected one integer for each example"):
        group_by_class(np.zeros((4, 2)), y)


def test_too_few_labels_are_refused():
    with pytest.raises(ValueError, match="3 labels for 4 examples"):
        group_by_class(np.zeros((4, 2)), np.zeros(3, int))


@pytest.mark.parametrize("class_balanced", [True, False])
def test_flat_pytrees_are_drawn_as_padded_arrays(class_balanced):
    sizes = np.array([1, 3, 2])
    padded = (100 * np.arange(3)[:, None] + np.arange(3))[:, :, None].astype(np.float32)
    flat = padded[np.arange(3) < sizes[:, None]]
    key, options = jax.random.key(0), {"batch_size": 50, "class_balanced": class_balanced}
    plain = supervised(padded, class_sizes=sizes, **options)(key)
    tree = supervised(ClassArrays({"a": flat, "b": flat.astype(np.int32)}, sizes), **options)(key)
    np.testing.assert_array_equal(tree.x["a"], plain.x)
    np.testing.assert_array_equal(tree.x["b"], plain.x)
    np.testing.assert_array_equal(tree.y, plain.y)
    with pytest.raises(ValueError, match="class 1 has no example"):
        supervised(padded, class_sizes=np.array([1, 0, 2]), batch_size=2)
