"""A folder of one's own images: the same words, classes and sizes, whether the device or the host draws tasks."""

import itertools
import json
import shutil

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from jmeta.domains.images import own_images
from jmeta.tasks import HostTasks

NUMBERS = {"num_ways": 2, "num_shots": 1, "num_queries": 2, "num_channels": 1}


@pytest.fixture
def folder(tmp_path):
    """Ten classes of four to five images; the pixels of an image say which class it is of."""
    for c in range(10):
        (tmp_path / "mine" / f"class{c}").mkdir(parents=True)
        for i in range(4 + c % 2):
            pixels = np.full((6, 6), 20 * c + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / f"class{c}" / f"{i}.png")
    return tmp_path / "mine"


@pytest.mark.parametrize("host_fed", [False, True])
def test_words_and_classes(folder, host_fed):
    source = own_images(folder, **NUMBERS, host_fed=host_fed)
    assert source.name == "folder/mine 2-way 1-shot"
    assert source.describe(1000) == "folder/mine 2-way 1-shot, 2 queries, 1000 tasks"
    assert len(source.seen_classes) == 8
    assert len(source.test_classes) == 2
    assert source.seen_classes | source.test_classes == {f"class{c}" for c in range(10)}
    assert source.split_hash == own_images(folder, **NUMBERS).split_hash


def test_tasks_have_the_sizes_asked_for(folder, key):
    with pytest.warns(UserWarning, match="45 of 45 images have another shape than size=.4, 8."):
        source = own_images(folder, **NUMBERS, train_ways=3, train_shots=2, size=(4, 8))
    task = jax.eval_shape(source.meta_train(), key)
    assert (task.support.x.shape, task.query.x.shape) == ((6, 4, 8, 1), (6, 4, 8, 1))
    for sample in (source.meta_valid, source.meta_test):
        task = jax.eval_shape(sample, key)
        assert (task.support.x.shape, task.query.x.shape) == ((2, 4, 8, 1), (4, 4, 8, 1))


def test_the_host_draws_training_tasks_of_the_classes_of_meta_train(folder, key):
    on_device, on_host = (
        own_images(folder, **NUMBERS, train_ways=3, train_shots=2, host_fed=fed, tasks_per_step=4, seed=7)
        for fed in (False, True)
    )
    stream = on_host.meta_train()
    assert isinstance(stream, HostTasks)
    batches = list(itertools.islice(stream.open(range(4)), 6))
    one = jax.eval_shape(on_device.meta_train(), key)
    assert jax.tree.map(np.shape, batches[0]) == jax.tree.map(lambda leaf: (4, *leaf.shape), one)
    drawn = {round(255 * pixel) // 20 for tasks in batches for pixel in tasks.query.x[..., 0, 0, 0].flat}
    held_out = {round(255 * float(pixel)) // 20 for pixel in np.unique(_all_images(on_host))}
    assert len(drawn) == 6
    assert not drawn & held_out
    chex.assert_trees_all_equal(on_host.meta_test(key), on_device.meta_test(key))


def test_a_process_draws_its_own_tasks_alone(folder):
    stream = own_images(folder, **NUMBERS, host_fed=True, tasks_per_step=4).meta_train()
    assert isinstance(stream, HostTasks)
    everything, own = (next(iter(stream.open(tasks))) for tasks in (range(4), range(1, 3)))
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[1:3], everything), own)


@pytest.mark.parametrize("train_ways", [0, 9])
def test_what_cannot_be_drawn_is_refused_when_it_is_asked_for(folder, train_ways):
    on_device, on_host = (own_images(folder, **NUMBERS, train_ways=train_ways, host_fed=fed) for fed in (False, True))
    with pytest.raises(ValueError, match=f"num_ways={train_ways}"):
        on_device.meta_train()
    stream = on_host.meta_train()
    assert isinstance(stream, HostTasks)
    with pytest.raises(ValueError, match=f"num_ways={train_ways}"):
        stream.open(range(1))


def test_a_folder_has_to_be_named():
    with pytest.raises(ValueError, match="pass the folder of your images: --path DIR"):
        own_images("", **NUMBERS)


def _all_images(source):
    """The pixels of many tasks of meta_valid and meta_test."""
    keys = jax.random.split(jax.random.key(0), 50)
    return np.concatenate(
        [np.ravel(jax.vmap(sample)(keys).query.x) for sample in (source.meta_valid, source.meta_test)]
    )


def test_the_record_says_classes_and_preparation(folder):
    source = own_images(folder, **NUMBERS, size=(6, 6), fit="pad", background=0)
    record = json.loads(json.dumps(source.record))
    assert record["preparation"] == {"size": [6, 6], "num_channels": 1, "fit": "pad", "background": 0}
    assert record["image_shape"] == [6, 6, 1]
    assert {*record["classes"]["meta_train"], *record["classes"]["meta_valid"]} == source.seen_classes
    counts = {name: count for part in record["classes"].values() for name, count in part.items()}
    assert counts == {f"class{c}": 4 + c % 2 for c in range(10)}


@pytest.mark.parametrize("host_fed", [False, True])
def test_a_source_without_its_folder_has_shapes_and_no_tasks(folder, key, host_fed):
    numbers = {**NUMBERS, "size": (6, 6), "host_fed": host_fed}
    whole = own_images(folder, **numbers)
    shutil.rmtree(folder)
    gone = own_images(folder, **numbers)
    assert (gone.name, gone.describe(10)) == (whole.name, whole.describe(10))
    chex.assert_trees_all_equal_shapes_and_dtypes(gone.placeholder, whole.meta_test(key))
    train = gone.meta_train()
    for sample in (gone.meta_valid, gone.meta_test, *(() if host_fed else (train,))):
        with pytest.raises(FileNotFoundError, match="mine is not a folder"):
            sample(key)
    if host_fed:
        stream = iter(train.open(range(1)))
        assert stream.get_state() == iter(whole.meta_train().open(range(1))).get_state()
        with pytest.raises(FileNotFoundError, match="mine is not a folder"):
            next(stream)
    with pytest.raises(FileNotFoundError, match="mine is not a folder"):
        own_images(folder, **NUMBERS)  # of a size that only the images know
