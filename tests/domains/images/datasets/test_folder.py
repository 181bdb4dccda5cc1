"""One's own images: what is read, how it is split, and what is said when something is wrong."""

import numpy as np
import pytest
from PIL import Image

from jmeta.domains.images.datasets import folder
from jmeta.tasks import few_shot


def write(root, name, count=3, shape=(6, 5, 3), suffix="png"):
    (root / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(hash((len(name), count))))
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
