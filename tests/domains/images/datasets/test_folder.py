"""One's own images: what is read, how it is split, and what is said when something is wrong or odd."""

import os
import shutil
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from jmeta.decoding import UnreadableError
from jmeta.domains.images.datasets import folder, layout, split_hash
from jmeta.domains.images.datasets.layout import ClassFolder
from jmeta.tasks import few_shot


def write(root, name, count=3, shape=(6, 5, 3), suffix="png"):
    (root / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(os.fsencode(f"{name} {count}")))
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / name / f"{i}.{suffix}")
    return images


@pytest.fixture
def root(tmp_path):
    for name in ("ant", "bee", "cat", "dog", "elk"):
        write(tmp_path, name)
    return tmp_path


def test_images_are_read_exactly_and_split_by_class(root):
    written = write(root, "fox", count=4)
    splits = folder.load(root)
    names = [set(part.class_names) for part in splits]
    assert [len(part) for part in names] == [4, 1, 1]
    assert set.union(*names) == {"ant", "bee", "cat", "dog", "elk", "fox"}
    for part in splits:
        if "fox" in part.class_names:
            row = part.class_names.index("fox")
            np.testing.assert_array_equal(part.images[row], written)
            if len(part.class_names) > 1:
                assert part.class_sizes.tolist() == [4 if name == "fox" else 3 for name in part.class_names]


def test_the_seed_decides_the_split(root):
    names = [tuple(part.class_names for part in folder.load(root, seed=seed)) for seed in (0, 0, 1, 2, 3)]
    assert names[0] == names[1]
    assert len(set(names)) > 1


def test_given_splits_are_kept(tmp_path):
    for split, name in zip(folder.SPLITS, ("ant", "bee", "cat"), strict=True):
        write(tmp_path, f"{split}/{name}")
    assert [part.class_names for part in folder.load(tmp_path)] == [("ant",), ("bee",), ("cat",)]
    write(tmp_path, "meta_test/ant")
    with pytest.raises(ValueError, match=r"the classes \['ant'\] are in more than one split"):
        folder.load(tmp_path)


def test_some_of_the_splits_are_not_taken_for_classes(tmp_path):
    for split, name in zip(folder.SPLITS[::2], ("ant", "cat"), strict=True):
        write(tmp_path, f"{split}/{name}")
    with pytest.raises(ValueError, match=r"has some of the folders .*, but not meta_valid; make it"):
        folder.load(tmp_path)


def test_grey_and_resized_images_can_be_sampled(root):
    write(root, "ant", shape=(9, 9, 3))
    with pytest.warns(UserWarning, match="15 of 15 images have another shape than size=.8, 4. and were squashed"):
        splits = folder.load(root, size=(8, 4), num_channels=1, fractions=(0.2, 0.2))
    assert splits.meta_train.images.shape == (3, 3, 8, 4, 1)
    few_shot(splits.meta_train.images, num_ways=3, num_shots=1, num_queries=2)


def test_what_is_wrong_is_said(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder; expected one folder for each class"):
        folder.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="num_channels=4"):
        folder.load(root, num_channels=4)
    with pytest.raises(ValueError, match=r"has 3 images, but min_images=4; add images"):
        folder.load(root, min_images=4)
    for fractions in ((-0.1, 0.2), (float("nan"), 0.2), (0.2, 1.0)):
        with pytest.raises(ValueError, match="fractions=.*expected the shares of meta_valid and meta_test"):
            folder.load(root, fractions=fractions)
    with pytest.raises(ValueError, match="min_images=0; expected at least 1"):
        folder.load(root, min_images=0)
    with pytest.raises(ValueError, match="5 classes cannot be split by fractions=\\(0.6, 0.6\\)"):
        folder.load(root, fractions=(0.6, 0.6))
    write(root, "bee", shape=(7, 5, 3))
    with pytest.raises(ValueError, match=r"images differ in size: .* is 6 x 5 .* pass size="):
        folder.load(root)


