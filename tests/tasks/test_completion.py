"""Completion of images: every pixel is seen or predicted, once, at its position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import tasks

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 2), np.uint8)
NUM_DRAWN = 200


def real(batch):
    mask = np.ones(len(batch.x), bool) if batch.mask is None else np.asarray(batch.mask)
    return np.asarray(batch.x)[mask], np.asarray(batch.y)[mask]


@pytest.mark.parametrize("num_shots", [7, (2, 9)])
@pytest.mark.parametrize("num_queries", [None, 6])
def test_every_pixel_has_its_brightness_and_is_seen_or_predicted(num_shots, num_queries):
    sample = tasks.stacked(tasks.completion(IMAGES, num_shots=num_shots, num_queries=num_queries), NUM_DRAWN)
    drawn = jax.jit(sample)(jax.random.key(0))
    positions = [(down, across) for down in (-1, -0.5, 0, 0.5, 1) for across in (-1, -1 / 3, 1 / 3, 1)]
    nums_seen, seen, which = [], np.zeros(20), np.zeros(3)
    for i in range(NUM_DRAWN):
        task = jax.tree.map(lambda leaf, i=i: leaf[i], drawn)
        (support_x, support_y), (query_x, query_y) = real(task.support), real(task.query)
        pixels = [int(np.abs(np.array(positions) - x).sum(1).argmin()) for x in np.concatenate([support_x, query_x])]
        assert len(set(pixels)) == len(pixels) == len(support_x) + (num_queries or 20 - len(support_x))
        np.testing.assert_allclose(np.concatenate([support_x, query_x]), np.array(positions)[pixels], atol=1e-6)
        found = np.concatenate([support_y, query_y])
        same = [np.abs(image.reshape(20, 2)[pixels] / 255 - found).max() for image in IMAGES]
        assert np.sort(same)[0] < 1e-6
        which[np.argmin(same)] += 1
        seen[pixels[: len(support_x)]] += 1
        nums_seen.append(len(support_x))
    low, high = (7, 7) if num_shots == 7 else num_shots
    assert set(nums_seen) == set(range(low, high + 1))
    assert (which > NUM_DRAWN / 3 - 4 * np.sqrt(NUM_DRAWN * 2 / 9)).all()
    share = np.mean(nums_seen) / 20
    assert (np.abs(seen - NUM_DRAWN * share) < 4 * np.sqrt(NUM_DRAWN * share * (1 - share))).all()


def test_binary_images_and_distortions():
    turned = lambda image, key: 1.0 - image
    sample = tasks.completion(IMAGES, num_shots=3, threshold=0.25, augment=turned)
    grey = tasks.completion(IMAGES, num_shots=3, augment=turned)
    key = jax.random.key(1)
    binary, shades = sample(key).query.y, grey(key).query.y
    np.testing.assert_array_equal(binary, (np.asarray(shades) >= 0.25).astype(np.float32))
    found = tasks.completion(IMAGES, num_shots=3)(key).query.y
    np.testing.assert_allclose(shades, 1.0 - found, rtol=1e-6)


def test_positions_and_pixels_are_inverse():
    for height, width in ((1, 1), (3, 1), (28, 28), (7, 50)):
        positions = tasks.pixel_positions(height, width)
        np.testing.assert_array_equal(tasks.pixel_at(positions, height, width), np.arange(height * width))
    beyond = jnp.array([[-9.0, 0.1], [1.0, 9.0]])
    assert tasks.pixel_at(beyond, 3, 3).tolist() == [1, 8]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (IMAGES[:0], {"num_shots": 3}, r"images have shape \(0, 5, 4, 2\)"),
        (IMAGES, {"num_shots": 20}, "an image has 20 pixels"),
        (IMAGES, {"num_shots": (3, 12), "num_queries": 9}, "an image has 20 pixels"),
        (IMAGES, {"num_shots": (3, 2)}, r"num_shots=\(3, 2\)"),
        (IMAGES, {"num_shots": 3, "num_queries": 0}, "num_queries=0"),
        (IMAGES, {"num_shots": 3, "scale": False}, "images have dtype uint8; pass brightness"),
        (IMAGES.astype(np.int32), {"num_shots": 3}, "images have dtype int32"),
    ],
)
def test_mistakes(images, options, message):
    with pytest.raises(ValueError, match=message):
        tasks.completion(images, **options)
