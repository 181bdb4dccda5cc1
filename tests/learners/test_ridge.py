"""Ridge regression: the two closed forms, the normal equations, limits, and the meta-gradient through both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import losses
from jmeta.learners.ridge import _solve_by_examples, _solve_by_features, ridge

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import (
    assert_absent_ways_change_nothing,
    assert_padding_alone_is_finite,
    assert_padding_changes_nothing,
    assert_support_order_is_irrelevant,
    blobs,
    in_double,
    predict,
)


def learner_and_params(task, num_features=4, num_ways=3):
    learner = ridge(smooth_mlp(num_features), num_ways=num_ways)
    return learner, in_double(learner.init(jax.random.key(1), task))


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4)])
def test_dual_and_primal_forms_are_equal_and_minimise_the_objective(float64, shape):
    rng = np.random.default_rng(0)
    x, y, penalty = (
        jnp.asarray(rng.standard_normal(shape)),
        jnp.asarray(rng.standard_normal((shape[0], 2))),
        jnp.array(0.3),
    )
    by_examples, by_features = _solve_by_examples(x, y, penalty), _solve_by_features(x, y, penalty)
    np.testing.assert_allclose(by_examples, by_features, rtol=1e-9)
    objective = lambda w: jnp.square(x @ w - y).sum() + penalty * jnp.square(w).sum()
    np.testing.assert_allclose(jax.grad(objective)(by_examples), 0.0, atol=1e-12)


@pytest.mark.parametrize("num_features", [2, 9])
def test_logits_are_scaled_least_squares_whichever_form_is_chosen(float64, key, num_features):
    """The penalty as extra rows of an ordinary least-squares problem, solved by NumPy."""
    task = blobs(key)
    learner, meta_params = learner_and_params(task, num_features)
    meta_params |= {"log_lambda": jnp.log(0.7), "alpha": jnp.array(3.0)}
    embed = lambda x: np.asarray(smooth_mlp(num_features).apply(meta_params["params"], x, None))
    rows = np.concatenate([embed(task.support.x), 0.7**0.5 * np.eye(num_features)])
    targets = np.concatenate([np.eye(3)[np.asarray(task.support.y)], np.zeros((num_features, 3))])
    weights, *_ = np.linalg.lstsq(rows, targets, rcond=None)
    np.testing.assert_allclose(predict(learner, meta_params, task), 3.0 * embed(task.query.x) @ weights, rtol=1e-8)


def test_a_large_penalty_leaves_inner_products_with_class_sums(float64, key):
    task = blobs(key)
    learner = ridge(identity(), num_ways=3)
    meta_params = {"params": {}, "log_lambda": jnp.log(1e12), "alpha": jnp.array(1e12)}
    sums = np.stack([np.asarray(task.support.x)[np.asarray(task.support.y) == k].sum(0) for k in range(3)])
    np.testing.assert_allclose(predict(learner, meta_params, task), task.query.x @ sums.T, rtol=1e-6)


@pytest.mark.parametrize("num_features", [2, 9])
def test_meta_gradient_is_the_central_difference(float64, key, num_features):
    task = blobs(key)
    learner, meta_params = learner_and_params(task, num_features)
    episode_fn = jmeta.episode(learner, losses.cross_entropy)
    assert_gradient_is_central_difference(lambda m: episode_fn(m, task, key)[0], meta_params)


@pytest.mark.parametrize("num_features", [2, 9])
def test_order_padding_and_absent_ways_change_nothing(float64, key, num_features):
    """Six examples, nine with padding: with two features the primal form is solved, with nine the dual one."""
    task = blobs(key)
    learner, meta_params = learner_and_params(task, num_features)
    assert_support_order_is_irrelevant(learner, meta_params, task)
    assert_padding_changes_nothing(learner, meta_params, task)
    assert_padding_alone_is_finite(learner, meta_params, task)
    make = lambda num_ways: ridge(smooth_mlp(num_features), num_ways=num_ways)
    assert_absent_ways_change_nothing(make, meta_params, task, num_ways=3)


def test_padding_may_switch_the_form_and_still_changes_nothing(float64, key):
    """Seven features: six real examples take the dual form, nine padded ones the primal."""
    task = blobs(key)
    learner, meta_params = learner_and_params(task, num_features=7)
    assert_padding_changes_nothing(learner, meta_params, task)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_ways=0; expected"):
        ridge(identity(), num_ways=0)
    with pytest.raises(ValueError, match=r"initial_lambda=0\.0; expected a positive penalty"):
        ridge(identity(), num_ways=2, initial_lambda=0.0)