def test_empty_and_unreadable_files_are_named(root):
    (root / "cat" / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cat/3.png is empty"):
        folder.load(root)
    (root / "cat" / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cat/3.png cannot be read as an image"):
        folder.load(root)
    cut = (root / "cat" / "0.png").read_bytes()[:60]
    (root / "cat" / "3.png").write_bytes(cut)
    with pytest.raises(ValueError, match=r"cat/3.png cannot be read as an image"):
        folder.load(root)


def test_a_folder_without_class_folders_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no folders"):
        folder.load(tmp_path)


@pytest.mark.parametrize(
    "words", [("train", "val", "test"), ("Train", "valid", "TEST"), ("meta-train", "dev", "testing")]
)
def test_the_usual_names_of_splits_are_recognised(tmp_path, words):
    for split, name in zip(words, ("ant", "bee", "cat"), strict=True):
        write(tmp_path, f"{split}/{name}")
    assert [part.class_names for part in folder.load(tmp_path)] == [("ant",), ("bee",), ("cat",)]


def test_splits_that_hold_images_and_no_classes_are_refused(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path, split)
    with pytest.raises(ValueError, match="holds images and no folders of classes; expected .*train/CLASS"):
        folder.load(tmp_path)


def test_the_same_classes_in_every_split_are_refused_with_what_to_do(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path, f"{split}/ant")
    with pytest.raises(ValueError, match=r"\['ant'\] are in more than one split.*To have classes split at random"):
        folder.load(tmp_path)


def test_two_of_the_usual_splits_are_not_taken_for_classes(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, f"{split}/{split}er")
    with pytest.raises(ValueError, match="but not meta_valid; make it"):
        folder.load(tmp_path)


def test_a_class_may_be_called_train(root):
    write(root, "train")
    assert "train" in {name for part in folder.load(root) for name in part.class_names}


def test_images_one_folder_deeper_are_found(root):
    images = write(root, "fox/images")
    splits = folder.load(root)
    part = next(part for part in splits if "fox" in part.class_names)
    np.testing.assert_array_equal(part.images[part.class_names.index("fox")], images)
    write(root, "fox/masks")
    with pytest.raises(ValueError, match=r"fox has 2 folders of images .*which level names the classes"):
        folder.load(root)


def test_what_is_left_out_is_counted(root):
    whole = folder.load(root)
    write(root, "__MACOSX/ant")
    for name in ("._0.png", ".hidden.png", "photo.heic", "photo.HEIC", "notes.txt", ".DS_Store"):
        shutil.copy(root / "ant" / "0.png", root / "ant" / name)
    shutil.copy(root / "ant" / "0.png", root / "overview.png")
    said = "2 hidden files and folders, 2 files .heic, 1 files .txt"
    with pytest.warns(UserWarning, match="left out were") as caught:
        splits = folder.load(root)
    (message,) = [str(warning.message) for warning in caught]
    for part in (*said.split(", "), "1 folders __MACOSX", "1 images outside of class folders"):
        assert part in message
    for one, other in zip(splits, whole, strict=True):
        np.testing.assert_array_equal(one.examples, other.examples)
        assert one.class_names == other.class_names


def test_a_small_class_is_left_out_and_named(root):
    write(root, "fox", count=1)
    (root / "gnu").mkdir()
    with pytest.warns(UserWarning, match=r"2 classes of fewer than 2 images \(.*fox, .*gnu\)"):
        splits = folder.load(root)
    assert {name for part in splits for name in part.class_names} == {"ant", "bee", "cat", "dog", "elk"}


def test_the_same_picture_in_two_classes_or_splits_is_named(tmp_path):
    for split, names in zip(folder.SPLITS, ("ab", "c", "d"), strict=True):
        for name in names:
            write(tmp_path, f"{split}/{name * 3}")
    folder.load(tmp_path)
    shutil.copy(tmp_path / "meta_train/aaa/0.png", tmp_path / "meta_train/bbb/copy.png")
    with pytest.warns(UserWarning, match=r"1 pictures are in several classes: .*aaa/0.png = .*bbb/copy.png"):
        folder.load(tmp_path)
    (tmp_path / "meta_train/bbb/copy.png").unlink()
    Image.open(tmp_path / "meta_train/aaa/0.png").save(tmp_path / "meta_test/ddd/copy.bmp")
    with pytest.warns(UserWarning, match="1 pictures are in several splits: .*aaa/0.png = .*ddd/copy.bmp"):
        folder.load(tmp_path)


def test_images_without_a_difference_are_named(root):
    pixels = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5))
    for i in range(3):
        pixels.save(root / "cat" / f"{i}.png")
    with pytest.warns(UserWarning, match="in 1 classes all images are equal: .*cat"):
        folder.load(root)
    for path in root.glob("*/*.png"):
        Image.fromarray(np.full((6, 5, 2), [255, 0], np.uint8)).save(path)
    with pytest.warns(UserWarning, match="every value is 255; are they white on transparent. Then pass background=0"):
        folder.load(root)


