"""Omniglot from its file and from TFDS; the splits against the lists and the originals, where the data are there."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from jmeta.domains.images.datasets import omniglot, split_hash
from jmeta.domains.images.protocols import finn2017, lake, reptile2018, vinyals

ALPHABETS = ("Greek", "Angelic")  # one of the background set, one of the evaluation set


@pytest.fixture(scope="module")
def drawings():
    """Two alphabets of three characters by four drawers: 105 x 105, 1 = ink."""
    rng = np.random.default_rng(0)
    coarse = rng.random((2, 3, 4, 15, 15)) < 0.3
    return coarse.repeat(7, axis=-1).repeat(7, axis=-2).astype(np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, drawings):
    """A genuine folder of TFDS with the features of its Omniglot, written without TensorFlow."""
    epath = pytest.importorskip("etils.epath")
    tfds = pytest.importorskip("tensorflow_datasets")

    def png(drawing):
        buffer = io.BytesIO()
        Image.fromarray(255 * (1 - drawing)[..., None].repeat(3, -1)).save(buffer, "PNG")
        buffer.seek(0)
        return buffer

    class Omniglot(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.0")
        __module__ = (
            "nowhere"  # for a module in a package TFDS imports `importlib_resources`, which it does not require
        )
        pkg_dir_path = epath.Path(__file__).parent

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(105, 105, 3), encoding_format="png"),
                "alphabet": tfds.features.ClassLabel(names=sorted(ALPHABETS)),
                "alphabet_char_id": np.int64,
                "label": tfds.features.ClassLabel(num_classes=6),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples(0), "test": self._generate_examples(1)}

        def _generate_examples(self, alphabet):
            for character, drawer in np.ndindex(3, 4):
                yield (
                    f"{alphabet}_{character}_{drawer}",
                    {
                        "image": png(drawings[alphabet, character, drawer]),
                        "alphabet": ALPHABETS[alphabet],
                        "alphabet_char_id": character,
                        "label": 3 * alphabet + character,
                    },
                )

    root = tmp_path_factory.mktemp("tfds")
    Omniglot(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def test_tfds_gives_the_normal_form(prepared, drawings):
    classes = omniglot.load(prepared)
    assert classes.images.shape == (6, 4, 28, 28, 1)
    assert classes.class_names == tuple(f"{a}/character0{c}" for a in sorted(ALPHABETS) for c in (1, 2, 3))
    assert [classes.group_names[group] for group in classes.groups] == ["Angelic"] * 3 + ["Greek"] * 3
    for row, (alphabet, character) in zip(
        classes.images, [(1, 0), (1, 1), (1, 2), (0, 0), (0, 1), (0, 2)], strict=True
    ):
        expected = {omniglot.resize(255 * drawing).tobytes() for drawing in drawings[alphabet, character]}
        assert {image.tobytes() for image in row} == expected
        inked = drawings[alphabet, character].mean()
        assert abs(row.mean() / 255 - inked) < 0.02  # ink is high, and keeps its area
    splits = omniglot.split_lake(classes)
    assert [part.class_names[:1] for part in splits] == [("Greek/character01",), (), ("Angelic/character01",)]


def test_the_file_gives_the_same_as_tfds(prepared, drawings, tmp_path):
    images = np.array(
        [[[omniglot.resize(255 * d) for d in of_class] for of_class in of_alphabet] for of_alphabet in drawings]
    )
    np.savez(
        tmp_path / omniglot.FILE_NAME,
        images=images.reshape(6, 4, 28, 28),
        alphabets=np.array(ALPHABETS),
        alphabet_id=np.repeat([0, 1], 3),
        character_in_alphabet=np.tile([1, 2, 3], 2),
    )
    from_file, from_tfds = omniglot.load(tmp_path), omniglot.load(prepared, source="tfds")
    assert from_file.class_names == from_tfds.class_names
    np.testing.assert_array_equal(from_file.groups, from_tfds.groups)
    for one, other in zip(from_file.images, from_tfds.images, strict=True):
        assert sorted(image.tobytes() for image in one) == sorted(image.tobytes() for image in other)


def test_nothing_found_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.delenv("JMETA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="JMETA_DATA is not set, nor prepared by TFDS. Set JMETA_DATA"):
        omniglot.load()
    with pytest.raises(FileNotFoundError, match="tfds build omniglot"):
        omniglot.load(tmp_path, source="file")
    with pytest.raises(ValueError, match="source='web'"):
        omniglot.load(source="web")
    np.savez(tmp_path / omniglot.FILE_NAME, images=np.zeros(1))
    with pytest.raises(ValueError, match="lacks the arrays"):
        omniglot.load(tmp_path)


NORMAL = {
    "images": np.arange(3 * 4 * 28 * 28).reshape(3, 4, 28, 28).astype(np.uint8),
    "alphabets": np.array(["Angelic", "Greek"]),
    "alphabet_id": np.array([0, 1, 1]),
    "character_in_alphabet": np.array([1, 1, 2]),
}


def of_file(folder, **arrays):
    np.savez(folder / omniglot.FILE_NAME, **{**NORMAL, **arrays})
    return omniglot.load(folder, source="file")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("images", NORMAL["images"].astype(np.float64)),
        ("images", NORMAL["images"].astype(np.float32) / 255),
        ("images", np.full((3, 4, 28, 28), np.nan)),
        ("images", np.zeros((3, 4, 105, 105), np.uint8)),
        ("images", NORMAL["images"][:, 0]),
        ("images", NORMAL["images"][..., None]),
        ("images", NORMAL["images"][:0]),
        ("images", NORMAL["images"][:, :0]),
        ("images", np.array(3)),
        ("images", NORMAL["images"] % 2),
        ("images", NORMAL["images"].repeat(2, 0)),
        ("images", NORMAL["images"] > 100),
        ("alphabet_id", np.array([0, 1])),
        ("alphabet_id", np.array([0, -1, 1])),
        ("alphabet_id", np.array([0, 1, 2])),
        ("alphabet_id", np.array([0.0, 1, 1])),
        ("character_in_alphabet", np.array([1, 1, -2])),
        ("character_in_alphabet", np.array(["1", "1", "2"])),
        ("alphabets", np.array([1, 2])),
        ("alphabets", np.array("Greek")),
    ],
)
def test_arrays_that_are_no_omniglot_are_refused_by_name(tmp_path, name, array):
    assert of_file(tmp_path).images.shape == (3, 4, 28, 28, 1)
    about = name if len(array.shape) == 0 or name != "images" or len(array) <= 3 else "alphabet_id"
    with pytest.raises(ValueError, match=rf"{omniglot.FILE_NAME}: `{about}` is .*; expected .*; restore the file"):
        of_file(tmp_path, **{name: array})


def test_two_classes_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has several classes named Greek/character01; restore"):
        of_file(tmp_path, character_in_alphabet=np.array([1, 1, 1]))


def test_a_damaged_file_is_one_line_with_its_path(tmp_path):
    path = tmp_path / omniglot.FILE_NAME
    np.savez_compressed(path, **NORMAL)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for damaged in (b"", b"<!DOCTYPE html><title>404</title>", whole[:-30], whole[: len(whole) // 2], b"PK\3\4"):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=rf"^[^\n]*{omniglot.FILE_NAME} (is not|cannot be read as) a NumPy archive"
        ) as caught:
            omniglot.load(tmp_path, source="file")
        assert "unsafe" not in str(caught.value)
    np.savez(path, **{**NORMAL, "alphabets": np.array([{}, 1], object)}, allow_pickle=True)
    with pytest.raises(ValueError, match=f"{omniglot.FILE_NAME} cannot be read as a NumPy archive"):
        omniglot.load(tmp_path, source="file")
    for at in rng.integers(len(whole), size=60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.integers(8))]) + whole[at + 1 :])
        try:
            classes = omniglot.load(tmp_path, source="file")
        except ValueError as error:
            classes, said = None, str(error)
        if classes is None:
            assert omniglot.FILE_NAME in said
            assert "\n" not in said
        else:  # a bit that means nothing, such as of a date
            np.testing.assert_array_equal(classes.images[..., 0], NORMAL["images"])


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_features_that_name_a_module_are_not_imported(prepared, tmp_path, monkeypatch, key):
    shutil.copytree(prepared, tmp_path / "data")
    (tmp_path / "not_of_tfds.py").write_text("raise SystemExit('it was executed')")
    monkeypatch.syspath_prepend(tmp_path)
    (path,) = (tmp_path / "data").glob("omniglot/*/features.json")
    described = json.loads(path.read_text())
    described["featuresDict"]["features"]["image"][key] = "not_of_tfds.Image"
    path.write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"features\.json names not_of_tfds\.Image, which is not one of TFDS's own"):
        omniglot.load(tmp_path / "data")
    assert "not_of_tfds" not in sys.modules


def test_damaged_folders_of_tfds_are_one_line(prepared, tmp_path):
    """But for the names of labels, of which any would do."""
    (folder,) = prepared.glob("omniglot/*")
    whole = omniglot.load(prepared)
    names = sorted(path.name for path in folder.iterdir() if "labels" not in path.name)
    assert len(names) >= 4
    for i, name in enumerate(names):
        for content in (b"", b"{", (folder / name).read_bytes()[:40] + b"\xff" * 50):
            copied = tmp_path / f"{i}" / "omniglot" / folder.name
            shutil.copytree(folder, copied, dirs_exist_ok=True)
            (copied / name).write_bytes(content)
            try:
                classes, said = omniglot.load(tmp_path / f"{i}"), ""
            except ValueError as error:
                classes, said = None, str(error)
            if classes is None:
                assert "omniglot" in said, (name, content)
                assert "\n" not in said
            else:
                assert sorted(map(bytes, classes.examples)) == sorted(map(bytes, whole.examples)), (name, content)


@pytest.fixture
def real(data_dir):
    return omniglot.load(data_dir, source="file")


@pytest.mark.parametrize(
    ("split", "counts", "protocols"),
    [
        (omniglot.split_vinyals, [1028, 172, 423], [vinyals]),
        (omniglot.split_lake, [792, 172, 659], [lake]),
        (omniglot.split_random, [1100, 100, 423], [finn2017, reptile2018]),
    ],
)
def test_splits_are_disjoint_and_pinned(real, split, counts, protocols):
    splits = split(real)
    names = [name for part in splits for name in part.class_names]
    assert len(set(names)) == len(names) == 1623
    assert [len(part.images) for part in splits] == counts
    assert all(protocol.split_hash == split_hash(splits) for protocol in protocols)


def test_the_vinyals_split_is_that_of_the_distributed_lists(real, data_dir):
    for part, name in zip(omniglot.split_vinyals(real), ("train", "val", "test"), strict=True):
        lines = (data_dir / "omniglot" / f"vinyals_{name}.txt").read_text().split()
        assert {line.rsplit("/", 1)[0] for line in lines} == set(part.class_names)


def test_lakes_evaluation_set_is_that_of_the_file(real, data_dir):
    with np.load(data_dir / "omniglot" / omniglot.FILE_NAME) as data:
        alphabets = data["alphabets"][data["alphabet_id"]]
        assert set(alphabets[~data["is_background"]]) == set(omniglot.EVALUATION_ALPHABETS)
    valid = omniglot.split_lake(real).meta_valid
    assert {valid.group_names[group] for group in valid.groups} == set(omniglot.VINYALS_VALID)


def test_the_random_split_does_not_depend_on_the_order_of_the_classes(real):
    shuffled = real.select(np.random.default_rng(1).permutation(1623))
    assert split_hash(omniglot.split_random(shuffled)) == split_hash(omniglot.split_random(real))
    assert split_hash(omniglot.split_random(real, seed=1)) != split_hash(omniglot.split_random(real))


def test_resizing_the_originals_reproduces_the_file_bit_for_bit(data_dir):
    with np.load(data_dir / "omniglot" / "omniglot_105_1bit.npz") as data:
        packed = data["images"][:1623:160]
    originals = np.unpackbits(packed, axis=-1)[..., : 105 * 105].reshape(*packed.shape[:2], 105, 105)
    with np.load(data_dir / "omniglot" / omniglot.FILE_NAME) as data:
        expected = data["images"][:1623:160]
    resized = np.array([[omniglot.resize(255 * drawing) for drawing in of_class] for of_class in originals])
    np.testing.assert_array_equal(resized, expected)
