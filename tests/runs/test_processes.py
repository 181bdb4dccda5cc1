"""Where processes belong, how one that is alone leaves, and the job files for clusters; more of it in `test_launch`."""

import contextlib
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from jmeta.checkpoints.cluster import SilentProcessError
from jmeta.runs import console, launch, processes, recipes, train

from .commands import ROOT

JOBS = ROOT / "experiments" / "jobs"
SHELL_FILES = [JOBS / "slurm.sbatch", JOBS / "tpu_pod.sh"]
MANIFEST = JOBS / "gke.yaml"
VARIABLES = (processes.ADDRESS, processes.NUM_PROCESSES, processes.PROCESS_ID)


@pytest.fixture
def launched(monkeypatch):
    """Sets what a launcher would, all but what is None."""

    def set_variables(address, num_processes, process_id):
        for name, value in zip(VARIABLES, (address, num_processes, process_id), strict=True):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    return set_variables


def test_a_script_that_runs_alone_joins_nobody(launched):
    launched(None, None, None)
    processes.join(detect=False)
    assert processes.is_main()


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ((None, "2", "0"), "no JAX_COORDINATOR_ADDRESS"),
        (("127.0.0.1:1", None, "0"), "no JMETA_NUM_PROCESSES"),
        (("127.0.0.1:1", "2", None), "no JMETA_PROCESS_ID"),
        (("127.0.0.1:1", "2", "2"), "JMETA_PROCESS_ID=2"),
        (("127.0.0.1:1", "0", "0"), "JMETA_NUM_PROCESSES=0"),
        (("127.0.0.1:1", "two", "0"), "JMETA_NUM_PROCESSES=two"),
        (("127.0.0.1:1", "2", "-1"), "JMETA_PROCESS_ID=-1"),
        (("127.0.0.1", "2", "0"), "JAX_COORDINATOR_ADDRESS=127.0.0.1"),
    ],
)
def test_a_place_that_cannot_be_is_refused(launched, place, found):
    launched(*place)
    with pytest.raises(ValueError, match=f"{re.escape(found)}\\b.*; set all three for each process, or none"):
        processes.join(detect=True)


def test_where_there_is_no_cluster_it_is_said_which_there_might_be(start_process):
    code = "from jmeta.runs import processes\ntry: processes.join(True)\nexcept Exception as e: print(repr(e))"
    process = start_process("-c", code)
    output, _ = process.communicate(timeout=60)
    assert "StoppedError" in output
    assert all(name in output for name in ("Slurm", "Cloud TPU", "Kubernetes", "Open MPI", *VARIABLES))


def job_with_a_free_port():
    """A number of a Slurm job, of which JAX makes that of the port that process 0 listens at."""
    for job in random.sample(range(2**12), 100):
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", 2**16 - 2**12 + job))
            return job
    raise AssertionError("no free port")


