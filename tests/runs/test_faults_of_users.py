"""What users do to a run, and where they start it: it works, or ends with one line."""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jmeta import checkpoints
from jmeta.runs import board, evaluate, log, terminal
from jmeta.runs import folder as run_folder

from ..slow import slow
from .commands import ROOT, ended, environment, jmeta, ran, the_error, wait_for_checkpoint_after
from .test_odd_folders import KILLED, TINY

LONG = [*KILLED, *shlex.split("--training.num-steps 2000000 --training.checkpoint-every 20")]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run that has ended."""
    folder = tmp_path_factory.mktemp("honest") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jmeta.runs.console.use_compilation_cache", lambda: None)
        assert jmeta("train", *TINY, "--run-dir", folder) == 0
    return folder


@pytest.fixture
def run(honest, tmp_path):
    """A copy of it."""
    return shutil.copytree(honest, tmp_path / "run")


OUT_OF_RANGE = [
    *itertools.product(
        ["--training.seed", "--training.num-steps", "--training.tasks-per-step", "--seeds", "--num-ways"],
        [2**63, 10**40],
    ),
    ("--training.seed", 2**32),
    ("--training.seed", -1),
    ("--training.num-steps", 2**31),
    ("--training.num-valid-tasks", 2**40),
    ("--training.keep-last", 2**63 - 1),
    ("--testing.num-tasks", 2**63),
    ("--testing.tasks-at-once", 2**31),
    ("--seeds", 2**32 + 1),
]


@pytest.mark.parametrize(("option", "number"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_one_line_before_anything_is_written(tmp_path, capfd, option, number):
    assert jmeta("train", *TINY, "--run-dir", tmp_path / "run", f"{option}={number}") == 1
    line = the_error(capfd.readouterr().err)
    assert str(number) in line
    assert "expected" in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "number"),
    [
        ("--testing.num-tasks", 1),
        ("--testing.num-tasks", 2**63),
        ("--testing.tasks-at-once", 0),
        ("--num-ways", 10**40),
        ("--num-queries", -1),
    ],
)
def test_a_number_that_evaluate_overrides_is_one_line_before_anything_is_written(run, capfd, option, number):
    before = sorted(run.rglob("*"))
    assert jmeta("evaluate", run, f"{option}={number}") == 1
    line = the_error(capfd.readouterr().err)
    assert str(number) in line
    assert "expected" in line
    assert sorted(run.rglob("*")) == before


def test_tasks_that_no_memory_holds_are_one_line(tmp_path, capfd):
    assert jmeta("train", *TINY, "--run-dir", tmp_path / "run", "--training.tasks-per-step", 10**9) == 1
    assert "the 1000000000 tasks of a meta-step would take" in the_error(capfd.readouterr().err)
    assert not (tmp_path / "run" / "seed_0" / "config.json").exists()


def refused_by_device(*_):
    import jax

    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nmore of it")


def refused_by_host(*_):
    raise MemoryError


@pytest.mark.parametrize("refused", [refused_by_device, refused_by_host])
def test_memory_that_is_not_there_is_one_line(run, capfd, monkeypatch, refused):
    monkeypatch.setattr(evaluate, "evaluate_all", refused)
    assert jmeta("evaluate", run) == 1
    assert "take fewer or smaller tasks at once" in the_error(capfd.readouterr().err)


def moved(folder):
    folder.rename(folder.with_name("moved"))


def deleted(folder):
    shutil.rmtree(folder, ignore_errors=True)


def without_lock(folder):
    (folder / "seed_7" / "lock").unlink()


def with_another_lock(folder):
    (folder / "seed_7" / "lock").unlink()
    (folder / "seed_7" / "lock").write_text("1")


@pytest.mark.parametrize("harm", [moved, without_lock, *slow(deleted, with_another_lock)])
def test_a_folder_that_is_lost_while_a_run_writes_to_it_ends_the_run(tmp_path, start_process, harm):
    folder = tmp_path / "run"
    process = start_process("jmeta", "train", *LONG, "--run-dir", folder)
    wait_for_checkpoint_after(0, folder / "seed_7", process)
    harm(folder)
    status, output = ended(process)
    assert status == 1, output
    # what was being saved at that moment may be missed first
    assert re.search("was moved or deleted|No such file or directory", the_error(output))
    if harm is moved:
        assert not folder.exists()  # and no second folder was begun
        assert checkpoints.steps(tmp_path / "moved" / "seed_7" / "checkpoints")


def test_a_log_whose_folder_or_lock_was_lost_says_so(tmp_path):
    for number, harm in enumerate((moved, deleted, without_lock, with_another_lock)):
        folder = tmp_path / str(number) / "run"
        with run_folder.locked(folder / "seed_7"):
            written = log.MetricsLog(folder / "seed_7", last_step=0)
            written.append(1, "meta_train", {"loss": 1.0})
            written.to_disk()
            harm(folder)
            for end in (written.to_disk, written.close):
                with pytest.raises(run_folder.LostFolderError, match="was moved or deleted while the run wrote"):
                    end()


def test_a_saver_does_not_begin_a_second_folder(tmp_path):
    with checkpoints.AsyncSaver(tmp_path / "run" / "checkpoints") as saver:
        saver.save(1, {"a": 1})
        saver.wait()
        moved(tmp_path / "run")
        with pytest.raises(FileNotFoundError):
            saver.save(2, {"a": 1})
    assert os.listdir(tmp_path) == ["moved"]


@pytest.mark.parametrize("name", ["tensorboard", "tensorboard/deep/er"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_link_inside_tensorboard_is_refused(run, tmp_path, capfd, name, command):
    """It was followed, and what it led to overwritten."""
    outside = tmp_path / "outside"
    outside.write_text("mine")
    place = run / "seed_0" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "events.out.tfevents.1").symlink_to(outside)
    words = ["train", *TINY, "--run-dir", run] if command == "train" else ["evaluate", run]
    assert jmeta(*words) == 1
    assert "a link or a special file" in the_error(capfd.readouterr().err)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_seed_s_folder_that_is_a_link_is_refused(run, tmp_path, capfd, command):
    (run / "seed_0").rename(tmp_path / "outside")
    (run / "seed_0").symlink_to(tmp_path / "outside")
    before = sorted(tmp_path.rglob("*"))
    words = ["train", *TINY, "--run-dir", run] if command == "train" else ["evaluate", run]
    assert jmeta(*words) == 1
    assert "seed_0 is a link" in the_error(capfd.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["step", "loss", "accuracy"])
def test_numbers_that_are_none_in_the_log(run, name):
    path = run / "seed_0" / "metrics.jsonl"
    first, *rest = path.read_text().splitlines()
    forged = json.dumps({**json.loads(first), name: 12345})
    numbers = ["9" * 400, "-" + "9" * 400, "9" * 290, "1e400", "NaN", "-Infinity", "9" * 19]
    path.write_text("\n".join([*[forged.replace("12345", number) for number in numbers], *rest]) + "\n")
    assert jmeta("train", *TINY, "--run-dir", run) == 0
    assert jmeta("evaluate", run) == 0


def test_dollars_in_the_log_are_no_mathematics(run):
    path = run / "seed_0" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "protocol": "$\\nothing{$"}) + "\n" for line in lines))
    assert jmeta("train", *TINY, "--run-dir", run) == 0


def test_a_run_that_may_not_be_written_is_judged_and_printed(run, capfd, monkeypatch):
    """All seeds are; and only then it is said that nothing was stored."""
    shutil.copytree(run / "seed_0", run / "seed_1")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "evaluation.json")

    monkeypatch.setattr(evaluate, "store", refuse)
    assert jmeta("evaluate", run) == 1
    output = capfd.readouterr()
    assert output.out.count("meta_test") == 2
    assert "2 seeds: " in output.out
    assert "what is printed above could not be stored ([Errno 13]" in the_error(output.err)


def test_a_clock_that_is_set_back_stops_no_log(tmp_path, monkeypatch):
    """tensorboardX has a thread that dies of it, and whoever logs then waits for ever."""
    now = time.time()
    clock = itertools.chain([now] * 3, itertools.repeat(now - 30 * 86400))
    written = log.MetricsLog(tmp_path, last_step=0)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    for step in range(100):
        written.append(step, "meta_train", {"loss": 1.0, "accuracy": 0.5})
    written.close()
    assert len(log.read_metrics(tmp_path)) == 100


def events(path):
    """What TensorBoard reads: the records, whose checksums tensorboardX computes, without their times."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content, found = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        record = content[12 : 12 + length]
        assert int.from_bytes(content[8:12], "little") == masked_crc32c(content[:8])
        assert int.from_bytes(content[12 + length : 16 + length], "little") == masked_crc32c(record)
        found.append(Event.FromString(record))
        found[-1].ClearField("wall_time")
        content = content[16 + length :]
    return found


