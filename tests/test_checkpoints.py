"""Checkpoints come back bit for bit, are whole or absent, and are never silently wrong."""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmeta import checkpoints, training
from jmeta.checkpoints import arrays, files, guarded


def small_state(seed=0):
    key = jax.random.key(seed)
    trainer = training.meta_trainer(jax.value_and_grad(jnp.sum, has_aux=True), optax.adam(1e-3))
    return {
        "meta": trainer.init({"kernel": jax.random.normal(key, (3, 4)), "empty": jnp.zeros((0, 2))}),
        "half": jax.random.normal(key, (5,), jnp.bfloat16),
        "key": key,
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 2),
        "host": np.array([1.5, np.nan, -np.inf]),
        "score": np.float64(seed / 3),
        "count": seed,
        "share": 0.1 + seed,
        "is_done": False,
    }


def bits(tree):
    """Every leaf as type, dtype, shape and bytes."""

    def of_leaf(leaf):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return "key", str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
        array = np.asarray(leaf)
        return isinstance(leaf, jax.Array), type(leaf), str(array.dtype), array.shape, array.tobytes()

    return jax.tree.structure(tree), [of_leaf(leaf) for leaf in jax.tree.leaves(tree)]


def some_array_file(checkpoint):
    """The largest file that Orbax wrote: it holds the numbers."""
    return max((p for p in checkpoint.glob("state/**/*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_everything_comes_back_bit_for_bit(tmp_path):
    state = small_state(3)
    checkpoints.save(tmp_path, 7, state)
    step, restored = checkpoints.restore(tmp_path, small_state(0))
    assert step == 7
    assert bits(restored) == bits(state)
    assert jax.random.normal(restored["key"]) == jax.random.normal(state["key"])


def test_shapes_alone_are_enough_to_restore(tmp_path):
    state = {"key": jax.random.key(5, impl="rbg"), "theta": jnp.arange(4.0)}
    checkpoints.save(tmp_path, 0, state)
    _, restored = checkpoints.restore(tmp_path, jax.eval_shape(lambda: state))
    assert bits(restored) == bits(state)


@settings(max_examples=10, deadline=None)
@given(
    dtype=st.sampled_from(["float32", "bfloat16", "int8", "uint32", "bool", "float16"]),
    shape=st.lists(st.integers(0, 4), max_size=3),
    seed=st.integers(0, 2**31),
)
def test_any_dtype_and_shape_comes_back(tmp_path_factory, dtype, shape, seed):
    noise = np.random.default_rng(seed).integers(0, 2, shape)
    state = [jnp.asarray(noise).astype(dtype), {"a.b/c": np.asarray(noise)}]
    folder = tmp_path_factory.mktemp("any")
    checkpoints.save(folder, 1, state)
    assert bits(checkpoints.restore(folder, state)[1]) == bits(state)


def test_nothing_there_is_none(tmp_path):
    assert checkpoints.restore(tmp_path / "none", jnp.zeros(1)) is None
    assert checkpoints.steps(tmp_path) == []


def test_the_last_few_and_the_best_are_kept(tmp_path):
    scores = {10: 0.2, 20: 0.9, 30: 0.9, 40: float("nan"), 50: 0.5, 60: None, 70: 0.1}
    for step, score in scores.items():
        checkpoints.save(tmp_path, step, {"theta": jnp.array(step)}, score=score, keep_last=2)
    assert checkpoints.steps(tmp_path) == [20, 60, 70]  # 20 and not 30: the first of equals
    assert checkpoints.restore(tmp_path, {"theta": jnp.array(0)})[0] == 70
    step, state = checkpoints.restore(tmp_path, {"theta": jnp.array(0)}, best=True)
    assert (step, int(state["theta"])) == (20, 20)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000020", "step_00000060", "step_00000070"]


def test_later_checkpoints_can_be_left_out(tmp_path):
    for step, score in [(10, 0.1), (20, 0.3), (30, 0.2)]:
        checkpoints.save(tmp_path, step, jnp.array(step), score=score)
    assert checkpoints.restore(tmp_path, jnp.array(0), up_to=25)[0] == 20
    assert checkpoints.restore(tmp_path, jnp.array(0), best=True, up_to=15)[0] == 10
    assert checkpoints.restore(tmp_path, jnp.array(0), up_to=9) is None


def test_a_step_saved_again_is_replaced(tmp_path):
    checkpoints.save(tmp_path, 1, jnp.array(1.0))
    checkpoints.save(tmp_path, 1, jnp.array(2.0))
    assert checkpoints.steps(tmp_path) == [1]
    assert float(checkpoints.restore(tmp_path, jnp.array(0.0))[1]) == 2.0


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [flip_bit, truncate, pathlib.Path.unlink])
@pytest.mark.parametrize("victim", [some_array_file, lambda checkpoint: checkpoint / "manifest.json"])
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(tmp_path, damage, victim):
    for step in (1, 2):
        newest = checkpoints.save(tmp_path, step, small_state(step))
    damage(victim(newest))
    with pytest.warns(
        RuntimeWarning, match=rf"step_00000002 is damaged.*{victim(newest).name if damage is flip_bit else ''}"
    ):
        step, state = checkpoints.restore(tmp_path, small_state())
    assert step == 1
    assert bits(state) == bits(small_state(1))


def test_every_single_flipped_bit_in_the_files_is_noticed(tmp_path):
    checkpoint = checkpoints.save(tmp_path, 1, {"theta": jnp.arange(6.0)})
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.stat().st_size):
        content = path.read_bytes()
        for position in np.linspace(0, len(content) - 1, 5).astype(int):
            path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
            with pytest.warns(RuntimeWarning, match="damaged"), pytest.raises(checkpoints.DamagedCheckpointError):
                checkpoints.restore(tmp_path, {"theta": jnp.zeros(6)})
        path.write_bytes(content)
    assert checkpoints.restore(tmp_path, {"theta": jnp.zeros(6)})[0] == 1


def test_a_damaged_best_checkpoint_falls_back_to_the_latest(tmp_path):
    best = checkpoints.save(tmp_path, 1, jnp.array(1.0), score=1.0)
    checkpoints.save(tmp_path, 2, jnp.array(2.0), score=0.0)
    some_array_file(best).unlink()
    with pytest.warns(RuntimeWarning, match="is missing"):
        assert checkpoints.restore(tmp_path, jnp.array(0.0), best=True)[0] == 2


@pytest.mark.parametrize(
    ("module", "stage"), [(arrays, "write_arrays"), (files, "write_manifest"), (files, "to_disk"), (files, "prune")]
)
def test_a_save_that_is_interrupted_leaves_the_older_one_whole(tmp_path, monkeypatch, module, stage):
    checkpoints.save(tmp_path, 1, jnp.array(1.0))
    original = getattr(module, stage)

    def killed(*args, **kwargs):
        original(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 2, jnp.array(2.0))
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir())[-1] <= "step_00000002"  # nothing temporary is left
    step, value = checkpoints.restore(tmp_path, jnp.array(0.0))
    assert step == float(value) == (2 if stage == "prune" else 1)
    checkpoints.save(tmp_path, 2, jnp.array(2.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]


def test_what_a_killed_save_left_is_in_nobodys_way(tmp_path):
    (tmp_path / "tmp-step_00000001-0a1b").mkdir()
    (tmp_path / "tmp-replaced").symlink_to("nowhere")
    checkpoints.save(tmp_path, 2, jnp.array(2.0))
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000002"]


def test_in_the_background_the_same_is_written(tmp_path):
    checkpoints.save(tmp_path / "one", 1, small_state(4), score=0.5)
    with checkpoints.AsyncSaver(tmp_path / "other") as saver:
        assert saver.save(1, small_state(4), score=0.5) == tmp_path / "other" / "step_00000001"
    (one, another) = (json.loads((tmp_path / f / "step_00000001/manifest.json").read_text()) for f in ("one", "other"))
    assert [one[name] for name in ("step", "score", "leaves")] == [
        another[name] for name in ("step", "score", "leaves")
    ]
    for folder in ("one", "other"):
        assert bits(checkpoints.restore(tmp_path / folder, small_state())[1]) == bits(small_state(4))


def test_the_state_may_be_donated_and_changed_as_soon_as_save_returns(tmp_path, monkeypatch):
    """What is on its way has been copied, and is not in place before the thread has done its work."""
    is_changed, written = threading.Event(), arrays.merge_arrays
    monkeypatch.setattr(arrays, "merge_arrays", lambda path: (is_changed.wait(60), written(path)))
    state = {"device": jnp.arange(200_000.0), "host": np.arange(3)}
    saver = checkpoints.AsyncSaver(tmp_path)
    saver.save(1, state)
    changed = jax.jit(lambda x: -x, donate_argnums=0)(state["device"])
    for _ in range(3):
        changed = jax.jit(lambda x: x - 1, donate_argnums=0)(changed)
    state["host"] += 7
    changed.block_until_ready()
    assert checkpoints.steps(tmp_path) == []
    is_changed.set()
    saver.wait()
    _, restored = checkpoints.restore(tmp_path, {"device": jnp.zeros(200_000), "host": np.zeros(3, int)})
    np.testing.assert_array_equal(restored["device"], np.arange(200_000, dtype=np.float32))
    np.testing.assert_array_equal(restored["host"], [0, 1, 2])


def test_at_most_one_is_on_its_way_and_its_error_comes_once(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with checkpoints.AsyncSaver(tmp_path, keep_last=2) as saver:
        for step in range(3):
            saver.save(step, jnp.array(step))
            assert checkpoints.steps(tmp_path) in ([], [0], [0, 1], [1, 2])
            assert not step or step - 1 in checkpoints.steps(tmp_path)
        saver.wait()
        monkeypatch.setattr(files, "write_manifest", full)
        saver.save(3, jnp.array(3))
        with pytest.raises(OSError, match="No space left") as raised:
            saver.save(4, jnp.array(4))
        assert raised.value.errno == 28
        assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]
        monkeypatch.undo()
        saver.save(4, jnp.array(4))
    assert checkpoints.steps(tmp_path) == [2, 4]


def test_an_error_of_the_run_is_not_hidden_by_one_of_the_background(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_manifest", lambda *args: 1 / 0)

    def run():
        with checkpoints.AsyncSaver(tmp_path) as saver:
            saver.save(1, jnp.array(1))
            raise RuntimeError("of the run")

    with pytest.raises(RuntimeError, match="of the run") as raised:
        run()
    assert "division" in raised.value.__notes__[0]


FULL_DISK = """
import errno, os, pathlib, resource, sys
import jax.numpy as jnp
from jmeta import checkpoints

folder, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
checkpoints.save(folder, 1, {"x": jnp.arange(5.0)})
for number, room in [(0, 200_000), (1, 100)]:  # not for the arrays; not even for the manifest
    if kind == "EFBIG":
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    else:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        (folder / "filler").write_bytes(bytes(max(0, free - room)))
    with checkpoints.AsyncSaver(folder) as saver:
        try:
            saver.save(2, {"x": jnp.arange(1_000_000.0) if number == 0 else jnp.zeros(5)})
            saver.wait()
        except OSError as error:
            assert error.errno == getattr(errno, kind), error
        else:
            raise SystemExit("no error")
    if kind == "EFBIG":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        (folder / "filler").unlink()
    assert os.listdir(folder) == ["step_00000001"], os.listdir(folder)
    step, state = checkpoints.restore(folder, {"x": jnp.zeros(5)})
    assert (step, state["x"].tolist()) == (1, [0, 1, 2, 3, 4])
checkpoints.save(folder, 2, {"x": jnp.ones(5)})
assert checkpoints.restore(folder, {"x": jnp.zeros(5)})[0] == 2
"""


def test_a_file_that_may_not_grow_leaves_older_checkpoints(tmp_path):
    result = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path, "EFBIG"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_full_disk_leaves_older_checkpoints(tmp_path):
    mount = ["unshare", "-Urm", "sh", "-c", f'mount -t tmpfs -o size=2m none "{tmp_path}" && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small file system")
    command = [*mount, sys.executable, "-c", FULL_DISK, tmp_path, "ENOSPC"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": jnp.zeros((3, 2)), "b": jnp.zeros(2)}, r"float32\[2,3\] at \['a'\], but float32\[3,2\] is expected"),
        ({"a": jnp.zeros((2, 3)), "b": jnp.zeros(2, jnp.int32)}, r"float32\[2\] at \['b'\], but int32\[2\]"),
        ({"a": jnp.zeros((2, 3)), "b": jnp.zeros(2), "c": 1}, r"no leaf \['c'\], which is expected to be int"),
        ({"a": jnp.zeros((2, 3))}, r"a leaf \['b'\] \(float32\[2\]\) that is not expected"),
    ],
)
def test_another_structure_shape_or_dtype_is_refused(tmp_path, like, message):
    checkpoints.save(tmp_path, 1, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)})
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(tmp_path, like)


