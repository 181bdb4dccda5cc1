"""Every form of convolution and pooling is the plain one in value, gradient and second derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jmeta.models import convolution, max_pool, patch_conv

LAYOUT = ("NHWC", "HWIO", "NHWC")


def value_gradient_and_second(fn, *arguments):
    """Of a smooth function of `fn`: value, gradient and a Hessian-vector product, with respect to all arguments."""

    @jax.jit
    def all_three(arguments):
        value_and_grad = jax.value_and_grad(lambda arguments: jnp.sin(fn(*arguments)).sum())
        return jax.jvp(value_and_grad, (arguments,), (jax.tree.map(jnp.cos, arguments),))

    return all_three(arguments)


def assert_same(a, b, rtol=1e-10):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


@settings(max_examples=12, deadline=None, derandomize=True)  # the same shapes again: compiled once
@given(
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["SAME", "VALID", ((0, 2), (1, 0))]),
    filters=st.sampled_from([1, 4]),
)
def test_patches_are_the_convolution(size, kernel, strides, padding, filters):
    """Whole patches, and for strides of 1 down and few filters those of rows."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0))
        images = jax.random.normal(keys[0], (2, *size, 2))
        weights = jax.random.normal(keys[1], (*kernel, 2, filters))
        patches, plain = (
            value_gradient_and_second(
                lambda x, k: fn(x, k, strides, padding, dimension_numbers=LAYOUT), images, weights
            )
            for fn in (patch_conv, lax.conv_general_dilated)
        )
        assert_same(patches, plain)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("filters", [2, 8])
def test_patches_are_the_convolution_under_vmap_over_weights(key, filters):
    images, kernels = jax.random.normal(key, (3, 2, 5, 5, 2)), jax.random.normal(key, (3, 3, 3, 2, filters))
    patches, plain = (
        value_gradient_and_second(
            jax.vmap(lambda x, k: fn(x, k, (1, 1), "SAME", dimension_numbers=LAYOUT)), images, kernels
        )
        for fn in (patch_conv, lax.conv_general_dilated)
    )
    assert_same(patches, plain)


def test_flax_convolutions_take_it(key):
    images = jax.random.normal(key, (2, 6, 6, 3))
    plain, patches = (nn.Conv(4, (3, 3), conv_general_dilated=fn) for fn in (lax.conv_general_dilated, patch_conv))
    params = plain.init(key, images)
    np.testing.assert_allclose(patches.apply(params, images), plain.apply(params, images), rtol=1e-5, atol=1e-5)
    plain, patches = (
        nnx.Conv(3, 4, (3, 3), strides=2, conv_general_dilated=fn, rngs=nnx.Rngs(0))
        for fn in (lax.conv_general_dilated, patch_conv)
    )
    np.testing.assert_allclose(patches(images), plain(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("unsupported", "message"),
    [
        ({"feature_group_count": 2}, "no groups"),
        ({"batch_group_count": 2}, "no groups"),
        ({"lhs_dilation": (2, 1)}, "does not dilate"),
        ({"rhs_dilation": (1, 2)}, "does not dilate"),
        ({"dimension_numbers": ("NCHW", "OIHW", "NCHW")}, "layout"),
        ({"dimension_numbers": None}, "layout"),
        ({"padding": "VALID"}, "smaller than the kernel"),
    ],
)
def test_what_is_not_supported_is_refused(unsupported, message):
    arguments = {"padding": "SAME", "dimension_numbers": LAYOUT, **unsupported}
    with pytest.raises(ValueError, match=message):
        patch_conv(jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, 3, 3)), (1, 1), **arguments)


def test_the_form_is_chosen_by_name():
    assert convolution("auto") is convolution("patches") is patch_conv  # the tests run on a CPU
    assert convolution("xla") is lax.conv_general_dilated
    with pytest.raises(ValueError, match="'auto', 'patches' or 'xla'"):
        convolution("winograd")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 5, 7, 2), (1, 3, 2, 1)])
def test_max_pool_is_the_window(shape, key):
    x = jax.random.normal(key, shape)
    select, window = (value_gradient_and_second(lambda x: max_pool(x, form), x) for form in ("select", "window"))
    assert_same(select, window)


def test_equal_elements_send_the_gradient_to_the_first():
    x = jnp.zeros((1, 2, 2, 1))
    for form in ("select", "window"):
        gradient = jax.grad(lambda x: max_pool(x, form).sum())(x)
        assert gradient[0, :, :, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("place", range(4))
def test_nan_is_not_lost(place):
    x = jnp.zeros(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
    assert jnp.isnan(max_pool(x)).all()


def test_max_pool_refuses_what_it_cannot_pool():
    with pytest.raises(ValueError, match="larger images"):
        max_pool(jnp.zeros((1, 1, 4, 1)))
    with pytest.raises(ValueError, match="'select' or 'window'"):
        max_pool(jnp.zeros((1, 2, 2, 1)), "mean")
