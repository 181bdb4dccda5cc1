"""ResNet-12: shapes, names, norm policies and DropBlock."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models
from jmeta.models.resnet12 import drop_squares
from jmeta.params import path_name


def small(num_outputs=3, **changes):
    return models.resnet12(num_outputs, widths=(3, 4), **changes)


def test_twelve_layers_of_the_usual_widths(key):
    x = jnp.zeros((1, 32, 32, 3))
    model = models.resnet12(None)
    params = jax.eval_shape(model.init, key, x)
    kernels = [
        leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "kernel" in path_name(path) and leaf.shape[:2] == (3, 3)
    ]
    assert [shape[-1] for shape in sorted(kernels, key=lambda shape: shape[-1])] == [64] * 3 + [160] * 3 + [320] * 3 + [
        640
    ] * 3
    assert jax.eval_shape(model.apply, params, x, None).shape == (1, 640)
    flat = models.resnet12(None, global_pool=False)
    assert jax.eval_shape(flat.apply, params, x, None).shape == (1, 4 * 640)


def test_names_say_what_a_leaf_is(key):
    params = jax.eval_shape(small(norm="support").init, key, jnp.zeros((1, 8, 8, 1)))
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert sum(map(models.is_head, names)) == 2
    assert sum(map(models.is_norm, names)) == sum(map(models.is_statistic, names)) == 2 * 2 * 4
    assert sum("conv" in name for name in names) == 2 * 4


def test_support_statistics_and_patches(key):
    """Calibrated on its input it is the batch policy; both forms of convolution agree."""
    x = jax.random.uniform(key, (4, 8, 8, 2))
    support, batch, xla = small(norm="support"), small(norm="batch"), small(norm="batch", conv="xla")
    params = support.init(key, x)
    outputs, calibrated = support.calibrate(params, x, None)
    np.testing.assert_allclose(support.apply(calibrated, x, None), outputs, rtol=1e-4, atol=1e-5)
    shared = {"params": params["params"]}
    np.testing.assert_allclose(batch.apply(shared, x, None), outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(xla.apply(shared, x, None), outputs, rtol=1e-4, atol=1e-5)


def test_dropout_only_with_a_key(key):
    x = jax.random.uniform(key, (4, 8, 8, 2))
    model = small(norm="group", dropout_rate=0.3, drop_size=2)
    params = model.init(key, x)
    one, same, other = (model.apply(params, x, jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(model.apply(params, x, None), small(norm="group").apply(params, x, None))


@pytest.mark.parametrize("size", [1, 3])
def test_dropped_squares(size, key):
    x = jnp.ones((64, 10, 10, 4))
    out = np.asarray(drop_squares(x, key, rate=0.2, size=size))
    dropped = out == 0
    # overlapping squares drop a little less than the stated share
    assert (0.18 if size == 1 else 0.14) < dropped.mean() < 0.22
    np.testing.assert_allclose(out.mean(), 1.0, rtol=1e-4)
    assert len(np.unique(out)) == 2
    # a dropped pixel lies in a dropped square: with size 3, one of the nine squares over it is all zero
    if size == 3:
        corner = dropped[:, :8, :8]
        for i in range(3):
            for j in range(3):
                corner = corner & dropped[:, i : i + 8, j : j + 8]
        covered = np.zeros_like(dropped)
        for i in range(3):
            for j in range(3):
                covered[:, i : i + 8, j : j + 8] |= corner
        np.testing.assert_array_equal(covered, dropped)


def test_a_square_larger_than_the_image_drops_channels(key):
    out = np.asarray(drop_squares(jnp.ones((200, 2, 2, 4)), key, rate=0.25, size=5))
    per_channel = (out == 0).reshape(200, 4, 4).mean(1)
    assert set(np.unique(per_channel)) == {0.0, 1.0}
    assert abs(per_channel.mean() - 0.25) < 0.06


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": ()}, "positive"),
        ({"num_outputs": 0}, "positive"),
        ({"dropout_rate": 1.0}, r"\[0, 1\)"),
        ({"drop_size": 0}, "positive side"),
        ({"norm": "instance"}, "'support'"),
    ],
)
def test_static_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.resnet12(**{"num_outputs": 3, **arguments})


def test_too_small_images(key):
    with pytest.raises(ValueError, match="4x4 pixels"):
        small().init(key, jnp.zeros((1, 3, 3, 1)))