def test_dark_images_of_sixteen_bits_are_named(root):
    for path in root.glob("*/*.png"):
        rng = np.random.default_rng(list(str(path).encode()))
        Image.fromarray(rng.integers(0, 1024, (6, 5)).astype(np.uint16)).save(path)
    with pytest.warns(UserWarning, match=r"of more than 8 bits go to 10\d\d of 65535, which leaves 4 of 256 levels"):
        folder.load(root, num_channels=1)


def test_names_of_any_bytes_are_read(root):
    odd = os.fsdecode(b"caf\xe9")
    write(root, odd)
    os.rename(root / odd / "0.png", root / odd / os.fsdecode(b"\xff.png"))
    splits = folder.load(root)
    assert odd in {name for part in splits for name in part.class_names}
    assert len(split_hash(splits)) == 64
    (root / odd / "1.png").write_bytes(b"")
    with pytest.raises(UnreadableError, match=r"caf\\xe9/1\.png is empty") as caught:
        folder.load(root)
    str(caught.value).encode()


def test_links_are_followed_or_named(root):
    (root / "fox").symlink_to(root / "nowhere")
    with pytest.warns(UserWarning, match="1 files without a suffix"):
        folder.load(root)
    (root / "fox").unlink()
    write(root, "elsewhere/fox")
    (root / "elsewhere/fox").rename(root.parent / f"{root.name}_fox")
    (root / "elsewhere").rmdir()
    (root / "fox").symlink_to(root.parent / f"{root.name}_fox")
    assert "fox" in {name for part in folder.load(root) for name in part.class_names}
    (root / "cat" / "3.png").symlink_to("gone.png")
    with pytest.raises(ValueError, match=r"cat/3\.png is a link to gone\.png, which does not exist"):
        folder.load(root)


def test_memory_is_that_of_the_examples(root):
    write(root, "fox", count=400, shape=(32, 32, 3))
    for name in ("ant", "bee", "cat", "dog", "elk"):
        shutil.rmtree(root / name)
    for i in range(20):
        write(root, f"class{i}", shape=(32, 32, 3))
    tracemalloc.start()
    splits = folder.load(root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    num_bytes = (400 + 20 * 3) * 32 * 32 * 3
    assert sum(part.examples.nbytes for part in splits) == num_bytes
    assert peak < 2 * num_bytes  # padded it would be seven times as much
    part = next(part for part in splits if "fox" in part.class_names)
    sample = few_shot(part.images, num_ways=1, num_shots=1, num_queries=1, class_sizes=part.class_sizes)
    assert sum(leaf.nbytes for leaf in sample.args) < 1.1 * part.examples.nbytes


def test_many_classes_take_no_longer_each(tmp_path):
    def seconds(count):
        parts = [[ClassFolder(tmp_path / f"{i}", []) for i in range(count)]]
        start = time.process_time()
        layout._check_disjoint(parts)
        return time.process_time() - start

    assert seconds(20_000) < 1  # took ten seconds while each name was counted by itself
