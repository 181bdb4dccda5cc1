"""Distortions: against closed forms, and against scipy's interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jmeta.domains.images import distort
from jmeta.domains.images.augment import bilinear


@pytest.fixture(scope="module")
def image():
    return jnp.asarray(np.random.default_rng(0).random((9, 7, 2), np.float32))


def distorted(augment, image, count):
    """`[count, height, width]`: a grey image distorted by many keys."""
    distort_all = jax.jit(jax.vmap(augment, in_axes=(None, 0)))
    return np.asarray(distort_all(image, jax.random.split(jax.random.key(0), count)))[..., 0]


def test_no_strength_is_the_identity(image):
    np.testing.assert_allclose(jax.jit(distort())(image, jax.random.key(0)), image, atol=1e-6)


def test_bilinear_is_scipys_interpolation_with_zeros_outside(image):
    rng = np.random.default_rng(1)
    y, x = rng.uniform(-3, 12, (5, 6)).astype(np.float32), rng.uniform(-3, 10, (5, 6)).astype(np.float32)
    for channel in range(2):
        expected = scipy.ndimage.map_coordinates(
            np.pad(image[..., channel], 4), [y + 4, x + 4], order=1, mode="constant"
        )
        np.testing.assert_allclose(bilinear(image, jnp.asarray(y), jnp.asarray(x))[..., channel], expected, atol=1e-5)


def test_translation_stays_within_its_bound_and_keeps_the_ink():
    dot = jnp.zeros((21, 21, 1)).at[10, 10, 0].set(1.0)
    moved = distorted(distort(translation=3.0), dot, 300)
    np.testing.assert_allclose(moved.sum((1, 2)), 1.0, rtol=1e-4)
    shift = np.einsum("nyx,y->n", moved, np.arange(21) - 10.0)
    assert abs(shift).max() <= 3.0 + 1e-4
    assert abs(shift.std() - 3 / np.sqrt(3)) < 0.2
    assert abs(shift.mean()) < 0.4


def test_rotation_turns_about_the_centre():
    bar = jnp.zeros((31, 31, 1)).at[15, 5:26, 0].set(1.0)
    turned = distorted(distort(rotation=0.5), bar, 200)
    offset = np.arange(31) - 15.0
    yy = np.einsum("nyx,y->n", turned, offset**2)
    xx = np.einsum("nyx,x->n", turned, offset**2)
    xy = np.einsum("nyx,y,x->n", turned, offset, offset)
    angles = 0.5 * np.arctan2(2 * xy, xx - yy)
    assert abs(angles).max() < 0.52
    assert abs(angles.std() - 0.5 / np.sqrt(3)) < 0.04


def test_every_key_distorts_differently_and_the_same_key_equally(image):
    augment = distort(rotation=0.3, log_scale=0.2, shear=0.2, translation=1.0, elastic=0.5)
    one, same, other = (jax.jit(augment)(image, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert abs(one - other).max() > 0.01
    assert one.min() >= 0
    assert one.max() <= image.max() + 1e-6


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"shear=-0.1 is negative"):
        distort(shear=-0.1)
    with pytest.raises(ValueError, match="elastic_grid=1"):
        distort(elastic_grid=1)
