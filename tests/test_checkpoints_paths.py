"""Checkpoints live in folders of any name, or are refused before anything is written; and a save is read back."""

import json
import os
import pathlib
import pwd
import subprocess
import unicodedata

import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from jmeta import checkpoints
from jmeta.checkpoints import arrays, files

ODD = [
    "lr=[0.1]",
    "a[1]",
    "[!a]",
    "[",
    "**",
    "a**b",
    "*",
    "?",
    "a b",
    " ",
    "a\nb",
    "-rf",
    "~",
    "~root",
    "it's",
    'say "so"',
    "%41",
    "#1",
    "{a}",
    "{a,b}",
    "$HOME",
    "a:b",
    "s3:",
    "a;b|c&d",
    "\x01\r\t",
    "..a",
    "tmp-x",
    "manifest.json",
    "step_00000001",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "\u202e",
    "x" * 250,
]
REFUSED = {
    "no UTF-8": os.fsdecode(b"\xff"),
    "a backslash": "a\\b",
    "'gs:'": "gs:",
    "also 'gs:'": "dogs:",
}
ADDRESSES = ["gs://bucket/run", "s3://bucket/run", "https://host/run", "file:///run", "GS://bucket"]


def state_of(step):
    return {"theta": jnp.arange(6.0) * step, "host": np.full((2, 3), step), "empty": jnp.zeros((0, 2)), "count": step}


def assert_is_of(step, restored):
    assert restored[0] == step
    for name, leaf in state_of(step).items():
        np.testing.assert_array_equal(restored[1][name], leaf)


def go_through(folder):
    """Save, keep the last and the best, replace, resume; whatever is passed over is an error, as all warnings are."""
    for step, score in [(1, 0.9), (2, 0.1)]:
        saved = checkpoints.save(folder, step, state_of(step), score=score, keep_last=1)
        assert saved.is_dir()
    assert checkpoints.steps(folder) == [1, 2]
    assert_is_of(2, checkpoints.restore(folder, state_of(0)))
    assert_is_of(1, checkpoints.restore(folder, state_of(0), best=True))
    assert_is_of(1, checkpoints.restore(folder, state_of(0), up_to=1))
    with checkpoints.AsyncSaver(folder, keep_last=1) as saver:
        for step in (2, 3):
            saver.save(step, state_of(step), score=0.5)
    assert checkpoints.steps(folder) == [1, 3]
    assert sorted(os.listdir(saved.parent)) == ["step_00000001", "step_00000003"]
    assert_is_of(3, checkpoints.restore(folder, state_of(0)))


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_folder_of_any_name_below_one_of_any_name_holds_checkpoints(tmp_path, name):
    go_through(tmp_path / name / name[:100])
    assert os.listdir(tmp_path) == [name]
    assert os.listdir(tmp_path / name) == [name[:100]]


@pytest.mark.parametrize("name", [name for name in ODD if not name.startswith("~")], ids=ascii)
def test_and_where_the_name_is_relative(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    checkpoints.save(name, 1, state_of(1))
    assert_is_of(1, checkpoints.restore(name, state_of(0)))
    assert os.listdir(tmp_path) == [name]


def test_folders_whose_names_match_each_other_as_patterns_do_not_mix(tmp_path):
    names = ["a[12]", "a1", "a2", "a?", "a*", "*", "[a]*"]
    for step, name in enumerate(names):
        checkpoints.save(tmp_path / name, step, state_of(step))
    for step, name in enumerate(names):
        assert checkpoints.steps(tmp_path / name) == [step]
        assert_is_of(step, checkpoints.restore(tmp_path / name, state_of(0)))


def test_dots_lead_up_from_where_a_link_leads(tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    go_through(f"{tmp_path}/link/../checkpoints")
    assert checkpoints.steps(tmp_path / "far" / "checkpoints") == [1, 3]
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]


def test_the_folder_may_be_a_link(tmp_path):
    (tmp_path / "[real]").mkdir()
    (tmp_path / "link[1]").symlink_to("[real]")
    go_through(tmp_path / "link[1]")


@pytest.mark.parametrize("is_parent", [False, True])
@pytest.mark.parametrize(("what", "name"), REFUSED.items(), ids=REFUSED)
def test_what_the_store_cannot_do_is_refused_before_anything_is_written(tmp_path, what, name, is_parent):
    folder = tmp_path / name / "checkpoints" if is_parent else tmp_path / name
    for use in (
        lambda: checkpoints.save(folder, 1, state_of(1)),
        lambda: checkpoints.AsyncSaver(folder),
        lambda: checkpoints.restore(folder, state_of(0)),
        lambda: checkpoints.steps(folder),
    ):
        with pytest.raises(ValueError, match=f"cannot hold checkpoints.*{what.removeprefix('also ')}") as raised:
            use()
        assert str(raised.value).isprintable()  # one line, and nothing that a terminal would choke on
    assert os.listdir(tmp_path) == []


def test_a_zero_byte_is_refused(tmp_path):
    with pytest.raises(ValueError, match="zero byte"):
        checkpoints.save(f"{tmp_path}/a\0b", 1, state_of(1))


@pytest.mark.parametrize("kind", [str, pathlib.Path])
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_refused_in_one_sentence(tmp_path, monkeypatch, kind, address):
    """Also as a `Path`, which has lost one of the slashes; to restore nothing from it would be to start anew."""
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: checkpoints.save(kind(address), 1, state_of(1)),
        lambda: checkpoints.AsyncSaver(kind(address)),
        lambda: checkpoints.restore(kind(address), state_of(0)),
        lambda: checkpoints.steps(kind(address)),
    ):
        with pytest.raises(ValueError, match="is an address, not a folder"):
            use()
    assert os.listdir(tmp_path) == []


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    home, here = tmp_path / "home [1]", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    go_through("~/runs/a")
    go_through(pathlib.Path("~", "runs", "b"))
    assert sorted(os.listdir(home / "runs")) == ["a", "b"]
    assert os.listdir(here) == []
    go_through("./~/a")  # as in a shell
    go_through("~no-such-user")
    assert sorted(os.listdir(here)) == ["~", "~no-such-user"]


