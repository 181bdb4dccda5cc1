"""Named protocols: what they draw, what they are called, and that they refuse another split."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from jmeta.domains.images import protocols
from jmeta.domains.images.datasets import ImageClasses, ImageSplits, split_hash

OF_OMNIGLOT = (protocols.vinyals, protocols.finn2017, protocols.reptile2018, protocols.lake)


def small_classes(name, num_classes):
    images = np.random.default_rng(0).integers(0, 256, (num_classes, 20, 4, 4, 1), np.uint8)
    names = tuple(f"{name}{i}" for i in range(num_classes))
    return ImageClasses.padded(images, names, np.arange(num_classes, dtype=np.int32) // 10, ("one", "two"))


@pytest.fixture(scope="module")
def splits():
    return ImageSplits(*(small_classes(name, 20) for name in ("train", "valid", "test")))


def shapes(sample):
    task = jax.eval_shape(sample, jax.random.key(0))
    return len(task.support.y.shape), task.support.y.shape[0], task.query.y.shape[0]


def on(splits, protocol):
    return dataclasses.replace(protocol, split_hash=None).samplers


@pytest.mark.parametrize(
    ("protocol", "train", "test", "arguments"),
    [
        (protocols.vinyals, (60 * 5, 60 * 5), (5, 75), {}),
        (protocols.vinyals, (5 * 2, 5 * 3), (5, 75), {"train_ways": 5, "train_shots": 2, "train_queries": 3}),
        (protocols.finn2017, (5, 5), (5, 5), {}),
        (protocols.reptile2018, (50, 5), (5, 5), {}),
        (protocols.lake, (5, 5), (5, 75), {}),
        (protocols.glyphs, (5, 15), (5, 15), {}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_tasks_have_the_protocols_sizes(splits, protocol, train, test, arguments):
    samplers = on(splits, protocol)(splits, num_ways=5, num_shots=1, **arguments)
    assert shapes(samplers.meta_train) == (1, *train)
    assert shapes(samplers.meta_valid) == shapes(samplers.meta_test) == (1, *test)


def test_as_many_queries_as_shots_where_the_protocol_says_so(splits):
    samplers = on(splits, protocols.finn2017)(splits, num_ways=5, num_shots=5)
    assert shapes(samplers.meta_train) == shapes(samplers.meta_test) == (1, 25, 25)


@pytest.mark.parametrize("argument", ["train_ways", "train_shots", "train_queries"])
def test_zero_is_refused_rather_than_taken_for_the_protocols_own(splits, argument):
    with pytest.raises(ValueError, match=f"{argument.replace('train', 'num')}=0"):
        on(splits, protocols.vinyals)(splits, num_ways=5, num_shots=1, **{argument: 0})


def test_rotations_are_classes_only_where_they_shall_be(splits):
    on(splits, protocols.vinyals)(splits, num_ways=80, num_shots=1)  # 20 classes, four rotations of each
    with pytest.raises(ValueError, match="num_ways=21, but there are only 20 classes"):
        on(splits, protocols.reptile2018)(splits, num_ways=21, num_shots=1)


def test_tasks_of_lake_lie_within_one_alphabet(splits):
    sample = on(splits, protocols.lake)(splits, num_ways=10, num_shots=1).meta_test
    flat = splits.meta_test.images.reshape(20, 20, -1) / np.float32(255)
    for seed in range(4):
        x = np.asarray(jax.jit(sample)(jax.random.key(seed)).support.x).reshape(10, 1, 1, -1)
        classes = abs(x - flat).max(-1).min(-1).argmin(-1)
        assert len(set(classes // 10)) == 1
    with pytest.raises(ValueError, match="the largest group has only 10"):
        on(splits, protocols.lake)(splits, num_ways=11, num_shots=1)


def test_another_split_is_refused(splits):
    for protocol in (*OF_OMNIGLOT, protocols.glyphs):
        with pytest.raises(ValueError, match=f"protocol '{protocol.name}' is defined on the split"):
            protocol.samplers(splits, num_ways=5, num_shots=1)


def test_descriptions_carry_what_makes_numbers_differ():
    assert protocols.vinyals.describe(num_ways=20, num_shots=5) == (
        "vinyals/omniglot 20-way 5-shot, rotations as classes, 15 queries, 1000 tasks"
    )
    assert protocols.finn2017.describe(num_ways=5, num_shots=1) == (
        "finn2017/omniglot 5-way 1-shot, rotations per class, 1 query, 600 tasks, published transductive"
    )
    assert protocols.reptile2018.describe(num_ways=5, num_shots=5, num_tasks=200) == (
        "reptile2018/omniglot 5-way 5-shot, 1 query, 200 tasks, published both ways"
    )


@pytest.mark.parametrize(
    "change",
    [{"test_rotations": "per_class"}, {"test_queries": 1}, {"num_test_tasks": 7}, {"transductive": True}],
    ids=lambda change: next(iter(change)),
)
def test_protocols_that_differ_at_test_are_described_differently(change):
    describe = lambda protocol: protocol.describe(num_ways=5, num_shots=1)
    assert describe(dataclasses.replace(protocols.glyphs, **change)) != describe(protocols.glyphs)


def test_inner_steps_are_the_papers():
    assert [protocols.finn2017.num_inner_steps(num_ways=ways) for ways in (5, 20, 10)] == [3, 5, None]
    assert protocols.reptile2018.num_inner_steps(num_ways=5) == 50
    assert protocols.vinyals.num_inner_steps(num_ways=5) is None


def test_a_source_draws_what_the_samplers_draw(splits, key):
    protocol = dataclasses.replace(protocols.finn2017, split_hash=None, load=lambda _: splits)
    numbers = {"num_ways": 5, "num_shots": 2, "train_ways": 4, "train_shots": 3, "train_queries": 1}
    source, samplers = protocol.source(**numbers), protocol.samplers(splits, **numbers)
    for split in ("meta_valid", "meta_test"):
        chex.assert_trees_all_equal(getattr(source, split)(key), getattr(samplers, split)(key))
    chex.assert_trees_all_equal(source.meta_train()(key), samplers.meta_train(key))


def test_a_source_carries_the_words_and_the_classes(splits):
    protocol = dataclasses.replace(protocols.finn2017, split_hash=None)
    source = protocol.source(splits, num_ways=5, num_shots=2)
    assert source.name == "finn2017/omniglot 5-way 2-shot"
    assert source.describe(20) == protocol.describe(num_ways=5, num_shots=2, num_tasks=20)
    assert source.num_test_tasks == protocol.num_test_tasks == 600
    assert source.split_hash == split_hash(splits)
    assert source.test_classes == {f"test{i}" for i in range(20)}
    assert source.seen_classes == {f"{split}{i}" for split in ("train", "valid") for i in range(20)}


def test_a_source_refuses_another_split_at_once_and_training_tasks_when_they_are_asked_for(splits):
    with pytest.raises(ValueError, match="protocol 'glyphs' is defined on the split"):
        protocols.glyphs.source(splits, num_ways=5, num_shots=1)
    too_many = dataclasses.replace(protocols.finn2017, split_hash=None).source(
        splits, num_ways=5, num_shots=1, train_ways=21
    )
    with pytest.raises(ValueError, match="num_ways=21, but there are only 20 classes"):
        too_many.meta_train()


@pytest.mark.parametrize(("rotations", "num_classes"), [("none", 20), ("per_class", 80), ("as_classes", 80)])
def test_pretraining_counts_turned_images_as_classes_of_their_own(splits, rotations, num_classes, key):
    protocol = dataclasses.replace(protocols.glyphs, split_hash=None, augment=None, train_rotations=rotations)
    sample, counted = protocol.pretraining(splits, batch_size=300)
    assert counted == num_classes
    task = jax.jit(sample)(key)
    assert task.support.x.shape == (300, 4, 4, 1)
    chex.assert_trees_all_equal(task.support, task.query)
    assert num_classes * 3 // 4 < int(task.query.y.max()) < num_classes


def test_pretraining_distorts_as_tasks_are_distorted(splits, key):
    plain = dataclasses.replace(protocols.glyphs, split_hash=None, augment=None)
    halved = dataclasses.replace(plain, augment=lambda image, key: image / 2)
    one, other = (protocol.pretraining(splits, batch_size=4)[0](key) for protocol in (plain, halved))
    np.testing.assert_allclose(other.query.x, one.query.x / 2, rtol=1e-6)


@pytest.mark.parametrize("protocol", OF_OMNIGLOT, ids=lambda protocol: protocol.name)
def test_the_real_data_load_split_as_pinned_and_draw_tasks(protocol, data_dir):
    splits = protocol.load(data_dir)
    for num_ways in (5, 20):
        samplers = protocol.samplers(splits, num_ways=num_ways, num_shots=1)
        assert all(shapes(sample)[1] >= num_ways for sample in samplers)


def test_the_embedded_data_draw_tasks_of_one_and_five_shots():
    splits = protocols.glyphs.load(None)
    for num_ways, num_shots in ((5, 1), (5, 5), (20, 5)):
        samplers = protocols.glyphs.samplers(splits, num_ways=num_ways, num_shots=num_shots)
        task = jax.eval_shape(samplers.meta_test, jax.random.key(0))
        assert task.query.x.shape == (3 * num_ways, 28, 28, 1)
