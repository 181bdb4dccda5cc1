"""Folders that a run cannot go on in, and mistakes that one process alone sees: one line each, and exit status 1."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from jmeta.runs import folder as run_folder
from jmeta.runs import recipes
from jmeta.runs.launch import EXIT_MISTAKE, environment_of, free_port
from tests.test_checkpoints_malicious import forge

from .commands import MY_IMAGES, ROOT, children, ended, jmeta, the_error, wait_for_end, write_images
from .jobs import OPTIONS, command, damage, flipped, saved, truncated

pytestmark = pytest.mark.usefixtures("eight_threads")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has ended early: it is gone on with by other numbers of steps."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jmeta.runs.console.use_compilation_cache", lambda: None)
        patch.setattr("jmeta.runs.loop.is_finished", lambda state, training: int(state.meta.step) >= 300)
        assert jmeta("train", *OPTIONS, "--run-dir", folder) == 0
    return folder


@pytest.fixture
def halfway(trained, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(trained, tmp_path / "run")


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
    jmeta("train", *OPTIONS, "--hidden", "8", "--run-dir", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sign_another_format, "is of format 3, and this version of jmeta reads format 2"),
        (change_the_recipe, "holds a run with other options (recipe was blobs_protonet, is sinusoid_maml)"),
        (change_the_network, "holds a run with other options (hidden was [8], is [64, 64])"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_checkpoints_of_something_else_are_refused(halfway, capfd, change, message):
    change(halfway)
    before = capfd.readouterr()
    if change is change_the_network:
        assert "with the configuration that saved it, or choose another folder" in the_error(before.err)
    assert jmeta("train", *OPTIONS, "--run-dir", halfway) == EXIT_MISTAKE
    assert message in the_error(capfd.readouterr().err)


@contextlib.contextmanager
def without_rights():
    """Nobody's, where we are the one who may do all; the recipe is found before, as our sources may be private."""
    is_root = os.geteuid() == 0
    recipe = recipes.load("sinusoid_maml")
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recipes, "load", lambda name: recipe)
            yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_folder_without_permission_is_one_line(tmp_path, capfd, mode):
    (tmp_path / "file").write_text("")
    assert jmeta("train", *OPTIONS, "--run-dir", tmp_path / "file") == EXIT_MISTAKE  # all is imported from here on
    capfd.readouterr()
    folder = tmp_path / "theirs"
    folder.mkdir(mode=mode)
    with without_rights():
        status = jmeta("train", *OPTIONS, "--run-dir", folder / "run")
    assert status == EXIT_MISTAKE
    assert re.search("error: .*Permission denied: .*theirs", the_error(capfd.readouterr().err))


@pytest.mark.parametrize("name", ["file", "file/run", "dangling"])
def test_what_is_no_folder_is_one_line(tmp_path, capfd, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "nowhere")
    assert jmeta("train", *OPTIONS, "--run-dir", tmp_path / name) == EXIT_MISTAKE
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
    options = recipes.load("blobs_protonet").options()
    run_folder.write_config(folder / "seed_0", "blobs_protonet", options, None, is_ours=True)
    return contextlib.nullcontext()


@pytest.mark.parametrize(
    ("do", "message"),
    [
        pytest.param(lock, "is being written by process", marks=pytest.mark.slow),
        (begin_another_run, "holds a run with other options (recipe was blobs_protonet"),
        pytest.param(put_a_folder_for_the_log, "Is a directory", marks=pytest.mark.slow),
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
    words = [sys.executable, "-m", "jmeta", "train", str(MY_IMAGES), "--path", "images"]
    for status, output in two_that_nobody_launched([*words, "--run-dir", str(tmp_path / "run")], (has, lacks)):
        assert status == EXIT_MISTAKE, output
        assert "images" in the_error(output)
