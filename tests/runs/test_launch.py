"""Several processes on one machine, really killed, stopped and mistaken.

Launchers are started from the module's file alone, which needs no JAX and begins at once, but where the words after
`jmeta launch` are what is tested.
"""

import os
import re
import signal
import sys
import time

import pytest

from jmeta.runs import launch
from jmeta.runs.launch import EXIT_LOST, EXIT_MISTAKE, EXIT_PREEMPTED, EXIT_USAGE

from .commands import ROOT, children, jmeta, wait_for_end

TOY = ("-m", "tests.runs.toy_process")
FOREVER = "10000"
LAUNCH = (
    f"import sys; sys.path.append({str(ROOT / 'jmeta' / 'runs')!r}); import launch; sys.exit(launch.main(sys.argv[1:]))"
)
ME = "import os, signal, sys, time; me = int(os.environ['JMETA_PROCESS_ID'])"


def running_code(code):
    """A command that runs code: a process without JAX, which starts in no time."""
    return ["-m", "timeit", "-n1", "-r1", f"-s{ME}", code]


@pytest.fixture
def start(start_process):
    """`(number of processes, *command) -> launcher`."""
    return lambda num_processes, *words: start_process("-c", LAUNCH, "--processes", num_processes, *words)


def read_until(launcher, words):
    for line in launcher.stdout:
        if words in line:
            return
    raise AssertionError(f"the launcher ended before {words}")


@pytest.mark.parametrize(("rank", "num_processes"), [(0, 2), (1, 3)])
def test_a_lost_process_is_named_and_ends_the_job(start, rank, num_processes):
    launcher = start(num_processes, *TOY, FOREVER)
    pids = children(launcher, num_processes)
    read_until(launcher, "step 30 sum")
    os.kill(pids[rank], signal.SIGKILL)
    began = time.monotonic()
    output, _ = launcher.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert launcher.returncode == EXIT_LOST
    assert f"process {rank} of {num_processes} was killed by signal 9 (SIGKILL)" in output
    assert output.count(" was killed by signal") == 1
    assert rank == 0 or "error: another process of this job is gone" in output
    wait_for_end(pids)


@pytest.mark.parametrize("told", ["the launcher", "one process"])
def test_sigterm_saves_one_step_of_all(start, told):
    launcher = start(2, "--devices", 2, *TOY, FOREVER)
    pids = children(launcher, 2)
    read_until(launcher, "step 30 sum 10")
    os.kill(launcher.pid if told == "the launcher" else pids[1], signal.SIGTERM)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == EXIT_PREEMPTED, output
    saved = re.findall(r"^(\[1\] )?saved step (\d+)$", output, re.MULTILINE)
    assert sorted(prefix for prefix, _ in saved) == ["", "[1] "]
    assert len({step for _, step in saved}) == 1


def test_a_mistake_of_all_is_told_once(start):
    launcher = start(2, *TOY, FOREVER, -1, "mistake")
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == EXIT_MISTAKE
    assert output.count("no such data") == 1
    assert "process " not in output  # of the launcher


def test_an_exception_in_one_process_is_seen_and_keeps_nobody_waiting(start):
    launcher = start(2, *TOY, FOREVER, 1, "exception")
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == EXIT_MISTAKE
    assert "[1] KeyError: 'exception'" in output
    assert "process 1 of 2 ended with status 1" in output


def test_an_unknown_option_is_told_once(start):
    launcher = start(2, "launch", "--processes", "0", "train")
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == EXIT_USAGE
    assert output.count("--processes: expected a whole number of at least 1, not 0") == 1


def test_who_was_killed_is_named_before_who_was_aborted(start):
    launcher = start(3, *running_code("os.abort() if me < 2 else (time.sleep(0.5), os.kill(os.getpid(), 9))"))
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == EXIT_LOST
    assert "process 2 of 3 was killed by signal 9 (SIGKILL)\n" in output


def test_the_first_of_those_that_were_aborted_is_named(start):
    launcher = start(3, *running_code("me == 1 or time.sleep(1); os.abort()"))
    output, _ = launcher.communicate(timeout=30)
    assert "process 1 of 3 was killed by signal 6 (SIGABRT)\n" in output


