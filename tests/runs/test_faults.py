"""What breaks under a run, really broken: processes, disks, checkpoints, folders, numbers; see docs/reliability.md."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from experiments import recipes, run_folder, train
from experiments.launch import EXIT_LOST, EXIT_MISTAKE, EXIT_PREEMPTED, environment_of, free_port
from jmeta import checkpoints
from tests.experiments.conftest import ROOT, ended, ran, write_images
from tests.experiments.test_launch import children, wait_for_end
from tests.experiments.test_resume import content, wait_for_checkpoint_after
from tests.test_checkpoints_malicious import forge

# Eight blocks, and one size of XLA's pool of threads: the same bits for any number of processes and devices.
OPTIONS = [
    "sinusoid_maml",
    *shlex.split("--training.tasks-per-step 8 --training.num-blocks 8 --training.num-valid-tasks 10 --model.hidden 64"),
    *shlex.split("64 --data.num-shots 3 --training.num-steps 2000 --training.steps-per-dispatch 20"),
    *shlex.split("--training.evaluate-every 500 --training.checkpoint-every 100"),
]
FILE_BYTES, DISK_BYTES = 14_000, 50_000  # the log fits, and no checkpoint does
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (int(sys.argv[1]),))
os.execv(sys.argv[2], sys.argv[2:])
"""
MOUNT = ["unshare", "-Urm", "sh", "-c"]


@pytest.fixture(scope="module", autouse=True)
def eight_threads():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPROC", "8")
        patch.setenv("JAX_PLATFORMS", "cpu")
        yield


@pytest.fixture
def start(eight_threads, start_process):
    """`(run folder, number of processes, devices of each) -> process`; without numbers, one that is alone."""

    def start(folder, num_processes=None, num_devices=1):
        words = ["experiments.train", *OPTIONS, "--run-dir", folder]
        if num_processes is None:
            return start_process(*words)
        return start_process("experiments.launch", "--processes", num_processes, "--devices", num_devices, *words)

    return start


def command(folder):
    """Of a process that is alone, for `subprocess`."""
    return [sys.executable, "-m", "experiments.train", *OPTIONS, "--run-dir", str(folder)]


def the_error(output, *, is_quiet=True):
    """What is wrong, in one line; if quiet, with nothing around it that looks like an error."""
    assert not is_quiet or "Traceback" not in output, output
    (line,) = (line for line in output.splitlines() if re.match(r"(\[\d+\] )?error: ", line))
    return line


@pytest.fixture(scope="module")
def whole(eight_threads, tmp_path_factory):
    """What a run that nobody disturbs comes to."""
    folder = tmp_path_factory.mktemp("whole")
    status, output = ran(command(folder))
    assert status == 0, output
    return content(folder / "seed_0")


