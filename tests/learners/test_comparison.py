"""What learners share: labels, means, directions, embeddings, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmeta import Batch, Model
from jmeta.learners.comparison import class_means, directions, embed, embed_support, exclude_absent, one_hot_labels

from ..differences import assert_gradient_is_central_difference


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([1, 4]), st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=6, max_size=6))
def test_class_means_are_means_over_real_examples(num_ways, rows):
    labels, mask = np.array([label % num_ways for label, _ in rows]), np.array([is_real for _, is_real in rows])
    values = np.random.default_rng(0).standard_normal((len(rows), 2, 3)).astype(np.float32)
    support = Batch(jnp.zeros(len(rows)), jnp.asarray(labels), jnp.asarray(mask))
    means, counts = class_means(jnp.asarray(values), one_hot_labels(support, num_ways, jnp.float32))
    for way in range(num_ways):
        chosen = values[mask & (labels == way)]
        assert counts[way] == len(chosen)
        np.testing.assert_allclose(means[way], chosen.mean(0) if len(chosen) else np.zeros((2, 3)), atol=1e-6)


def test_labels_out_of_range_and_padding_belong_to_no_class():
    support = Batch(jnp.zeros(4), jnp.array([0, 3, -1, 1]), jnp.array([True, True, True, False]))
    assert one_hot_labels(support, 2, jnp.float32).tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("labels", [jnp.zeros(3), jnp.zeros((3, 2), jnp.int32)])
def test_labels_that_are_no_integers_are_refused(labels):
    with pytest.raises(ValueError, match="one integer label for each support example"):
        one_hot_labels(Batch(jnp.zeros((3, 2)), labels), 2, jnp.float32)


def test_directions_have_length_one_and_a_right_derivative(float64):
    vectors, weights = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 3)))
    np.testing.assert_allclose(jnp.linalg.norm(directions(vectors), axis=1), 1.0, rtol=1e-12)
    assert_gradient_is_central_difference(lambda v: (directions(v) * weights).sum(), vectors)


def test_zero_vector_has_no_direction_and_no_gradient():
    vectors = jnp.array([[0.0, 0.0], [1e-9, 0.0], [0.0, 2.0]])
    value, gradient = jax.value_and_grad(lambda v: (directions(v) * jnp.array([[1.0, 2.0]])).sum())(vectors)
    assert value == 2.0
    np.testing.assert_array_equal(gradient, [[0.0, 0.0], [0.0, 0.0], [0.5, 0.0]])


def test_absent_classes_get_minus_infinity_unless_all_are_absent():
    logits = jnp.ones((2, 3))
    assert exclude_absent(logits, jnp.array([0.0, 1.0, 2.0])).tolist() == [[-jnp.inf, 1.0, 1.0]] * 2
    assert exclude_absent(logits, jnp.zeros(3)).tolist() == logits.tolist()


def test_a_model_that_stores_statistics_is_calibrated_on_the_support_without_its_padding():
    """The model divides by a stored mean of absolute values; only the padding's zeros may enter it."""

    def calibrate(params, x, key):
        params = {"scale": jnp.abs(x).mean()}
        return x / params["scale"], params

    model = Model(lambda key, x: {"scale": 1.0}, lambda params, x, key: x / params["scale"], calibrate)
    support = Batch(jnp.array([[4.0], [jnp.nan]]), jnp.array([0, 0]), jnp.array([True, False]))
    embeddings, params = embed_support(model, {"scale": 1.0}, support, None)
    assert embeddings.tolist() == [[2.0], [0.0]]
    assert embed(model, params, jnp.array([[6.0]]), None).tolist() == [[3.0]]


def test_embeddings_must_be_vectors_and_are_float32_at_least():
    model = Model(lambda key, x: {}, lambda params, x, key: x)
    assert embed(model, {}, jnp.zeros((2, 3), jnp.bfloat16), None).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"\(2, 3, 4\); let the model flatten"):
        embed(model, {}, jnp.zeros((2, 3, 4)), None)