def test_whoever_does_not_leave_in_time_is_killed(start):
    deaf = running_code("signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(100)")
    launcher = start(2, "--grace-seconds", "0.2", *deaf)
    pids = children(launcher, 2)
    read_until(launcher, "deaf")
    launcher.terminate()
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == EXIT_LOST
    assert re.search("process .* of 2 did not leave in time; stopping the others", output)
    wait_for_end(pids)


def test_interrupted_twice_it_ends_at_once(start):
    launcher = start(2, *running_code("signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(100)"))
    read_until(launcher, "deaf")
    for _ in range(2):
        launcher.send_signal(signal.SIGINT)
        time.sleep(0.2)  # two of one kind at a time are one
    launcher.communicate(timeout=10)
    assert launcher.returncode == EXIT_LOST


def test_processes_do_not_outlive_a_launcher_that_is_killed(start):
    launcher = start(2, *running_code("time.sleep(100)"))
    pids = children(launcher, 2)
    launcher.kill()
    launcher.communicate(timeout=30)
    wait_for_end(pids)


@pytest.fixture
def flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")


def test_flags_of_xla_are_kept(flags, start):
    launcher = start(2, "--devices", "3", *running_code("me and print(os.environ['XLA_FLAGS'])"))
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 0
    (given,) = [line for line in output.splitlines() if "--xla_cpu_enable_fast_math" in line]
    assert given.startswith("[1] --xla_cpu_enable_fast_math=false --"), output
    assert given.endswith(" --xla_force_host_platform_device_count=3"), output


def test_help_of_the_script_is_told_once(start):
    launcher = start(4, "-m", "timeit", "--help")
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 0
    assert output.count("Tool for measuring execution time") == 1


@pytest.mark.parametrize("words", [["--processes", "0", "train"], ["--processes", "two", "train"], ["train"]])
def test_numbers_that_make_no_job_are_refused(capsys, words):
    with pytest.raises(SystemExit) as caught:
        jmeta("launch", *words)
    assert caught.value.code == EXIT_USAGE
    assert "--processes" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["train", "glyphs_maml", "--seeds", "3"], ["-m", "jmeta", "train", "glyphs_maml", "--seeds", "3"]),
        (["./mine.py", "--inner-lr", "0.1"], ["./mine.py", "--inner-lr", "0.1"]),
        (["./mine.py", "-m", "3"], ["./mine.py", "-m", "3"]),
        (["-m", "package.module", "-m", "3"], ["-m", "package.module", "-m", "3"]),
    ],
)
def test_a_command_of_jmeta_a_script_and_a_module_are_launched(monkeypatch, words, command):
    launched = []
    monkeypatch.setattr(launch, "launch", lambda *arguments: launched.append(arguments) or 0)
    assert jmeta("launch", "--processes", 2, "--devices", 3, *words) == 0
    assert launched == [([sys.executable, *command], 2, 3, 60.0)]


def test_a_script_is_launched_by_the_command(start_process, tmp_path):
    (tmp_path / "script.py").write_text("import os, sys; print(os.environ['JMETA_PROCESS_ID'], sys.argv[1:])")
    launcher = start_process("jmeta", "launch", "--processes", 2, tmp_path / "script.py", "--devices", "3")
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, output
    assert "0 ['--devices', '3']\n" in output
    assert "[1] 1 ['--devices', '3']\n" in output


def test_a_status_that_nobody_knows_is_a_mistake_and_not_started_again(start):
    launcher = start(2, *running_code("me and os._exit(3); time.sleep(100)"))
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == EXIT_MISTAKE
    assert "process 1 of 2 ended with status 3; stopping the others" in output


def test_who_saves_when_another_is_lost_is_not_waited_for(start):
    """It cannot save without the other, and so not within the minute that it was given."""
    code = "signal.signal(15, lambda *_: me and os.kill(os.getpid(), 9)); print('ready', me, flush=True)\n"
    launcher = start(2, *running_code(f"{code}while True: time.sleep(1)"))
    pids = children(launcher, 2)
    for _ in range(2):
        read_until(launcher, "ready ")
    launcher.terminate()
    began = time.monotonic()
    output, _ = launcher.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert launcher.returncode == EXIT_LOST
    assert "process 1 of 2 was killed by signal 9 (SIGKILL); stopping the others" in output
    wait_for_end(pids)