@pytest.fixture(scope="module")
def asked_to_leave(whole, tmp_path_factory):
    """`(folder, exit status, output)` of two processes whose launcher got SIGTERM."""
    folder = tmp_path_factory.mktemp("left")
    words = [*shlex.split("experiments.launch --processes 2 --devices 1 experiments.train"), *OPTIONS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([sys.executable, "-m", *words, "--run-dir", str(folder)], cwd=ROOT, **pipes) as launcher:
        wait_for_checkpoint_after(200, folder / "seed_0", launcher)
        launcher.terminate()
        status, output = ended(launcher)
    return folder, status, output


@pytest.fixture
def halfway(asked_to_leave, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(asked_to_leave[0], tmp_path / "run")


def saved(folder):
    return checkpoints.steps(folder / "seed_0" / "checkpoints")


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_job_which_goes_on_in_another_layout(start, whole, tmp_path):
    for rank in (2, 0):
        launcher = start(tmp_path, 4)
        pids = children(launcher, 4)
        last = max(saved(tmp_path), default=0)
        wait_for_checkpoint_after(last, tmp_path / "seed_0", launcher)
        os.kill(pids[rank], signal.SIGKILL)
        began = time.monotonic()
        status, output = ended(launcher)
        assert status == EXIT_LOST, output
        assert time.monotonic() - began < 30
        assert f"process {rank} of 4 was killed by signal 9 (SIGKILL); stopping the others" in output
        assert output.count(" was killed by signal") == 1
        assert last == 0 or f"resumed from step {last}\n" in output
        wait_for_end(pids)
    last = max(saved(tmp_path))
    assert 0 < last < 2000
    status, output = ended(start(tmp_path, 2, 2))
    assert status == 0, output
    assert f"resumed from step {last}\n" in output
    assert content(tmp_path / "seed_0") == whole


@pytest.mark.slow
def test_sigterm_saves_the_next_dispatch_of_several_and_of_one(asked_to_leave, start, halfway, whole):
    _, status, output = asked_to_leave
    assert status == EXIT_PREEMPTED, output
    assert the_error(output).startswith(f"error: asked to leave; saved at step {max(saved(halfway))}, and the same")
    process = start(halfway)
    wait_for_checkpoint_after(max(saved(halfway)), halfway / "seed_0", process)
    process.terminate()
    status, output = ended(process)
    assert status == EXIT_PREEMPTED, output
    assert the_error(output).startswith(f"error: asked to leave; saved at step {max(saved(halfway))}, and the same")
    status, output = ended(start(halfway))
    assert status == 0, output
    assert content(halfway / "seed_0") == whole


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_the_run_and_leaves_the_last_checkpoint(halfway, start, whole):
    before = saved(halfway)
    status, output = ran([sys.executable, "-c", LIMITED, str(FILE_BYTES), *command(halfway)])
    assert status == EXIT_MISTAKE, output
    assert "File too large" in the_error(output, is_quiet=False)  # TensorStore's threads tell of theirs
    assert saved(halfway) == before
    status, output = ended(start(halfway))
    assert status == 0, output
    assert f"resumed from step {before[-1]}\n" in output
    assert content(halfway / "seed_0") == whole


TWICE_ON_A_SMALL_DISK = """
import os, pathlib, shutil, subprocess, sys

def steps():
    return sorted(path.name for path in pathlib.Path(small, "run/seed_0/checkpoints").glob("step_*"))

folder, small, *command = sys.argv[1:]
shutil.copytree(folder, f"{small}/run")
filler, room = pathlib.Path(small, "filler"), int(os.environ["ROOM"])
filler.write_bytes(bytes(os.statvfs(small).f_bavail * os.statvfs(small).f_frsize - room))
print("status", subprocess.run(command).returncode, steps(), flush=True)
filler.unlink()
print("status", subprocess.run(command).returncode, flush=True)
shutil.rmtree(folder)
shutil.copytree(f"{small}/run", folder)
"""


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(halfway, whole, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if (
        not shutil.which("unshare")
        or subprocess.run([*MOUNT, "mount -t tmpfs none /mnt"], capture_output=True).returncode
    ):
        pytest.skip("this machine does not let us mount a small file system")
    before = saved(halfway)
    mounted = f'mount -t tmpfs -o size=2m none "{small}" && exec "$@"'
    words = [sys.executable, "-c", TWICE_ON_A_SMALL_DISK, halfway, small, *command(small / "run")]
    status, output = ran([*MOUNT, mounted, "sh", *words], env={**os.environ, "ROOM": str(DISK_BYTES)})
    assert status == 0, output
    assert "No space left on device" in the_error(output, is_quiet=False)
    assert f"status {EXIT_MISTAKE} {[f'step_{step:08d}' for step in before]}\n" in output
    assert "status 0\n" in output
    assert content(halfway / "seed_0") == whole


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def damage(folder, step, how):
    """The largest file of a checkpoint: its arrays."""
    files = [path for path in (folder / "seed_0" / "checkpoints" / f"step_{step:08d}").rglob("*") if path.is_file()]
    how(max(files, key=lambda path: path.stat().st_size))


@pytest.mark.slow
def test_damaged_checkpoints_are_passed_over(halfway, start, whole):
    *_, third, second, first = saved(halfway)
    damage(halfway, first, truncated)
    damage(halfway, second, flipped)
    status, output = ended(start(halfway))
    assert status == 0, output
    for step in (first, second):
        assert re.search(rf"RuntimeWarning: the checkpoint .*step_{step:08d} is damaged and is passed over", output)
    assert f"resumed from step {third}\n" in output
    assert content(halfway / "seed_0") == whole


def test_several_processes_refuse_a_folder_of_damaged_checkpoints(halfway, start):
    for step, how in zip(saved(halfway), [truncated, *[flipped] * 9], strict=False):
        damage(halfway, step, how)
    launcher = start(halfway, 2)
    pids = children(launcher, 2)
    status, output = ended(launcher)
    assert status == EXIT_MISTAKE, output
    assert f"error: all {len(saved(halfway))} checkpoints in " in the_error(output)
    wait_for_end(pids)


def sign_another_format(folder):
    newest = folder / "seed_0" / "checkpoints" / f"step_{saved(folder)[-1]:08d}"
    forge(newest, lambda manifest: {**manifest, "format": 3}, files=False)


def change_the_recipe(folder):
    path = folder / "seed_0" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "recipe": "blobs_protonet"}))


