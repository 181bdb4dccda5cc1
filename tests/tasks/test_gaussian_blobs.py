"""Gaussian blobs: moments, balance, and that spread decides how hard they are."""

import jax
import numpy as np
import pytest

from jmeta.tasks import gaussian_blobs, stacked


def test_within_a_class_variance_is_one_and_between_classes_it_is_the_spread():
    sample = gaussian_blobs(num_ways=3, num_shots=2, num_queries=5, num_features=4, spread=2.0)
    tasks = jax.jit(stacked(sample, 2000))(jax.random.key(0))
    x, y = np.asarray(tasks.query.x), np.asarray(tasks.query.y)
    in_order = np.take_along_axis(x, np.argsort(y, axis=1)[..., None], axis=1).reshape(2000, 3, 5, 4)
    assert abs(in_order.var(axis=2, ddof=1).mean() - 1) < 0.02
    assert abs(in_order.mean(axis=2).var(axis=1, ddof=1).mean() - (4 + 1 / 5)) < 0.2
    assert (np.sort(y, axis=1) == np.repeat(np.arange(3), 5)).all()
    assert len(np.unique(y, axis=0)) > 100  # in random order


def test_support_and_query_share_their_centres():
    task = gaussian_blobs(num_ways=2, num_shots=400, num_queries=400, spread=5.0)(jax.random.key(0))
    for label in range(2):
        means = [np.asarray(b.x)[np.asarray(b.y) == label].mean(0) for b in (task.support, task.query)]
        np.testing.assert_allclose(*means, atol=0.4)


def test_determined_by_the_key():
    sample = gaussian_blobs(num_ways=2, num_shots=1, num_queries=1)
    np.testing.assert_array_equal(sample(jax.random.key(1)).support.x, sample(jax.random.key(1)).support.x)
    assert not np.array_equal(sample(jax.random.key(1)).support.x, sample(jax.random.key(2)).support.x)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_features=0"):
        gaussian_blobs(num_ways=2, num_shots=1, num_queries=1, num_features=0)
    with pytest.raises(ValueError, match=r"spread=-1.0; expected a standard deviation"):
        gaussian_blobs(num_ways=2, num_shots=1, num_queries=1, spread=-1.0)
