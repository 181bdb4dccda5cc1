"""Spaces of every kind, as numbers that a network can read: choices, pixels, dictionaries, and what cannot be read."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.domains.rl.environments import Box, Discrete, as_numbers, as_vector, num_features
from jmeta.domains.rl.environments.spaces import contains, flat_action_space, sample, vector_bounds

PIXELS = Box(0, 255, (2, 2, 1), jnp.uint8)


class Seen(NamedTuple):
    """An observation in two parts."""

    place: object
    n: object  # named as the count of a discrete space


COMPOSITE = {
    "a dict": {"colour": Discrete(3), "at": Box(-1.0, 1.0, (2,))},
    "a tuple": (Discrete(3), Box(-1.0, 1.0, (2,))),
    "a named tuple": Seen(Box(-1.0, 1.0, (2,)), Discrete(3)),
    "one in another": {"b": {"z": Box(0.0, 1.0, ()), "a": Discrete(2)}, "a": (PIXELS, Discrete(2))},
}


@pytest.mark.parametrize("name", COMPOSITE)
def test_elements_of_composite_spaces_are_the_vectors_of_their_parts(name, key):
    space = COMPOSITE[name]
    drawn = [sample(space, each) for each in jax.random.split(key, 5)]
    assert all(bool(contains(space, each)) for each in drawn)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    vectors = as_vector(together, space)
    assert vectors.shape == (5, num_features(space))
    assert vectors.dtype == jnp.float32
    np.testing.assert_array_equal(vectors, jnp.stack([as_vector(each, space) for each in drawn]))
    low, high = vector_bounds(space)
    assert low <= float(vectors.min()) <= float(vectors.max()) <= high


def test_parts_of_a_dictionary_are_in_the_order_of_their_names():
    space, value = COMPOSITE["a dict"], {"colour": jnp.array(1), "at": jnp.array([0.5, -0.5])}
    assert as_vector(value, space).tolist() == [0.5, -0.5, 0, 1, 0]
    assert as_numbers(value, space)["colour"].tolist() == [0, 1, 0]


def test_pixels_are_scaled_as_images_are():
    pixels = jnp.array([0, 51, 102, 255], jnp.uint8).reshape(2, 2, 1)
    np.testing.assert_allclose(as_numbers(pixels, PIXELS).ravel(), [0, 0.2, 0.4, 1], rtol=1e-6)
    assert as_numbers(pixels, PIXELS).shape == (2, 2, 1)
    assert vector_bounds(PIXELS) == (0.0, 1.0)


def test_other_small_integers_are_not():
    """Symbols of a grid, or bits, are stored as uint8, too."""
    symbols = jnp.array([0, 10, 3], jnp.uint8)
    assert as_vector(symbols, Box(0, 10, (3,), jnp.uint8)).tolist() == [0, 10, 3]
    assert as_vector(symbols.astype(jnp.int32), Box(0, 255, (3,), jnp.int32)).tolist() == [0, 10, 3]


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bool_])
def test_boxes_of_integers_hold_both_bounds(dtype, key):
    space = Box(0, 1, (50,), dtype)
    drawn = space.sample(key)
    assert drawn.dtype == space.dtype
    assert set(np.unique(np.asarray(drawn, int))) == {0, 1}
    assert bool(space.contains(drawn))


def test_boxes_of_array_bounds_are_uniform_where_they_are_bounded(key):
    space = Box(np.array([-1.0, 5.0, -np.inf]), np.array([1.0, 9.0, np.inf]), (3,))
    drawn = jax.vmap(space.sample)(jax.random.split(key, 4000))
    assert bool(space.contains(drawn))
    np.testing.assert_allclose(drawn.mean(0), [0, 7, 0], atol=0.08)
    np.testing.assert_allclose(drawn.var(0), [4 / 12, 16 / 12, 1], rtol=0.1)
    outside = jnp.array([0.0, 4.0, 0.0])
    assert not bool(space.contains(outside))


def test_spaces_of_gymnax_are_read(key):
    spaces = pytest.importorskip("gymnax.environments.spaces", reason="gymnax is not installed")
    theirs = spaces.Dict({"b": spaces.Tuple([spaces.Discrete(3), spaces.Box(0.0, 1.0, (2,))]), "a": spaces.Discrete(2)})
    value = {"b": (jnp.array(2), jnp.array([0.25, 0.5])), "a": jnp.array(0)}
    assert as_vector(value, theirs).tolist() == [1, 0, 0, 0, 1, 0.25, 0.5]
    assert num_features(theirs) == 7
    assert bool(contains(theirs, value))
    assert bool(contains(theirs, sample(theirs, key)))


def test_actions_of_any_shape_are_flat_to_policies():
    for shape, count in (((), 1), ((2, 3), 6), ((4,), 4)):
        assert flat_action_space(Box(-1.0, 1.0, shape), "robot").shape == (count,)
    low = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(flat_action_space(Box(low, low + 1, (2, 3)), "robot").low, np.arange(6.0))
    assert flat_action_space(Discrete(3), "robot") == Discrete(3)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"a": Discrete(2)}, "robot has the action space"),
        ((Discrete(2), Discrete(3)), "robot has the action space"),
        (Box(0, 3, (2,), jnp.int32), "robot has the action space"),
        (7, "robot has the action space 7"),
    ],
)
def test_actions_that_no_policy_can_take_are_refused(space, words):
    with pytest.raises(ValueError, match=words):
        flat_action_space(space, "robot")


def test_what_is_no_space_is_refused():
    with pytest.raises(ValueError, match="'a string' is no space"):
        as_vector(jnp.zeros(2), {"a": "a string"}["a"])
    with pytest.raises(ValueError, match="has no part 'b'"):
        as_vector({"a": jnp.zeros(())}, {"b": Box(0.0, 1.0, ())})
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        as_vector(jnp.zeros(3), Box(0.0, 1.0, (2,)))