def test_what_is_no_array_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\['name'\] is of type str"):
        checkpoints.save(tmp_path, 1, {"name": "conv4"})
    with pytest.raises(ValueError, match=r"\['n'\] is the integer 1000000000000000000000, which has more than 64 bits"):
        checkpoints.save(tmp_path, 1, {"n": 10**21})
    with pytest.raises(ValueError, match="step=-1"):
        checkpoints.save(tmp_path, -1, {})
    with pytest.raises(ValueError, match="keep_last=0"):
        checkpoints.save(tmp_path, 1, {}, keep_last=0)


def test_the_manifest_names_leaves_and_files(tmp_path):
    checkpoint = checkpoints.save(tmp_path, 12, small_state(), score=0.5)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert (manifest["step"], manifest["score"]) == (12, 0.5)
    assert manifest["leaves"]["['half']"] == "bfloat16[5]"
    written = {str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == written - {"manifest.json"}


def test_a_save_removes_the_later_steps_of_an_abandoned_future(tmp_path):
    """A run resumed from an older checkpoint, since newer ones are damaged, must not lose what it saves to them."""
    for step in (10, 20, 30):
        checkpoints.save(tmp_path, step, jnp.array(step), keep_last=2, score=0.5 if step == 10 else None)
    saved = checkpoints.save(tmp_path, 15, jnp.array(15), keep_last=2)
    assert saved.is_dir()
    assert checkpoints.steps(tmp_path) == [10, 15]
    assert checkpoints.restore(tmp_path, jnp.array(0))[0] == 15


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
@pytest.mark.parametrize("what", ["manifest", "files"])
def test_what_the_system_does_not_let_us_read_is_not_damaged(tmp_path, monkeypatch, number, what):
    """Passed over, it would be deleted by the next save."""
    checkpoints.save(tmp_path, 1, small_state())

    def refused(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(guarded, "read_json" if what == "manifest" else "sha256", refused)
    with pytest.raises(OSError, match=os.strerror(number)):
        checkpoints.restore(tmp_path, small_state())


def test_what_tensorstore_is_not_let_read_is_not_damaged():
    with pytest.raises(OSError, match="Too many open files"), arrays._damage():
        raise ValueError("RESOURCE_EXHAUSTED: ... [os_error_code='24'] ... [tensorstore_spec='...']")
    with pytest.raises(MemoryError), arrays._damage():
        raise MemoryError
    with pytest.raises(checkpoints.DamagedCheckpointError, match="arrays cannot be read"), arrays._damage():
        raise ValueError("DATA_LOSS: ... [os_error_code='5']")


def test_a_part_comes_back_by_name_into_another_optimizer(tmp_path):
    """By two routes: the part alone, and the same leaves of the whole."""
    params = {"dense": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}}
    trained = {"params": params, "optimizer": optax.adam(0.1).init(params), "key": jax.random.key(3), "step": 7}
    checkpoints.save(tmp_path, 7, trained, score=0.5)
    like = jax.tree.map(jnp.zeros_like, params)
    step, part = checkpoints.restore_part(tmp_path, like, inside="['params']")
    _, whole = checkpoints.restore(tmp_path, trained)
    assert step == 7
    jax.tree.map(np.testing.assert_array_equal, part, whole["params"])
    state = {"params": part, "optimizer": optax.sgd(0.1, momentum=0.9).init(part)}
    checkpoints.save(tmp_path / "other", 1, state)
    _, named = checkpoints.restore_part(tmp_path, {"params": like, "step": 0}, best=True)
    assert named["step"] == 7
    np.testing.assert_array_equal(named["params"]["dense"]["w"], params["dense"]["w"])
    assert checkpoints.restore_part(tmp_path, jnp.zeros(3), inside="['params']['dense']['b']")[1].tolist() == [1, 1, 1]
    assert checkpoints.restore_part(tmp_path / "none", like) is None


def test_a_part_that_was_not_saved_or_otherwise_is_refused_by_name(tmp_path):
    checkpoints.save(tmp_path, 1, {"params": {"w": jnp.ones(3)}, "step": 1})
    with pytest.raises(ValueError, match=r"no leaf \['w'\].*; there is \['params'\]\['w'\]: say what it is `inside`"):
        checkpoints.restore_part(tmp_path, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"has float32\[3\] at .*'w'\], but float32\[4\] is expected"):
        checkpoints.restore_part(tmp_path, {"w": jnp.ones(4)}, inside="['params']")
    with pytest.raises(ValueError, match="that is not expected"):
        checkpoints.restore(tmp_path, {"step": 1})


def test_a_part_of_a_damaged_checkpoint_is_that_of_the_one_before(tmp_path):
    """All of it is verified, also what is not read."""
    for step in (1, 2):
        checkpoints.save(tmp_path, step, {"w": jnp.full(3, float(step)), "other": jnp.zeros(5000)})
    flip_bit(max((p for p in (tmp_path / "step_00000002").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size))
    with pytest.warns(RuntimeWarning, match="is damaged and is passed over"):
        step, part = checkpoints.restore_part(tmp_path, {"w": jnp.zeros(3)})
    assert (step, part["w"].tolist()) == (1, [1, 1, 1])


def test_a_score_that_was_damaged_costs_the_best_nothing(tmp_path):
    """A manifest whose digest is wrong says nothing, else the next save would delete the best in its favour."""
    for step, score in [(1, 0.1), (2, 0.5)]:
        checkpoints.save(tmp_path, step, jnp.array(step), score=score)
    manifest = tmp_path / "step_00000001" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"score": 0.1', '"score": 0.9'))
    checkpoints.save(tmp_path, 3, jnp.array(3), score=0.2, keep_last=1)
    assert checkpoints.steps(tmp_path) == [2, 3]
    assert checkpoints.restore(tmp_path, jnp.array(0), best=True)[0] == 2