def test_a_tilde_of_nobody_is_refused(tmp_path, monkeypatch):
    def unknown(user):
        raise KeyError(user)

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ValueError, match="there is no home folder"):
        checkpoints.save("~/x", 1, state_of(1))
    assert os.listdir(tmp_path) == []


def test_a_working_folder_that_cannot_hold_checkpoints_is_refused(tmp_path, monkeypatch):
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(ValueError, match="no UTF-8"):
        checkpoints.save("run", 1, state_of(1))
    assert os.listdir(odd) == []


def not_merged(path):
    """What was once done, without a word, where the folder's name had brackets in it."""


def without_a_chunk(path, merge=arrays.merge_arrays):
    """The index names the array, and has none of its numbers; TensorStore would read zeros."""
    merge(path)
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}
    store = tensorstore.KvStore.open(spec).result()
    assert b"['theta']/0" in store.list().result()
    store.write("['theta']/0", None).result()


def without_an_array(path, merge=arrays.merge_arrays):
    merge(path)
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}
    tensorstore.KvStore.open(spec).result().delete_range(
        tensorstore.KvStore.KeyRange("['theta']", "['theta']0")
    ).result()


def without_its_numbers(path, merge=arrays.merge_arrays):
    """The files to which the index leads are gone before the manifest is written, so that it does not name them."""
    merge(path)
    for file in (path / "ocdbt.process_0" / "d").iterdir():
        file.unlink()


def changed_later(path, content, write=files.write_manifest):
    write(path, content)
    file = max(files.list_files(path / "state"), key=lambda file: file.stat().st_size)
    with file.open("r+b") as opened:
        opened.write(b"?")


def written_later(path, content, write=files.write_manifest):
    write(path, content)
    (path / "state" / "late").write_bytes(b"1")


def torn_manifest(path, content, write=files.write_manifest):
    write(path, content)
    os.truncate(path / files.MANIFEST, 100)


FAULTS = [
    (arrays, "merge_arrays", not_merged),
    (arrays, "merge_arrays", without_a_chunk),
    (arrays, "merge_arrays", without_an_array),
    (arrays, "merge_arrays", without_its_numbers),
    (files, "write_manifest", changed_later),
    (files, "write_manifest", written_later),
    (files, "write_manifest", torn_manifest),
]


@pytest.mark.parametrize(("module", "stage", "fault"), FAULTS, ids=[fault.__name__ for *_, fault in FAULTS])
@pytest.mark.parametrize("step", [1, 2])
def test_a_save_that_does_not_read_back_raises_and_leaves_the_one_before(
    tmp_path, monkeypatch, module, stage, fault, step
):
    """Also if it would have taken the place of the one before, or let it be deleted."""
    big = {"theta": jnp.arange(5000.0), "other": 1}
    checkpoints.save(tmp_path, 1, big, keep_last=1)
    before = {path: path.read_bytes() for path in files.list_files(tmp_path)}
    monkeypatch.setattr(module, stage, fault)
    with pytest.raises(checkpoints.DamagedCheckpointError, match="does not read back"):
        checkpoints.save(tmp_path, step, big, keep_last=1)
    saver = checkpoints.AsyncSaver(tmp_path, keep_last=1)
    saver.save(step, big)
    with pytest.raises(checkpoints.DamagedCheckpointError, match="does not read back"):
        saver.wait()
    assert {path: path.read_bytes() for path in files.list_files(tmp_path)} == before
    monkeypatch.undo()
    assert checkpoints.restore(tmp_path, big)[0] == 1
    checkpoints.save(tmp_path, 2, big, keep_last=1)
    assert checkpoints.steps(tmp_path) == [2]


def test_an_array_without_its_numbers_is_damaged_and_not_zeros(tmp_path, monkeypatch):
    """Though all files agree with their manifest, as those from elsewhere may."""
    like = {"theta": jnp.arange(5000.0)}
    saved = checkpoints.save(tmp_path, 1, like)
    without_a_chunk(saved / "state", merge=lambda path: None)
    content = json.loads((saved / files.MANIFEST).read_text())
    (saved / files.MANIFEST).unlink()
    files.write_manifest(saved, {name: content[name] for name in ("step", "score", "leaves")})
    with pytest.warns(RuntimeWarning, match="cannot be read"), pytest.raises(checkpoints.DamagedCheckpointError):
        checkpoints.restore(tmp_path, like)


def test_nothing_globs_the_path_of_a_folder():
    """The standard `glob` reads a whole path as a pattern, `Path.glob` its argument alone, which must be a constant."""
    root = pathlib.Path(__file__).parents[1]
    words = r"(^|[^.\w])(import glob|from glob|glob\.i?glob|fnmatch)|\.r?glob\((f[\"']|[^\"'_])"
    found = subprocess.run(
        ["grep", "-rnE", "--include=*.py", words, root / "jmeta", root / "experiments"], capture_output=True, text=True
    )
    assert found.stdout == ""
    assert found.returncode == 1  # grep ran, and found nothing
