"""A checkpoint from someone who means harm, with a manifest that agrees with it, is refused without doing any."""

import hashlib
import json
import os
import pickle
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from jmeta import checkpoints

LIKE = {"theta": jnp.zeros(6), "n": 0}
NAME = "['theta']"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return checkpoints.save(tmp_path_factory.mktemp("honest"), 1, {"theta": jnp.arange(6.0), "n": 3})


@pytest.fixture
def checkpoint(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "run" / honest.name)


def forge(checkpoint, change=lambda manifest: manifest, *, files=True):
    """Write a manifest that is true of the files that are there, then changed, and then signed."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    if files:
        found = [p for p in checkpoint.rglob("*") if p.is_file() and p != path]
        manifest["files"] = {
            str(p.relative_to(checkpoint)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(found)
        }
    manifest = change(manifest)
    if isinstance(manifest, dict):
        manifest.pop("sha256", None)
        manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def assert_refused(checkpoint, message, like=LIKE):
    """As damaged, by `restore` and by `restore` of the best, taking little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for best in (False, True):
        with pytest.warns(RuntimeWarning, match=message), pytest.raises(checkpoints.DamagedCheckpointError):
            checkpoints.restore(checkpoint.parent, like, best=best)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def assert_the_next_save_deletes(checkpoint):
    checkpoints.save(checkpoint.parent, 2, LIKE, keep_last=1)
    assert [p.name for p in checkpoint.parent.iterdir()] == ["step_00000002"]


def test_the_forger_is_good_enough(checkpoint):
    forge(checkpoint)
    step, state = checkpoints.restore(checkpoint.parent, LIKE)
    assert (step, state["theta"].tolist(), state["n"]) == (1, [0, 1, 2, 3, 4, 5], 3)


def with_entry(**entries):
    return lambda manifest: manifest | entries


def without(name):
    return lambda manifest: {key: value for key, value in manifest.items() if key != name}


@pytest.mark.parametrize(
    "change",
    [
        *[lambda manifest, other=other: other for other in ([], 3, None, "text", [[{}]], True)],
        *[with_entry(step=step) for step in ("1", 1.0, True, None, [1], 2, -1, 10**30)],
        *[with_entry(score=score) for score in ("0.5", [1.0], True, float("nan"), float("inf"), {}, 10**400)],
        *[with_entry(leaves=leaves) for leaves in (None, [], [["a", "b"]], {NAME: None}, {NAME: ["float32[6]"]}, 7)],
        *[with_entry(files=files) for files in (None, [], "state", {"state/_METADATA": 1}, {"a": {"b": "c"}})],
        *[without(name) for name in ("step", "score", "leaves", "files")],
    ],
)
def test_a_manifest_of_other_types(checkpoint, change):
    forge(checkpoint, change)
    assert_refused(checkpoint, r"its manifest.json (holds|has|is|does not have|cannot be read)")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "9" * 10_000, "\x00", '"\\ud800"', '{"sha256": "é'])
def test_a_manifest_that_is_hard_to_parse(checkpoint, text):
    (checkpoint / "manifest.json").write_text(text)
    assert_refused(checkpoint, "its manifest.json (cannot be read|holds a)")


def test_a_manifest_without_an_end(checkpoint):
    os.truncate(checkpoint / "manifest.json", 1 << 40)
    assert_refused(checkpoint, "its manifest.json cannot be read .it has 1099511627776 bytes")


@pytest.mark.parametrize("other", [None, 1, 3, "2", [], 2.5])
def test_another_format_is_no_damage_but_is_refused(checkpoint, other):
    forge(checkpoint, without("format") if other is None else with_entry(format=other))
    with pytest.raises(ValueError, match="is of format .* reads format 2; restore it with the version that saved it"):
        checkpoints.restore(checkpoint.parent, LIKE)


@pytest.mark.parametrize("name", ["../../secret", "{outside}/secret", "state/../../../secret", "linked/secret", "."])
def test_names_that_lead_out_of_the_checkpoint(checkpoint, tmp_path, name):
    (tmp_path / "secret").write_text("mine")
    content = hashlib.sha256(b"mine").hexdigest()
    named = name.format(outside=tmp_path)
    forge(checkpoint, lambda manifest: manifest | {"files": manifest["files"] | {named: content}})
    if name.startswith("linked"):
        (checkpoint / "linked").symlink_to(tmp_path)
    assert_refused(checkpoint, "is missing|a link or a special file")
    assert (tmp_path / "secret").read_text() == "mine"


def array_file(checkpoint):
    return max((p for p in checkpoint.glob("state/**/*") if p.is_file()), key=lambda p: p.stat().st_size)


def as_link(path, outside):
    path.rename(outside / "moved")
    path.symlink_to(outside / "moved")


def as_hard_to_read(path, outside):
    path.unlink()
    os.mkfifo(path)


def beside_it(path, outside):
    (path.parent / "more").write_text("not in the manifest")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (as_link, "a link or a special file"),
        (as_hard_to_read, "a link or a special file"),
        (beside_it, "more is not in its manifest"),
        (lambda path, outside: os.truncate(path, 1 << 42), "more than its leaves can take"),
    ],
)
@pytest.mark.parametrize("where", [array_file, lambda checkpoint: checkpoint / "state" / "_METADATA"])
def test_files_that_are_none(checkpoint, tmp_path, harm, message, where):
    harm(where(checkpoint), tmp_path)
    assert_refused(checkpoint, message)
    assert_the_next_save_deletes(checkpoint)


