"""The one table of what may lie where a file is read, and what each reader says to it: one line, and no harm."""

import hashlib
import json
import os
import pathlib
import pickle
import re
import socket
import subprocess

import pytest

from jmeta.checkpoints import guarded
from jmeta.checkpoints.guarded import RefusedFileError

SECRET = '{"mine": 1}\n'


def link(path, outside):
    outside.write_text(SECRET)
    path.symlink_to(outside)


def dangling_link(path, outside):
    path.symlink_to(outside)


def link_in_a_circle(path, outside):
    path.symlink_to(path.name)


def pipe(path, outside):
    os.mkfifo(path)


def listening(path, outside):
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.open(path.parent, os.O_RDONLY)
        opened.bind(f"/proc/self/fd/{here}/{path.name}")  # whose own name may be too long for a socket
        os.close(here)


def device(path, outside):
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))  # which holds zeros without an end
    except PermissionError:
        pytest.skip("only root makes devices")


def endless(path, outside):
    path.touch()
    os.truncate(path, 1 << 40)


def text(content):
    def write(path, outside):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    write.__name__ = re.sub(r"\W+", "_", str(content)[:20])
    return write


class Touch:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(path, outside):
    path.write_bytes(pickle.dumps(Touch(str(outside))))


SPECIAL = "it is a link or a special file"
NO_FILES = [link, dangling_link, link_in_a_circle, pipe, listening, device]
NO_JSON = {
    endless: "it has 1099511627776 bytes",
    pickled: "codec can't decode",
    text(""): "Expecting value",
    text("[" * 200_000): "nested too deep|recursion",
    text('{"a":' * 200_000): "nested too deep|recursion",
    text("9" * 400): "a whole number has 400 digits",
    text('{"a": -' + "9" * 10_000 + "}"): "a whole number has 10001 digits",
    text("\x00"): "Expecting value",
    text('{"a": "\x1b[2J'): "Invalid control character|Unterminated",
    text(b'{"a": "\xff"}'): "codec can't decode",
    text("[]"): "it holds a list",
    text('"\\ud800"'): "it holds a str",
    text("null"): "it holds a NoneType",
}
HARM = [*((harm, SPECIAL) for harm in NO_FILES), *NO_JSON.items()]


def refused(use, path, message):
    """By one line, with the path, that a terminal can show."""
    with pytest.raises(RefusedFileError, match=message) as raised:
        use()
    said = str(raised.value)
    assert said.startswith(f"{path} is damaged (")
    assert said.isprintable()
    assert len(said) < 700


