"""Losses: against closed forms, and blind to padding."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmeta import Batch, distributions, learners, losses


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


NAN = float("nan")


def test_what_padding_holds_is_in_no_gradient():
    """A target, an input or a label that is not a number, in a row that is masked."""
    batch = Batch(jnp.ones((3, 1)), jnp.array([[1.0], [2.0], [NAN]]), jnp.array([True, True, False]))
    slope = jax.grad(lambda w: losses.squared_error(w * batch.x, batch)[0])(0.5)
    np.testing.assert_allclose(slope, ((0.5 - 1) + (0.5 - 2)) / 2 * 2)
    labels = Batch(batch.x, jnp.array([0, 1, -7]), batch.mask)
    whole = Batch(batch.x[:2], labels.y[:2])
    outputs = jnp.array([[1.0, 0.0], [0.5, 1.0], [NAN, NAN]])
    grads = jax.grad(lambda outputs: losses.cross_entropy(outputs, labels)[0])(outputs)
    np.testing.assert_allclose(grads[:2], jax.grad(lambda o: losses.cross_entropy(o, whole)[0])(outputs[:2]), rtol=1e-6)
    np.testing.assert_array_equal(grads[2], 0.0)


@pytest.mark.parametrize(
    "mask",
    [jnp.array([[True], [True], [False]]), jnp.array([0.25, 0.75, 0.0]), jnp.array([2, 1, 0]), jnp.ones(2, bool)],
    ids=["column", "floats", "integers", "length"],
)
def test_a_mask_that_is_not_one_bool_for_each_example_is_refused(mask):
    batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, 0]), mask)
    numbers = batch._replace(y=jnp.zeros((3, 1)))
    for fn in (
        lambda: losses.masked_mean(jnp.array([1.0, 3.0, 100.0]), batch),
        lambda: losses.cross_entropy(jnp.zeros((3, 2)), batch),
        lambda: losses.squared_error(jnp.zeros((3, 1)), numbers),
        lambda: losses.without_padding(batch),
    ):
        with pytest.raises(ValueError, match=r"a mask of shape .* pass one bool for each example"):
            fn()


def test_values_of_single_outputs_are_no_values_of_examples():
    with pytest.raises(ValueError, match=r"one value for each example, but values have shape \(3, 2\)"):
        inspect.unwrap(losses.masked_mean)(jnp.zeros((3, 2)), Batch(None, None))


def test_a_batch_of_no_example_has_no_loss():
    empty = Batch(jnp.zeros((0, 2)), jnp.zeros((0, 1)))
    assert float(losses.squared_error(jnp.zeros((0, 1)), empty)[0]) == 0.0
    assert float(losses.cross_entropy(jnp.zeros((0, 3)), empty._replace(y=jnp.zeros(0, jnp.int32)))[0]) == 0.0
    nothing = distributions.Normal(jnp.zeros((0, 1)), jnp.ones((0, 1)))
    assert float(losses.negative_log_likelihood(nothing, empty)[0]) == 0.0


@pytest.mark.parametrize("label", [-1, -3, 3, 100])
def test_a_label_out_of_range_makes_the_loss_not_a_number(label):
    batch = Batch(jnp.zeros(2), jnp.array([0, label]))
    for loss_fn in (losses.cross_entropy, learners.relation_loss):
        loss, aux = loss_fn(jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), batch)
        assert np.isnan(loss)
        assert float(aux["accuracy"]) == 0.5


@pytest.mark.parametrize("y", [jnp.zeros(3), jnp.zeros(())])
def test_a_batch_of_other_numbers_of_inputs_and_targets_is_refused(y):
    with pytest.raises(ValueError, match=r"arrays of shapes \(2, 1\), .* as many targets as inputs"):
        losses.without_padding(Batch(jnp.zeros((2, 1)), y))
