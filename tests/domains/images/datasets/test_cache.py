"""The cache of arrays: read once made, mended when damaged, done without when it cannot be written."""

import numpy as np
import pytest

from jmeta.domains.images.datasets.cache import cached_arrays


@pytest.fixture
def make():
    """Arrays that count how often they were made."""

    def make():
        make.count += 1
        return {"x": np.arange(5), "names": np.array(["a", "Ж"])}

    make.count = 0
    return make


def test_made_once_and_then_read(tmp_path, make):
    for _ in range(3):
        arrays = cached_arrays("file", make, tmp_path / "new" / "folder")
        np.testing.assert_array_equal(arrays["x"], np.arange(5))
        assert arrays["names"].tolist() == ["a", "Ж"]
    assert make.count == 1
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["file"]


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-1], lambda content: b"", lambda content: content[:-9] + b"?" + content[-8:]],
    ids=["cut", "empty", "changed"],
)
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, make, damage):
    cached_arrays("file", make, tmp_path)
    path = tmp_path / "file"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="cannot be used and is made again: its checksum"):
        arrays = cached_arrays("file", make, tmp_path)
    assert arrays["x"].tolist() == [0, 1, 2, 3, 4]
    cached_arrays("file", make, tmp_path)
    assert make.count == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, make):
    (tmp_path / "occupied").write_text("a file, not a folder")
    with pytest.warns(UserWarning, match="JMETA_CACHE"):
        arrays = cached_arrays("file", make, tmp_path / "occupied")
    assert arrays["x"].tolist() == [0, 1, 2, 3, 4]


def test_the_environment_names_the_folder(tmp_path, make, monkeypatch):
    monkeypatch.setenv("JMETA_CACHE", str(tmp_path))
    cached_arrays("file", make)
    assert (tmp_path / "file").is_file()