@pytest.mark.parametrize(("harm", "message"), HARM, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_json_file(tmp_path, harm, message):
    path, outside = tmp_path / "file", tmp_path / "outside"
    harm(path, outside)
    refused(lambda: guarded.read_json(path), path, message)
    assert not outside.is_dir()  # nothing was unpickled


@pytest.mark.parametrize("harm", NO_FILES)
@pytest.mark.parametrize("mode", ["r", "rb", "w", "a", "a+", "r+"])
def test_what_is_no_file_is_opened_for_nothing(tmp_path, harm, mode):
    path, outside = tmp_path / "file", tmp_path / "outside"
    harm(path, outside)
    refused(lambda: guarded.open_file(path, mode), path, SPECIAL)
    refused(lambda: guarded.sha256(path), path, SPECIAL)
    refused(lambda: list(guarded.read_lines(path)), path, SPECIAL)
    assert outside.read_text() == SECRET if harm is link else not outside.exists()


@pytest.mark.parametrize("harm", NO_JSON)
def test_lines_end_at_what_is_none(tmp_path, harm):
    """As at a line that a kill has torn."""
    path = tmp_path / "file"
    harm(path, tmp_path / "outside")
    if harm is endless:
        assert list(guarded.read_lines(path)) == []
        return
    path.write_bytes(b'{"step": 1}\n' + path.read_bytes() + b'\n{"step": 2}\n')
    assert list(guarded.read_lines(path)) == [{"step": 1}]


@pytest.mark.parametrize("harm", NO_FILES)
@pytest.mark.parametrize("depth", ["", "a/b/"])
def test_a_folder_with_what_is_no_file(tmp_path, harm, depth):
    folder = tmp_path / "folder"
    (folder / depth).mkdir(parents=True)
    harm(folder / depth / "file", tmp_path / "outside")
    refused(lambda: guarded.list_files(folder), folder, f"it holds {depth}file, a link or a special file")
    refused(lambda: guarded.verify(folder, {f"{depth}file": "0"}, 100), folder, "a link or a special file")


@pytest.fixture
def whole(tmp_path):
    """`(folder, manifest)` of two files."""
    folder = tmp_path / "folder"
    (folder / "d").mkdir(parents=True)
    (folder / "a").write_bytes(b"one")
    (folder / "d" / "b").write_bytes(b"two")
    return folder, {"a": hashlib.sha256(b"one").hexdigest(), "d/b": hashlib.sha256(b"two").hexdigest()}


def test_a_folder_that_is_whole(whole):
    folder, stated = whole
    guarded.verify(folder, stated, 6)
    assert guarded.list_files(folder) == [folder / "a", folder / "d" / "b"]
    (folder / "manifest").write_text("which has a digest of its own")
    guarded.verify(folder, stated, 6, manifest="manifest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "a").unlink(), "its file a is missing"),
        (lambda folder: (folder / "c").touch(), "its file c is not in its manifest"),
        (lambda folder: (folder / "d" / "b").write_bytes(b"twO"), "its file d/b does not have the SHA-256"),
        (lambda folder: os.truncate(folder / "a", 1 << 42), "its files have 4398046511107 bytes"),
        (lambda folder: (folder / "\x1b[2J").touch(), r"its file \[2J is not in its manifest"),
    ],
)
def test_a_folder_that_is_not(whole, change, message):
    folder, stated = whole
    change(folder)
    refused(lambda: guarded.verify(folder, stated, 6), folder, message)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "d/../../secret", ".", ""])
def test_names_that_lead_out_are_of_no_file(whole, name):
    folder, stated = whole
    (folder.parent / "secret").write_bytes(b"one")
    refused(lambda: guarded.verify(folder, {**stated, name: stated["a"]}, 6), folder, "is missing")


def test_every_file_is_hashed_by_one_of_the_processes(whole):
    folder, stated = whole
    found = []
    for share in (0, 1):
        for changed in stated:
            try:
                guarded.verify(folder, {**stated, changed: "0" * 64}, 6, share=(share, 2))
            except RefusedFileError:
                found.append(changed)
    assert sorted(found) == sorted(stated)


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "file"
    values = [{"step": i, "loss": 10.0**i, "name": "é", "whole": 10**200} for i in range(3)]
    with guarded.open_file(path, "w") as file:
        file.write(json.dumps(values[0]))
    assert guarded.read_json(path) == values[0]
    with guarded.open_file(path, "w") as file:
        file.writelines(json.dumps(value) + "\n" for value in values)
    assert list(guarded.read_lines(path)) == values
    assert list(guarded.read_lines(tmp_path / "none")) == []
    with pytest.raises(FileNotFoundError):
        guarded.read_json(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        guarded.read_json(tmp_path)


def test_files_of_runs_and_checkpoints_are_read_nowhere_else():
    """What opens others: the recipes' sources, which are run, and streams of tasks and arrays, which are no files."""
    root = pathlib.Path(__file__).parents[1]
    words = r"(^|[^_.\w])open\(|\.(read_text|read_bytes)\(|\.open\(|json\.load|np\.load"
    places = [root / "jmeta" / name for name in ("checkpoints", "runs")]
    found = subprocess.run(["grep", "-rnE", "--include=*.py", words, *places], capture_output=True, text=True).stdout
    allowed = r"/guarded\.py:|stream\.open\(|meta_train\.open\(|KvStore\.open\(|tensorstore\.open\(|recipes\.py:.*ast"
    allowed += r"|files\.py:.*O_RDONLY|terminal\.py:.*devnull|subprocess\.Popen|cluster\.py:"
    allowed += r"|options\.py:.*json\.loads\(json\.dumps"
    assert [line for line in found.splitlines() if not re.search(allowed, line)] == []
