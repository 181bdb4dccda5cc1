"""Several processes save one checkpoint, and any other number of processes and devices restores it."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jmeta import checkpoints
from jmeta.checkpoints import arrays, files

ROOT = pathlib.Path(__file__).parents[1]


def values(seed):
    """The numbers of a state, on the host: any bits, those of NaNs included."""
    noise = np.random.default_rng(seed)
    return {
        "sharded": noise.integers(0, 2**32, (8, 6), np.uint32).view(np.float32),
        "columns": noise.integers(0, 2**16, (3, 16), np.uint16).view(jnp.bfloat16),
        "replicated": noise.normal(size=(5, 4)).astype(np.float32),
        "empty": np.zeros((8, 0), np.float32),
        "key": np.asarray(jax.random.key_data(jax.random.key(seed))),
        "keys": np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed, impl="rbg"), 8))),
        "host": noise.integers(0, 9, 3),
        "count": seed,
        "share": 0.1 * seed,
    }


def placed(seed):
    """`values` on all devices of all processes, in the ways in which arrays can lie there."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))

    def place(name, array):
        if not isinstance(array, np.ndarray) or name == "host":
            return array
        axes = {"sharded": ("all",), "empty": ("all",), "keys": ("all",), "columns": (None, "all")}.get(name, ())
        there = jax.make_array_from_callback(array.shape, NamedSharding(mesh, PartitionSpec(*axes)), lambda i: array[i])
        impl = {"key": "threefry2x32", "keys": "rbg"}.get(name)
        return jax.random.wrap_key_data(there, impl=impl) if impl else there

    return {name: place(name, array) for name, array in values(seed).items()}


def assert_same_bits(state, seed):
    """What this process has of every leaf is what `values` has there."""
    for name, expected in values(seed).items():
        if not isinstance(state[name], jax.Array):
            assert type(state[name]) is type(expected)
            assert np.asarray(state[name]).tobytes() == np.asarray(expected).tobytes(), name
            continue
        found = jax.random.key_data(state[name]) if name.startswith("key") else state[name]
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), name
        for shard in found.addressable_shards:
            assert np.asarray(shard.data).tobytes() == expected[shard.index].tobytes(), name


def as_shapes(state):
    """The same without the arrays: where they go is said by the shapes alone."""
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        if isinstance(leaf, jax.Array)
        else leaf
        for name, leaf in state.items()
    }


def assert_restores(folder, step, seed):
    like = placed(0)
    for target in (like, as_shapes(like)):
        found, state = checkpoints.restore(folder, target)
        assert found == step
        assert_same_bits(state, seed)
        for name in ("sharded", "columns", "replicated", "key", "keys", "empty"):
            assert state[name].sharding.is_equivalent_to(like[name].sharding, like[name].ndim), name


@contextlib.contextmanager
def patched(module, name, replacement):
    original = getattr(module, name)
    setattr(module, name, replacement)
    try:
        yield original
    finally:
        setattr(module, name, original)


