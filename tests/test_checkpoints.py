"""Checkpoints come back bit for bit, are whole or absent, and are never silently wrong."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmeta import checkpoints, training


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


@pytest.mark.parametrize("stage", ["_write_arrays", "_write_manifest", "_to_disk"])
def test_a_save_that_is_interrupted_leaves_the_older_one_whole(tmp_path, monkeypatch, stage):
    checkpoints.save(tmp_path, 1, jnp.array(1.0))
    original = getattr(checkpoints, stage)

    def killed(*args, **kwargs):
        original(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, stage, killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 2, jnp.array(2.0))
    monkeypatch.undo()
    assert checkpoints.steps(tmp_path) == [1]
    assert float(checkpoints.restore(tmp_path, jnp.array(0.0))[1]) == 1.0
    checkpoints.save(tmp_path, 2, jnp.array(2.0))  # and what it left behind is in nobody's way
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]


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