def change_the_network(folder):
    """As if the folder were of another run, with the checkpoints of this one."""
    path = folder / "seed_0" / "config.json"
    path.unlink()
    train.main([*OPTIONS, "--model.hidden", "8", "--run-dir", str(folder)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sign_another_format, "is of format 3, and this version of jmeta reads format 2"),
        (change_the_recipe, "holds a run with other options (recipe was blobs_protonet, is sinusoid_maml)"),
        (change_the_network, "holds a run with other options (model.hidden was [8], is [64, 64])"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_checkpoints_of_something_else_are_refused(halfway, capfd, change, message):
    change(halfway)
    before = capfd.readouterr()
    if change is change_the_network:
        assert "with the configuration that saved it, or choose another folder" in the_error(before.err)
    assert train.main([*OPTIONS, "--run-dir", str(halfway)]) == EXIT_MISTAKE
    assert message in the_error(capfd.readouterr().err)


@contextlib.contextmanager
def without_rights():
    """Nobody's, where we are the one who may do all; recipes are found before, as our sources may be private."""
    is_root = os.geteuid() == 0
    names = recipes.names()
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recipes, "names", lambda: names)
            yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_folder_without_permission_is_one_line(tmp_path, capfd, mode):
    (tmp_path / "file").write_text("")
    assert train.main([*OPTIONS, "--run-dir", str(tmp_path / "file")]) == EXIT_MISTAKE  # all is imported from here on
    capfd.readouterr()
    folder = tmp_path / "theirs"
    folder.mkdir(mode=mode)
    with without_rights():
        status = train.main([*OPTIONS, "--run-dir", str(folder / "run")])
    assert status == EXIT_MISTAKE
    assert re.search("error: .*Permission denied: .*theirs", the_error(capfd.readouterr().err))


@pytest.mark.parametrize("name", ["file", "file/run", "dangling"])
def test_what_is_no_folder_is_one_line(tmp_path, capfd, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "nowhere")
    assert train.main([*OPTIONS, "--run-dir", str(tmp_path / name)]) == EXIT_MISTAKE
    assert re.search("error: .*(Not a directory|File exists)", the_error(capfd.readouterr().err))


def test_several_processes_refuse_a_folder_that_is_being_written(tmp_path, start):
    with run_folder.locked(tmp_path / "seed_0"):
        launcher = start(tmp_path, 2)
        pids = children(launcher, 2)
        began = time.monotonic()
        status, output = ended(launcher)
        assert time.monotonic() - began < 90  # most of it is the start of two processes
    assert status == EXIT_MISTAKE, output
    assert f"is being written by process {os.getpid()}; wait for it" in the_error(output)
    wait_for_end(pids)


def lock(folder):
    return run_folder.locked(folder / "seed_0")


def put_a_folder_for_the_log(folder):
    (folder / "seed_0" / "metrics.jsonl").mkdir(parents=True)
    return contextlib.nullcontext()


def begin_another_run(folder):
    (folder / "seed_0").mkdir()
    run_folder.write_config(folder / "seed_0", "blobs_protonet", recipes.load("blobs_protonet"), None)
    return contextlib.nullcontext()


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lock, "is being written by process"),
        (begin_another_run, "holds a run with other options (recipe was blobs_protonet"),
        (put_a_folder_for_the_log, "Is a directory"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_that_process_0_alone_can_see_is_one_of_each(tmp_path, do, message):
    with do(tmp_path):
        for status, output in two_that_nobody_launched(command(tmp_path), (ROOT, ROOT)):
            assert status == EXIT_MISTAKE, output
            assert message in the_error(output)


def two_that_nobody_launched(words, folders):
    """`(exit status, output)` of two processes of one job, each started in its folder.

    No launcher hides what they end with: a scheduler would start the job again for the status of the others.
    """
    address = f"127.0.0.1:{free_port()}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with contextlib.ExitStack() as stack:
        processes = []
        for rank, folder in enumerate(folders):
            environment = {**environment_of(rank, 2, 1, address), "PYTHONPATH": str(ROOT)}
            processes.append(stack.enter_context(subprocess.Popen(words, env=environment, cwd=folder, **pipes)))
        return [ended(process) for process in processes]


def test_a_mistake_that_another_process_alone_can_see_is_one_of_each(tmp_path):
    """Data that one machine lacks."""
    has, lacks = tmp_path / "has", tmp_path / "lacks"
    write_images(has / "images", size=8)
    lacks.mkdir()
    words = [sys.executable, "-m", "experiments.train", "folder_protonet", "--data.path", "images"]
    words += shlex.split("--data.train-ways 2 --data.num-queries 2 --testing.num-ways 2")
    for status, output in two_that_nobody_launched([*words, "--run-dir", str(tmp_path / "run")], (has, lacks)):
        assert status == EXIT_MISTAKE, output
        assert "images" in the_error(output)


@pytest.mark.slow
def test_a_divided_state_ends_in_the_same_bits(tmp_path, start_process):
    """A layer of 256 times 256 numbers is divided among two processes, which are asked to leave and start again."""
    words = ["--model.hidden", "256", "256", "--training.num-steps", "400"]
    status, output = ran([*command(tmp_path / "whole"), *words, "--mesh", "tasks=1"])
    assert status == 0, output
    launched = [*shlex.split("experiments.launch --processes 2 --devices 2 experiments.train"), *OPTIONS, *words]
    launched += ["--mesh", "tasks=2,model=2", "--run-dir", tmp_path / "divided"]
    launcher = start_process(*launched)
    wait_for_checkpoint_after(99, tmp_path / "divided" / "seed_0", launcher)
    launcher.terminate()
    assert ended(launcher)[0] == EXIT_PREEMPTED
    assert 100 <= max(saved(tmp_path / "divided")) < 400
    status, output = ended(start_process(*launched))
    assert status == 0, output
    assert content(tmp_path / "divided" / "seed_0") == content(tmp_path / "whole" / "seed_0")


@pytest.mark.slow
def test_several_processes_give_up_together_and_name_the_tasks(tmp_path, start_process):
    launch = shlex.split("experiments.launch --processes 2 --devices 1 experiments.train")
    status, output = ended(start_process(*launch, *OPTIONS, "--method.inner-lr", "1e30", "--run-dir", tmp_path))
    assert status == EXIT_MISTAKE, output
    assert "meta-steps 0 to 19 were skipped" in the_error(output)
    assert "In step 19 all 8 tasks are at fault" in the_error(output)
    assert checkpoints.steps(tmp_path / "seed_0" / "diverged") == [20]
    status, output = ended(start_process("experiments.replay", tmp_path / "seed_0", "--step", "19"))
    assert status == 0, output
    assert "0 of 8 tasks are finite" in output


@pytest.mark.slow
def test_one_task_that_is_not_finite_skips_the_same_steps_everywhere(eight_threads, start_process):
    script = "tests.experiments.nan_process"
    alone = start_process(script)
    status, output = ended(alone)
    assert status == 0, output
    (expected,) = results(output)
    assert 1 < expected["num_skipped"] == len(expected["skipped"]) < 50
    assert expected["last_skipped_step"] == expected["skipped"][-1]
    assert expected["is_finite"]
    status, output = ended(start_process("experiments.launch", "--processes", 2, "--devices", 2, script))
    assert status == 0, output
    found = results(output)
    assert sorted(result["process"] for result in found) == [0, 1]
    assert all({**result, "process": 0} == expected for result in found)


def results(output):
    return [json.loads(line) for line in re.findall(r"^(?:\[1\] )?(\{.*\})$", output, re.MULTILINE)]


def test_the_tests_that_the_documentation_names_are_there():
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`([a-z_]+\.py)::(test_\w+)`", text)
    assert len(named) > 10
    for file, test in named:
        (path,) = pathlib.Path(ROOT, "tests").rglob(file)
        assert f"def {test}(" in path.read_text(), f"{file}::{test}"