def test_the_board_writes_what_tensorboardx_would(tmp_path):
    from tensorboardX import SummaryWriter

    theirs = SummaryWriter(str(tmp_path / "theirs"), purge_step=3)
    ours = board.Board(tmp_path / "ours", 3)
    for writer in (theirs, ours):
        writer.add_scalar("meta_train/loss", 0.5, 4)
        writer.add_text("meta_valid/protocol", "5-way ± 1", 4)
        writer.close()
    (one,), (other,) = ((tmp_path / name).iterdir() for name in ("theirs", "ours"))
    assert [e for e in events(other) if e.HasField("summary")] == [e for e in events(one) if e.HasField("summary")]
    assert events(other)[0] == events(one)[0]
    assert [e.step for e in events(other) if e.HasField("session_log")] == [3]


def test_a_reader_that_leaves_does_not_end_the_run(tmp_path):
    words = shlex.join([sys.executable, "-m", "jmeta", "train", *TINY, "--run-dir", str(tmp_path / "run")])
    status, output = ran(["bash", "-c", f"set -o pipefail; {words} 2>&1 | head -1"])
    assert (status, len(output.splitlines())) == (0, 1), output
    assert checkpoints.steps(tmp_path / "run" / "seed_0" / "checkpoints")[-1] == 40
    status, output = ran(["bash", "-c", f"set -o pipefail; {sys.executable} -m jmeta recipes | true"])
    assert (status, output) == (0, "")