@pytest.mark.parametrize("name", ["", "manifest.json", "state"])
def test_links_in_place_of_a_checkpoint_or_of_its_parts(checkpoint, tmp_path, name):
    part = checkpoint / name if name else checkpoint
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    assert_refused(checkpoint, "or a link leads there|a link or a special file")
    assert_the_next_save_deletes(checkpoint)
    assert (tmp_path / "elsewhere").exists()


def test_a_file_in_place_of_a_checkpoint(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step_00000001").write_text("a file")
    assert_refused(tmp_path / "run" / "step_00000001", "its manifest.json is missing")
    assert_the_next_save_deletes(tmp_path / "run" / "step_00000001")


def store(checkpoint, chunk=bytes(24), **changed):
    """Replace what the files say of the array and hold as its first chunk, through the library that reads them."""
    base = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{checkpoint}/state/"}}
    files = tensorstore.KvStore.open(base).result()
    described = json.loads(files.read(f"{NAME}/.zarray").result().value)
    files.write(f"{NAME}/.zarray", json.dumps(described | changed).encode()).result()
    files.write(f"{NAME}/0", chunk).result()
    del files


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": [7]}, r"hold float32\[7\] as \['theta'\], and not float32\[6\]"),
        ({"shape": [10**12], "chunks": [10**12]}, r"hold float32\[1000000000000\]"),
        ({"shape": [6, 1], "chunks": [6, 1]}, r"hold float32\[6, 1\]"),
        ({"shape": [], "chunks": []}, r"hold float32\[\]"),
        ({"shape": [-6]}, "cannot be read"),
        ({"dtype": "<i4"}, r"hold int32\[6\]"),
        ({"dtype": "|O"}, "cannot be read"),
        ({"dtype": [["a", "<f4"], ["b", "<f4"]]}, "cannot be read|hold"),
        ({"chunks": [10**13]}, r"in chunks of \(10000000000000,\), larger than itself"),  # ends the process if read
        ({"compressor": {"id": "zstd", "level": 1}}, "compressor.*zstd"),
        ({"compressor": {"id": "zlib", "level": 1}}, "compressor.*zlib"),
        ({"filters": [{"id": "pickle"}]}, "cannot be read"),
    ],
)
def test_files_that_hold_another_array_than_the_manifest_says(checkpoint, changed, message):
    store(checkpoint, **changed)
    forge(checkpoint)
    assert_refused(checkpoint, message)


@pytest.mark.parametrize("shape", ["1000000000000", "7", "-6", "6,1", "9" * 5000])
def test_a_manifest_that_describes_another_array_than_is_expected(checkpoint, shape):
    forge(checkpoint, lambda manifest: manifest | {"leaves": manifest["leaves"] | {NAME: f"float32[{shape}]"}})
    with pytest.raises(ValueError, match=rf"has float32\[{shape}\] at .*, but float32\[6\] is expected"):
        checkpoints.restore(checkpoint.parent, LIKE)


def test_an_array_that_is_not_there(checkpoint):
    shutil.rmtree(checkpoint / "state")
    other = checkpoints.save(checkpoint.parent / "other", 1, {"m": 1})
    shutil.copytree(other / "state", checkpoint / "state")
    shutil.rmtree(checkpoint.parent / "other")
    forge(checkpoint)
    assert_refused(checkpoint, "its arrays cannot be read")


class Touch:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("victim", ["data", "index", "chunk", "_METADATA", "manifest.json"])
@pytest.mark.parametrize("is_npy", [False, True])
def test_nothing_is_unpickled(checkpoint, tmp_path, victim, is_npy):
    trace, payload = str(tmp_path / "executed"), tmp_path / "payload"
    with payload.open("wb") as file:
        np.save(file, np.array([Touch(trace)]), allow_pickle=True) if is_npy else pickle.dump(Touch(trace), file)
    content = payload.read_bytes()
    if victim == "chunk":
        store(checkpoint, chunk=content)
    for path in checkpoint.rglob("*"):
        is_data = victim == "data" and path.parent.name == "d"
        if path.is_file() and (is_data or path.name == victim or (victim == "index" and path.suffix == ".ocdbt")):
            path.write_bytes(content)
    if victim != "manifest.json":
        forge(checkpoint)
    if victim == "_METADATA":  # which is Orbax's, and is not read here
        assert checkpoints.restore(checkpoint.parent, LIKE)[0] == 1
    else:
        assert_refused(checkpoint, "cannot be read")
    assert not os.path.exists(trace)


def test_names_of_folders_that_only_look_like_steps(tmp_path):
    for name in ["step_000000001", "step_" + "9" * 200, "step_٠٠٠٠٠٠٠١", "step_1"]:
        (tmp_path / name).mkdir()
    assert checkpoints.steps(tmp_path) == []
    assert checkpoints.restore(tmp_path, jax.eval_shape(lambda: LIKE)) is None
