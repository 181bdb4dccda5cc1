"""Losses: against closed forms, and blind to padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmeta import Batch, losses


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes():
    loss, _ = losses.cross_entropy(jnp.zeros((4, 5)), Batch(jnp.zeros(4), jnp.arange(4)))
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)


def test_cross_entropy_with_an_absent_class_is_that_of_the_others():
    batch = Batch(jnp.zeros(2), jnp.array([0, 1]))
    logits = jnp.array([[1.0, 2.0], [0.0, -1.0]])
    padded = jnp.concatenate([logits, jnp.full((2, 1), -jnp.inf)], 1)
    np.testing.assert_allclose(losses.cross_entropy(padded, batch)[0], losses.cross_entropy(logits, batch)[0])
    grads = jax.grad(lambda x: losses.cross_entropy(x, batch)[0])(padded)
    assert np.isfinite(grads).all()


def test_squared_error_averages_features_and_examples():
    batch = Batch(jnp.zeros(2), jnp.array([[0.0, 0.0], [0.0, 2.0]]))
    loss, aux = losses.squared_error(jnp.zeros((2, 2)), batch)
    assert float(loss) == float(aux["squared_error"]) == 1.0


@settings(max_examples=25, deadline=None)
@given(
    mask=st.lists(st.booleans(), min_size=1, max_size=6).filter(any),
    padding=st.sampled_from([0.0, 1e30, float("nan"), float("inf")]),
    name=st.sampled_from(["cross_entropy", "squared_error"]),
)
def test_padding_changes_neither_loss_nor_gradient(mask, padding, name):
    mask, count = np.array(mask), len(mask)
    rng = np.random.default_rng(count)
    outputs = rng.standard_normal((count, 3)).astype(np.float32)
    targets = rng.integers(0, 3, count) if name == "cross_entropy" else rng.standard_normal((count, 3))
    targets = targets.astype(np.int32 if name == "cross_entropy" else np.float32)
    loss_fn = getattr(losses, name)
    real = Batch(jnp.zeros(mask.sum()), jnp.asarray(targets[mask]))
    padded_outputs = jnp.asarray(np.where(mask[:, None], outputs, padding))
    padded = Batch(jnp.zeros(count), jnp.asarray(targets), jnp.asarray(mask))
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    (expected, expected_aux), expected_grads = value_and_grad(jnp.asarray(outputs[mask]), real)
    (loss, aux), grads = value_and_grad(padded_outputs, padded)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(*(list(a.values()) for a in (aux, expected_aux)), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(grads)[mask], expected_grads, rtol=1e-4, atol=1e-6)


def test_a_batch_of_nothing_but_padding_has_no_loss():
    batch = Batch(jnp.zeros(2), jnp.zeros((2, 1)), jnp.zeros(2, bool))
    assert float(losses.squared_error(jnp.ones((2, 1)), batch)[0]) == 0.0


@pytest.mark.parametrize("labels", [np.zeros((2, 3), np.float32), np.zeros(2, np.float32), np.zeros(3, np.int32)])
def test_labels_that_are_not_labels_are_refused(labels):
    with pytest.raises(ValueError, match="expects one integer label for each of the 2 outputs"):
        losses.cross_entropy(jnp.zeros((2, 3)), Batch(jnp.zeros(2), jnp.asarray(labels)))


def test_a_forgotten_axis_is_refused_rather_than_broadcast():
    with pytest.raises(ValueError, match="one shape"):
        losses.squared_error(jnp.zeros((3, 1)), Batch(jnp.zeros(3), jnp.zeros(3)))
