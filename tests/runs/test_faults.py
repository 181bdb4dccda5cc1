"""What breaks under a run, really broken: processes and disks; see docs/reliability.md.

Folders are broken in `test_faults_of_folders`, numbers in `test_faults_of_numbers`.
"""

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

from jmeta.runs.launch import EXIT_LOST, EXIT_MISTAKE, EXIT_PREEMPTED

from .commands import (
    ROOT,
    children,
    content,
    ended,
    environment,
    ran,
    the_error,
    wait_for_checkpoint_after,
    wait_for_end,
)
from .jobs import OPTIONS, command, damage, flipped, saved, truncated

pytestmark = pytest.mark.usefixtures("eight_threads")

FILE_BYTES, DISK_BYTES = 14_000, 50_000  # the log fits, and no checkpoint does
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (int(sys.argv[1]),))
os.execv(sys.argv[2], sys.argv[2:])
"""
MOUNT = ["unshare", "-Urm", "sh", "-c"]


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
    words = [*shlex.split("jmeta launch --processes 2 --devices 1 train"), *OPTIONS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        [sys.executable, "-m", *words, "--run-dir", str(folder)], cwd=ROOT, env=environment(), **pipes
    ) as launcher:
        wait_for_checkpoint_after(200, folder / "seed_0", launcher)
        launcher.terminate()
        status, output = ended(launcher)
    return folder, status, output


@pytest.fixture
def halfway(asked_to_leave, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(asked_to_leave[0], tmp_path / "run")


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
    assert "File too large" in the_error(output)
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
    status, output = ran([*MOUNT, mounted, "sh", *words], env=environment(ROOM=str(DISK_BYTES)))
    assert status == 0, output
    assert "No space left on device" in the_error(output)
    assert f"status {EXIT_MISTAKE} {[f'step_{step:08d}' for step in before]}\n" in output
    assert "status 0\n" in output
    assert content(halfway / "seed_0") == whole


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


@pytest.mark.slow
def test_a_divided_state_ends_in_the_same_bits(tmp_path, start_process):
    """A layer of 256 times 256 numbers is divided among two processes, which are asked to leave and start again."""
    words = ["--hidden", "256", "256", "--training.num-steps", "400"]
    status, output = ran([*command(tmp_path / "whole"), *words, "--mesh", "tasks=1"])
    assert status == 0, output
    launched = [*shlex.split("jmeta launch --processes 2 --devices 2 train"), *OPTIONS, *words]
    launched += ["--mesh", "tasks=2,model=2", "--run-dir", tmp_path / "divided"]
    launcher = start_process(*launched)
    wait_for_checkpoint_after(99, tmp_path / "divided" / "seed_0", launcher)
    launcher.terminate()
    assert ended(launcher)[0] == EXIT_PREEMPTED
    assert 100 <= max(saved(tmp_path / "divided")) < 400
    status, output = ended(start_process(*launched))
    assert status == 0, output
    assert content(tmp_path / "divided" / "seed_0") == content(tmp_path / "whole" / "seed_0")


def test_the_tests_that_the_documentation_names_are_there():
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`([a-z_]+\.py)::(test_\w+)`", text)
    assert len(named) > 10
    for file, test in named:
        files = pathlib.Path(ROOT, "tests").rglob(file)
        assert any(f"def {test}(" in path.read_text() for path in files), f"{file}::{test}"
