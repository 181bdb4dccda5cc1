"""Padding and masking of tasks of unequal size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmeta import Batch, Task
from jmeta.tasks import gaussian_blobs, pad_task, ragged, sinusoid, stacked


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_padding_keeps_what_is_there_and_adds_masked_zeros(num_support, num_query, more_support, more_query, masked):
    def batch(count):
        mask = jnp.arange(count) % 2 == 0 if masked else None
        return Batch({"a": jnp.ones((count, 2))}, jnp.arange(count) + 1, mask)

    task = Task(batch(num_support), batch(num_query), jnp.array(0.5))
    padded = pad_task(task, num_support=num_support + more_support, num_query=num_query + more_query)
    assert padded.progress == 0.5
    for before, after, more in ((task.support, padded.support, more_support), (task.query, padded.query, more_query)):
        count = before.y.shape[0]
        np.testing.assert_array_equal(after.x["a"][:count], before.x["a"])
        np.testing.assert_array_equal(after.y, [*range(1, count + 1), *[0] * more])
        assert not after.x["a"][count:].any()
        expected = np.ones(count, bool) if before.mask is None else before.mask
        np.testing.assert_array_equal(after.mask, [*expected, *[False] * more])


def test_padding_refuses_to_cut():
    task = gaussian_blobs(num_ways=2, num_shots=2, num_queries=1)(jax.random.key(0))
    with pytest.raises(ValueError, match="num_support=3, but the task has 4"):
        pad_task(task, num_support=3, num_query=2)


def test_ragged_tasks_have_whole_classes_and_uniform_sizes():
    sample = ragged(gaussian_blobs(num_ways=4, num_shots=3, num_queries=2), num_ways=4, min_ways=2)
    tasks = jax.jit(stacked(sample, 600))(jax.random.key(0))
    ways_seen, shots_seen = [], []
    for support_y, support_mask, query_y, query_mask in zip(
        *(np.asarray(leaf) for leaf in (tasks.support.y, tasks.support.mask, tasks.query.y, tasks.query.mask)),
        strict=True,
    ):
        shots = np.bincount(support_y[support_mask], minlength=4)
        ways = (shots > 0).sum()
        assert (shots[:ways] >= 1).all()  # the classes that appear are 0..ways-1
        assert (shots <= 3).all()
        np.testing.assert_array_equal(np.bincount(query_y[query_mask], minlength=4), [2] * ways + [0] * (4 - ways))
        assert not support_y[~support_mask].any()
        ways_seen.append(ways)
        shots_seen.append(shots[0])
    assert np.bincount(ways_seen)[2:].min() > 150  # 200 expected, standard deviation 12
    assert np.bincount(shots_seen)[1:].min() > 150
    padding = np.asarray(tasks.support.x)[~np.asarray(tasks.support.mask)]
    assert padding.size
    assert not padding.any()


def test_a_ragged_task_keeps_the_examples_of_the_full_one():
    full = gaussian_blobs(num_ways=3, num_shots=2, num_queries=2)
    task = ragged(full, num_ways=3)(jax.random.key(4))
    original = full(jax.random.split(jax.random.key(4), 3)[0])
    for kept, whole in ((task.support, original.support), (task.query, original.query)):
        np.testing.assert_array_equal(kept.x[kept.mask], whole.x[kept.mask])
        np.testing.assert_array_equal(kept.y[kept.mask], whole.y[kept.mask])


def test_mistakes_are_refused():
    sample = gaussian_blobs(num_ways=3, num_shots=2, num_queries=2)
    with pytest.raises(ValueError, match="min_ways=4 exceeds num_ways=3"):
        ragged(sample, num_ways=3, min_ways=4)
    with pytest.raises(ValueError, match="min_shots=3, but the tasks have 2 shots"):
        ragged(sample, num_ways=3, min_shots=3)(jax.random.key(0))


def test_regression_is_refused_with_what_to_do():
    sample = ragged(sinusoid(num_shots=4, num_queries=4), num_ways=2)
    with pytest.raises(ValueError, match=r"support's y has shape \(4, 1\) and dtype float32; .*use pad_task"):
        sample(jax.random.key(0))

    def of_dictionaries(key):
        batch = Batch(jnp.zeros((4, 1)), {"a": jnp.zeros(4)})
        return Task(batch, batch)

    with pytest.raises(ValueError, match="support's y has type dict"):
        ragged(of_dictionaries, num_ways=2)(jax.random.key(0))


def test_labels_of_numpy_are_padded_and_odd_sizes_refused():
    batch = Batch(np.ones((2, 1), np.float32), np.arange(2))
    padded = pad_task(Task(batch, batch), num_support=3, num_query=2)  # a warning would be an error
    assert padded.support.y.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="num_query=True; expected an integer of at least 1"):
        pad_task(Task(batch, batch), num_support=3, num_query=True)
