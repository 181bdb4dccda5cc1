"""The host-fed path: valid tasks, the same ones for the same seed, and a state that resumes."""

import time

import chex
import jax
import numpy as np
import pytest

from jmeta.tasks import few_shot, group_by_class, host_fed

LABELS = np.repeat(np.arange(8), [3, 6, 6, 6, 6, 6, 6, 7]) * 10  # class 0 is too small
IMAGES = np.arange(len(LABELS), dtype=np.float64)[:, None]  # each example is its own index


def stream(seed=0, **arguments):
    sizes = {"num_ways": 5, "num_shots": 2, "num_queries": 3, "num_tasks": 4} | arguments
    return host_fed(IMAGES, LABELS, seed=seed, **sizes)


def test_tasks_are_balanced_disjoint_and_of_large_enough_classes():
    tasks = next(iter(stream()))
    for batch, num_each in ((tasks.support, 2), (tasks.query, 3)):
        assert (batch.x.shape, batch.x.dtype) == ((4, 5 * num_each, 1), np.float32)
        assert (batch.y.shape, batch.y.dtype) == ((4, 5 * num_each), np.int32)
    for i in range(4):
        examples = np.concatenate([tasks.support.x[i, :, 0], tasks.query.x[i, :, 0]]).astype(int)
        labels = np.concatenate([tasks.support.y[i], tasks.query.y[i]])
        assert len(set(examples)) == 25
        assert 0 not in LABELS[examples]
        assert len(set(zip(LABELS[examples], labels, strict=True))) == 5
        np.testing.assert_array_equal(np.bincount(tasks.support.y[i]), [2] * 5)
        np.testing.assert_array_equal(np.bincount(tasks.query.y[i]), [3] * 5)


def test_the_seed_decides_and_batches_differ():
    one, same, other = (iter(stream(seed)) for seed in (0, 0, 1))
    first = next(one)
    chex.assert_trees_all_equal(first, next(same))
    assert not np.array_equal(first.support.x, next(other).support.x)
    assert not np.array_equal(first.support.x, next(one).support.x)


def test_a_restored_iterator_goes_on_where_the_saved_one_was():
    running = iter(stream())
    for _ in range(3):
        next(running)
    state = running.get_state()
    expected = [next(running) for _ in range(3)]
    resumed = iter(stream())
    resumed.set_state(state)
    for tasks in expected:
        chex.assert_trees_all_equal(tasks, next(resumed))


def test_uint8_records_of_any_kind_are_read_and_scaled():
    records = [{"image": np.full((2, 2, 1), 51, np.uint8)} for _ in LABELS]
    tasks = next(
        iter(
            host_fed(
                records,
                LABELS,
                num_ways=5,
                num_shots=1,
                num_queries=1,
                num_tasks=2,
                seed=0,
                get_image=lambda record: record["image"],
            )
        )
    )
    np.testing.assert_allclose(tasks.support.x, np.full((2, 5, 2, 2, 1), 0.2, np.float32))


@pytest.mark.parametrize(
    ("dtype", "shape", "sampled", "factor"),
    [
        (np.int32, (1,), np.int32, 1),
        (np.uint16, (1,), np.uint16, 1),
        (np.uint16, (1, 1, 1), np.float32, 65535),
        (bool, (1,), bool, 1),
        (np.float16, (1,), np.float32, 1),
    ],
)
def test_dtypes_are_those_of_the_device_path(dtype, shape, sampled, factor):
    values = np.arange(len(LABELS)).astype(dtype).reshape(-1, *shape)
    sizes = {"num_ways": 5, "num_shots": 1, "num_queries": 1}
    x = next(iter(host_fed(values, LABELS, **sizes, num_tasks=2, seed=0))).support.x
    assert x.dtype == sampled
    rows = (values.astype(np.float32) / factor).reshape(-1)
    assert set(x.astype(np.float32).reshape(-1)) <= set(rows)
    grouped, class_sizes = group_by_class(values[LABELS > 0], LABELS[LABELS > 0])
    on_device = few_shot(grouped, **sizes, class_sizes=class_sizes)(jax.random.key(0))
    assert on_device.support.x.dtype == sampled


def test_records_may_become_pytrees():
    records = [
        {"tokens": np.array([i], np.int32), "image": np.full((2, 2, 1), 51, np.uint8)} for i in range(len(LABELS))
    ]
    sizes = {"num_ways": 5, "num_shots": 1, "num_queries": 1, "num_tasks": 2}
    stream = host_fed(records, LABELS, **sizes, seed=0, get_image=lambda record: record)
    tasks = next(iter(stream))
    np.testing.assert_allclose(tasks.support.x["image"], np.full((2, 5, 2, 2, 1), 0.2, np.float32))
    assert (tasks.support.x["tokens"].shape, tasks.support.x["tokens"].dtype) == ((2, 5, 1), np.int32)
    with pytest.raises(ValueError, match="dtype object; pass numbers"):
        host_fed(records, LABELS, **sizes, seed=0)


def test_many_classes_take_no_longer_each():
    labels = np.arange(100_000) // 5
    start = time.process_time()
    host_fed(np.zeros((100_000, 1)), labels, num_ways=5, num_shots=1, num_queries=1, num_tasks=1, seed=0)
    assert time.process_time() - start < 5  # took 5 s a hundred thousand comparisons of all labels with each


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="labels have shape .46, 1. and dtype int64; expected one integer for each"):
        host_fed(IMAGES, LABELS[:, None], num_ways=2, num_shots=1, num_queries=1, num_tasks=1, seed=0)
    with pytest.raises(ValueError, match="scale=True, but examples have dtype float64"):
        stream(scale=True)
    with pytest.raises(ValueError, match="only 7 of 8 classes have the 5 examples"):
        stream(num_ways=8)
    with pytest.raises(ValueError, match="num_tasks=0"):
        stream(num_tasks=0)
    with pytest.raises(ValueError, match="46 labels for 45 examples"):
        host_fed(IMAGES[:-1], LABELS, num_ways=2, num_shots=1, num_queries=1, num_tasks=1, seed=0)


def test_numbers_of_another_order_of_bytes_are_the_same_numbers():
    data, labels = np.arange(60, dtype=np.float32), np.arange(60) % 10
    numbers = {"num_ways": 5, "num_shots": 1, "num_queries": 2, "num_tasks": 2, "seed": 0, "num_threads": 0}
    one, other = (next(iter(host_fed(each, labels, **numbers))) for each in (data, data.astype(">f4")))
    assert other.support.x.dtype == np.float32
    np.testing.assert_array_equal(one.support.x, other.support.x)