def refuse(*args):
    raise OSError(28, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def four_by_two(folder, index):
    assert (jax.process_count(), jax.device_count()) == (4, 8)
    assert_restores(folder / "by_one", 5, 5)

    assert checkpoints.save(folder / "by_four", 1, placed(1)) == folder / "by_four" / "step_00000001"
    assert names(folder / "by_four") == ["step_00000001"]  # in place when it returns, for every process
    # only the first writes the manifest; what one process writes is its own shards
    assert len(list((folder / "by_four").glob("step_00000001/state/ocdbt.process_*"))) == 4

    in_the_first_alone = patched(files, "write_manifest", refuse if index else files.write_manifest)
    with in_the_first_alone, checkpoints.AsyncSaver(folder / "by_four") as saver:
        state = placed(2)
        saver.save(2, state)
        jax.jit(lambda x: -x, donate_argnums=0)(state["sharded"]).block_until_ready()
    assert names(folder / "by_four") == ["step_00000001", "step_00000002"]
    assert_restores(folder / "by_four", 2, 2)

    for failing, module, step in [(2, arrays, "write_arrays"), (0, files, "write_manifest")]:
        broken = patched(module, step, refuse if index == failing else getattr(module, step))
        with broken, pytest.raises(OSError, match="No space left") as raised:
            checkpoints.save(folder / "by_four", 3, placed(3))
        assert raised.value.errno == 28
        assert (f"in process {failing}" in str(raised.value)) == (index != failing)

    def lost(stored, share):
        raise checkpoints.DamagedCheckpointError("its arrays cannot be read")

    # what one process cannot read back, no process keeps
    broken = patched(arrays, "read_through", lost if index == 3 else arrays.read_through)
    with broken, pytest.raises(checkpoints.DamagedCheckpointError, match="step_00000001 does not read back") as raised:
        checkpoints.save(folder / "by_four", 1, placed(3), keep_last=1)
    assert ("in process 3" in str(raised.value)) == (index != 3)
    not_merged = patched(arrays, "merge_arrays", lambda path: None)
    with not_merged, pytest.raises(checkpoints.DamagedCheckpointError, match="does not read back"):
        checkpoints.save(folder / "by_four", 4, placed(3), keep_last=1)
    with pytest.raises(ValueError, match=r"process 0 is at save\(.*, 30\) .* but process 1 at save\(.*, 31\)"):
        checkpoints.save(folder / "by_four", 30 + index, placed(3))
    with pytest.raises(ValueError, match=r"^/.*step_00000002 has no leaf \['other'\]"):
        checkpoints.restore(folder / "by_four", {"other": 1})
    assert names(folder / "by_four") == ["step_00000001", "step_00000002"]


def two_by_one(folder, index):
    assert (jax.process_count(), jax.device_count()) == (2, 2)
    assert_restores(folder / "by_one", 5, 5)
    assert_restores(folder / "by_four", 2, 2)
    assert checkpoints.restore(folder / "none", {}) is None

    # while checkpoints are on their way in the background, the devices' own collectives go on
    with checkpoints.AsyncSaver(folder / "by_two", keep_last=2) as saver:
        total, columns = jax.jit(jnp.sum), placed(0)["columns"]
        for step in range(1, 5):
            saver.save(step, placed(step), score=-step)
            for _ in range(20):
                total(columns).block_until_ready()
    assert names(folder / "by_two") == [f"step_0000000{step}" for step in (1, 3, 4)]

    # a file that the second process hashes, and the first does not, has changed: both notice
    sound = folder / "by_two" / "step_00000004"
    victim = sound / sorted(files.read_manifest(sound)["files"])[1]
    content = victim.read_bytes()
    checkpoints.restore(folder / "none", {})  # both are here
    if index == 0:
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step, state = checkpoints.restore(folder / "by_two", placed(0))
    assert step == 3
    assert_same_bits(state, 3)
    (warning,) = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert "step_00000004 is damaged and is passed over" in warning
    assert "does not have the SHA-256" in warning
    assert ("in process 1" in warning) == (index == 0)
    if index == 0:
        victim.write_bytes(content)
    assert checkpoints.restore(folder / "by_two", placed(0), best=True)[0] == 1


def one_by_eight(folder, index):
    assert (jax.process_count(), jax.device_count()) == (1, 8)
    assert_restores(folder / "by_four", 2, 2)
    assert_restores(folder / "by_two", 4, 4)
    with checkpoints.AsyncSaver(folder / "by_eight") as saver:
        state = placed(6)
        saver.save(6, state)
        jax.jit(lambda x: -x, donate_argnums=0)(state["sharded"]).block_until_ready()
    assert_restores(folder / "by_eight", 6, 6)


def start(scenario, folder, *, processes, devices):
    """Run one of the functions above in as many new processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONWARNINGS": "error::RuntimeWarning"}
    command = [sys.executable, "-m", "tests.test_checkpoints_cluster", scenario, str(folder), str(port), str(processes)]
    running = [
        subprocess.Popen(
            [*command, str(i)], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for i in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * processes, "\n\n".join(outputs)


def test_any_number_of_processes_and_devices_restores_what_any_other_saved(tmp_path):
    tmp_path = tmp_path / "lr=[0.1] **"  # the processes' shares are found in a folder of any name
    checkpoints.save(tmp_path / "by_one", 5, placed(5))
    start("four_by_two", tmp_path, processes=4, devices=2)
    start("two_by_one", tmp_path, processes=2, devices=1)
    start("one_by_eight", tmp_path, processes=1, devices=8)
    for name, step in [("by_one", 5), ("by_four", 2), ("by_two", 4), ("by_eight", 6)]:
        assert_restores(tmp_path / name, step, step)


if __name__ == "__main__":
    scenario, folder, port, processes, index = sys.argv[1:]
    if int(processes) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=int(processes), process_id=int(index))
    globals()[scenario](pathlib.Path(folder), int(index))
