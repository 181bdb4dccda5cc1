"""The cache of arrays: read once made, mended when damaged, done without when it cannot be written."""

import hashlib
import os
import pathlib

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


def signed(payload):
    return hashlib.sha256(payload).digest() + payload


@pytest.mark.parametrize("payload", [b"", b"<!DOCTYPE html>", b"PK\3\4 no archive"], ids=["empty", "page", "zip"])
def test_a_file_of_the_right_digest_that_is_no_archive_is_made_again(tmp_path, make, payload):
    (tmp_path / "file").write_bytes(signed(payload))
    with pytest.warns(UserWarning, match="cannot be used and is made again: .*file is not a NumPy archive"):
        assert cached_arrays("file", make, tmp_path)["x"].tolist() == [0, 1, 2, 3, 4]
    cached_arrays("file", make, tmp_path)
    assert make.count == 1


def test_a_pipe_in_place_of_the_file_is_made_again(tmp_path, make):
    os.mkfifo(tmp_path / "file")
    with pytest.warns(UserWarning, match="made again: .*file is a pipe and not a file"):
        assert cached_arrays("file", make, tmp_path)["x"].tolist() == [0, 1, 2, 3, 4]
    assert (tmp_path / "file").is_file()
    cached_arrays("file", make, tmp_path)
    assert make.count == 1


def test_other_arrays_than_are_made_are_made_again(tmp_path, make):
    def check(arrays):
        if "x" not in arrays:
            raise ValueError("it lacks x")

    cached_arrays("file", lambda: {"y": np.arange(2)}, tmp_path)
    with pytest.warns(UserWarning, match="made again: it lacks x"):
        assert cached_arrays("file", make, tmp_path, check=check)["x"].tolist() == [0, 1, 2, 3, 4]


def test_a_user_without_a_home_does_without(make, monkeypatch):
    def nobody(*_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("JMETA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pathlib.Path, "home", nobody)
    with pytest.warns(UserWarning, match="made again each time: Could not determine home directory"):
        assert cached_arrays("file", make)["x"].tolist() == [0, 1, 2, 3, 4]