def test_processes_that_slurm_starts_find_each_other():
    """By what `srun` tells each of them, and JAX alone."""
    job, pipes = job_with_a_free_port(), {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    told = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    told |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-m", "tests.runs.toy_process", "3"]
    with contextlib.ExitStack() as stack:
        started = []
        for rank in ("0", "1"):
            environment = {**os.environ, **told, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
            process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in started:
            output, _ = process.communicate(timeout=100)
            assert process.returncode == 0, output
            assert "step 30 sum 10" in output  # 1 + 2 + 3 + 4, of two devices each


class AnswerError(Exception):
    """As Kubernetes' client raises."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


def raised_by_jax(text, cause):
    error = RuntimeError(text)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError("no connection"), processes.LostProcessError),
        (raised_by_jax("Kubernetes API Error: 503", AnswerError(503)), processes.LostProcessError),
        (raised_by_jax("Kubernetes API Error: 403", AnswerError(403)), console.StoppedError),
        (raised_by_jax("Retry failed with all attempts exhausted", ValueError()), processes.LostProcessError),
        (RuntimeError("Getting metadata['tpu-env'] failed for 6 tries"), processes.LostProcessError),
        (FileNotFoundError("no service account"), console.StoppedError),
        (ValueError("coordinator_address should be defined"), console.StoppedError),
    ],
    ids=str,
)
def test_a_cluster_that_does_not_answer_may_do_so_another_time(launched, monkeypatch, error, expected):
    def initialize(**place):
        raise error

    launched(None, None, None)
    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(console.StoppedError, match=re.escape(str(error))) as raised:
        processes.join(detect=True)
    assert raised.type is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SilentProcessError("no word from another process"), processes.LostProcessError),
        (TimeoutError("a disk that does not answer"), TimeoutError),
        (RuntimeError("Gloo all-reduce failed"), processes.LostProcessError),
        (RuntimeError("something else"), RuntimeError),
        (ValueError("a mistake"), ValueError),
    ],
    ids=str,
)
def test_a_process_that_hears_nothing_of_another_has_lost_it(monkeypatch, error, expected):
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    with pytest.raises(expected) as raised, processes.preemption():
        raise error
    assert raised.type is expected


def test_sigterm_lets_a_process_save_and_the_second_ends_it():
    before = signal.getsignal(signal.SIGTERM)
    with processes.preemption() as preempted:
        assert not preempted()
        assert signal.getsignal(signal.SIGTERM) != before
        os.kill(os.getpid(), signal.SIGTERM)
        assert preempted()
        assert preempted()
        assert signal.getsignal(signal.SIGTERM) == before
    with processes.preemption() as preempted:
        assert not preempted()
    assert signal.getsignal(signal.SIGTERM) == before


def test_exit_statuses_ask_for_what_their_names_say():
    assert processes.PreemptedError.exit_status == launch.EXIT_PREEMPTED == os.EX_TEMPFAIL
    assert processes.LostProcessError.exit_status == launch.EXIT_LOST
    assert processes.run(lambda arguments: len(arguments), ["one"]) == 1


def assignments_and_command(path):
    """Shell code that prints the words of a file's command for training, one a line."""
    text = path.read_text().replace("\\\n", " ")
    assigned = re.findall(r"^[A-Z_]+=.*$", text, re.MULTILINE)
    command = next(line for line in [*assigned, *text.splitlines()] if "jmeta train " in line)
    name, _, value = command.partition("=") if command in assigned else ("", "", command)
    words = f"${name}" if name else value[value.index("jmeta train") :]
    return "\n".join([*assigned, f"printf '%s\\n' {words}"])


def assert_can_be_parsed(words):
    assert words[:3] == ["jmeta", "train", "glyphs_maml"]
    options, run = train.parse(recipes.load(words[2]), words[3:], program="jmeta train glyphs_maml")
    assert run.distributed
    assert options.training.mesh == run.mesh
    assert run.mesh


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_a_job_file_in_shell_trains(path):
    subprocess.run(["bash", "-n", path], check=True)
    code = assignments_and_command(path)
    extra = ["--training.seed", "3"]
    run = subprocess.run(["bash", "-euc", code, path, *extra], capture_output=True, text=True, check=True)
    words = run.stdout.split()
    assert words[-2:] == extra
    assert_can_be_parsed(words)


def test_slurm_is_asked_for_what_jax_and_the_restart_need():
    lines = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SHELL_FILES[0].read_text(), re.MULTILINE)
    assert len(lines) == SHELL_FILES[0].read_text().count("\n#SBATCH")
    options = dict(lines)
    assert options["signal"] == "TERM@120"  # not B:, which tells only the shell
    assert options["ntasks-per-node"] == options["gpus-per-node"]  # a GPU for each process
    assert options["open-mode"] == "append"
    assert {"nodes", "time", "requeue", "output"} <= set(options)
    assert "gpus-per-task" not in options


@pytest.mark.parametrize(
    ("status", "is_requeued"), [(0, False), (1, False), (2, False), (70, True), (75, True), (137, True)]
)
def test_slurm_is_asked_to_start_again_what_can_go_on(status, is_requeued):
    handling = SHELL_FILES[0].read_text().partition("status=$?\n")[2]
    for count in (1, 2):
        known = f"status={status} SLURM_JOB_ID=8 MAX_RESTARTS=2 SLURM_RESTART_COUNT={count}"
        code = f"{known}\nscontrol() {{ echo asked to $*; }}\n{handling}"
        run = subprocess.run(["bash", "-uc", code], capture_output=True, text=True, check=False)
        assert run.returncode == status
        assert ("asked to requeue 8" in run.stdout) == (is_requeued and count < 2)


def test_kubernetes_is_asked_for_what_jax_and_the_restart_need():
    yaml = pytest.importorskip("yaml")  # comes with flax
    manifest = {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text())}
    job, service, role = (manifest[kind] for kind in ("Job", "Service", "Role"))
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert (service["spec"]["clusterIP"], service["spec"]["selector"]) == (
        "None",
        {"job-name": job["metadata"]["name"]},
    )
    assert pod["serviceAccountName"] == manifest["ServiceAccount"]["metadata"]["name"]
    assert {name for rule in role["rules"] for name in rule["resources"]} == {"pods", "services", "jobs"}
    assert job["spec"]["maxFailedIndexes"] == 0  # the others could not join those that come again
    assert pod["restartPolicy"] == "Never"  # or the policy below is refused
    rules = job["spec"]["podFailurePolicy"]["rules"]
    actions = {status: rule["action"] for rule in rules for status in rule.get("onExitCodes", {}).get("values", [])}
    assert actions == {
        launch.EXIT_MISTAKE: "FailJob",
        launch.EXIT_USAGE: "FailJob",
        launch.EXIT_LOST: "Ignore",
        launch.EXIT_PREEMPTED: "Ignore",
    }
    (container,) = pod["containers"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert_can_be_parsed(shlex.split(container["args"][0])[1:])
    assert f"tasks={job['spec']['completions']}" in container["args"][0]


LATE = """
import sys, time, jax, numpy as np
from jmeta.runs import processes
processes.join(detect=False)
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("tasks", "model"))
if jax.process_index():
    time.sleep(35)
processes.meet(mesh)
print("met")
"""


@pytest.mark.slow
def test_processes_that_are_far_apart_wait_for_each_other(tmp_path):
    """Gloo alone gives them 30 seconds, from which on those in time were lost."""
    (tmp_path / "late.py").write_text(LATE)
    words = [sys.executable, "-m", "jmeta", "launch", "--processes", "2", "--devices", "2", tmp_path / "late.py"]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "met" in done.stdout