def test_a_terminal_without_our_letters(run):
    words = [sys.executable, "-m", "jmeta", "evaluate", str(run)]
    done = subprocess.run(words, env=environment(PYTHONIOENCODING="ascii"), cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"+-" in done.stdout


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", b"1 +- 2 -> \\xe9"), ("latin-1", b"1 \xb1 2 -> \xe9"), ("cp437", b"1 \xf1 2 -> \x82")],
)
def test_letters_that_are_spelt_out(tmp_path, encoding, shown):
    with (tmp_path / "out").open("w", encoding=encoding) as opened:
        terminal.codecs.register_error("jmeta.plain", terminal._plain)
        lasting = terminal.lasting(opened)
        print("1 ± 2 → é", file=lasting, flush=True)
    assert (tmp_path / "out").read_bytes() == shown + b"\n"


@pytest.mark.parametrize("seconds", [0.02, *slow(0.0, 0.3)])
def test_ctrl_c_twice_is_one_line(tmp_path, start_process, seconds):
    process = start_process("jmeta", "train", *LONG, "--run-dir", tmp_path)
    wait_for_checkpoint_after(0, tmp_path / "seed_7", process)
    process.send_signal(signal.SIGINT)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    status, output = ended(process)
    assert status in (130, -signal.SIGINT), output  # the second may come when Python has gone
    assert "Traceback" not in output, output
    assert "interrupted" in output


def test_no_home_and_a_user_whom_nobody_knows(tmp_path):
    """As in a container that is started with any number for its user."""
    stranger = ["unshare", "-U", "--map-user=12345"]
    if not shutil.which("unshare") or subprocess.run([*stranger, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us be another user")
    without = [*stranger, "env", "-u", "HOME", sys.executable, "-m", "jmeta"]
    status, output = ran([*without, "train", *TINY, "--run-dir", tmp_path / "run"])
    assert status == 0, output
    status, output = ran([*without, "evaluate", tmp_path / "run"])
    assert status == 0, output
    status, output = ran([*without, "evaluate", "~/run"])
    assert status == 1
    assert "there is no home folder; set HOME" in the_error(output)


def test_a_disk_without_names_left_is_one_line(tmp_path):
    mount = ["unshare", "-Urm", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*mount, "mount -t tmpfs none /mnt"], capture_output=True).returncode
    ):
        pytest.skip("this machine does not let us mount a small file system")
    for names in (3, 20):
        small = tmp_path / str(names)
        small.mkdir()
        words = [sys.executable, "-m", "jmeta", "train", *TINY, "--run-dir", str(small / "run")]
        status, output = ran([*mount, f'mount -t tmpfs -o nr_inodes={names} none "{small}" && exec "$@"', "sh", *words])
        assert status == 1, output
        assert "No space left on device" in the_error(output)
        assert output.rstrip().splitlines()[-1] == the_error(output), output  # nothing below it


WRITES_THAT_END_LATE = """
import asyncio, gc, tensorstore
from jmeta.runs import terminal

class Broken:
    def __del__(self):
        raise RuntimeError("of the user")

async def wait_for(future):
    await future

terminal.prepare()
promise, late = tensorstore.Promise.new()
loop = asyncio.new_event_loop()
failed = loop.create_task(wait_for(late))
loop.call_soon(loop.stop)
loop.run_forever()
loop.close()
promise.set_exception(OSError("no space"))
del failed, loop
gc.collect()
del promise, late
Broken()
"""


def test_what_a_failed_checkpoint_left_to_other_threads_is_not_heard():
    status, output = ran([sys.executable, "-c", WRITES_THAT_END_LATE])
    assert status == 0
    assert output.count("Error") == 1, output
    assert "RuntimeError: of the user" in output


def test_what_load_run_is_given_instead_of_a_run(run, tmp_path):
    assert evaluate.load_run(str(run / "seed_0")).recipe.name == "blobs_protonet"
    with pytest.raises(ValueError, match=rf"seeds' runs \(seed_0\); pass that of one, such as {run}/seed_0"):
        evaluate.load_run(run)
    with pytest.raises(ValueError, match="there is no folder .*nowhere; pass the folder of one seed's run"):
        evaluate.load_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a run folder: there is no config.json in it"):
        evaluate.load_run(tmp_path)
    with pytest.raises(ValueError, match="is an address, not a folder"):
        evaluate.load_run("gs://bucket/run/seed_0")
