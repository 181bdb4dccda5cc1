"""Tiny recipes, and processes to run and kill."""

import dataclasses
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from jmeta.runs import Experiment, recipes
from jmeta.runs.recipes import Recipe

from .commands import MY_IMAGES, ROOT, environment, write_images
from .jobs import OPTIONS


class Tiny(NamedTuple):
    """A recipe with options that make it a run of a second, mostly compilation."""

    recipe: Recipe
    options: Any

    def experiment(self) -> Experiment:
        return self.recipe.build(self.options)

    def but(self, **changes: Any) -> "Tiny":
        """With other options."""
        return self._replace(options=dataclasses.replace(self.options, **changes))

    def trained(self, **changes: Any) -> "Tiny":
        """With other options of `training`."""
        return self.but(training=dataclasses.replace(self.options.training, **changes))


def tiny(name: str, **changes: Any) -> Tiny:
    recipe = recipes.load(name)
    options = recipe.options()
    training = dataclasses.replace(
        options.training, num_steps=60, tasks_per_step=4, steps_per_dispatch=10, evaluate_every=20, num_valid_tasks=10
    )
    testing = dataclasses.replace(options.testing, num_tasks=10, tasks_at_once=5)
    return Tiny(recipe, dataclasses.replace(options, training=training, testing=testing, **changes))


@pytest.fixture(autouse=True)
def compilation_cache_of_the_tests(monkeypatch):
    """A command that runs in this process leaves it where it is."""
    monkeypatch.setattr("jmeta.runs.console.use_compilation_cache", lambda: None)


@pytest.fixture
def nothing_is_painted(monkeypatch):
    """Pictures are made, but not rendered, which takes a third of a tiny run's time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **options: path.touch())


@pytest.fixture
def tiny_sinusoid() -> Tiny:
    """MAML on sinusoids."""
    return tiny("sinusoid_maml", train_shots=3, train_queries=4, num_shots=3, num_queries=5, hidden=(8,))


@pytest.fixture
def tiny_blobs() -> Tiny:
    """A prototypical network on blobs."""
    return tiny("blobs_protonet", num_queries=2, num_features=4, widths=(8, 4))


@pytest.fixture
def tiny_folder(tmp_path) -> Tiny:
    """A prototypical network on image files, which the host draws tasks from; a recipe file of one's own."""
    write_images(tmp_path / "images", size=6)
    return tiny(str(MY_IMAGES), path=str(tmp_path / "images"))


@pytest.fixture
def start_process():
    """`(module, *arguments) -> Popen` with captured output; whatever still runs at the end is killed.

    `-c` and code may take the place of the module.
    """
    started = []

    def start(module, *arguments):
        command = [sys.executable, *(["-m"] if module != "-c" else []), module, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def eight_threads():
    """The size of XLA's pool in all processes that are started: whatever this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPROC", "8")
        patch.setenv("JAX_PLATFORMS", "cpu")
        yield


@pytest.fixture
def start(eight_threads, start_process):
    """`(run folder, number of processes, devices of each) -> process` of a job; without numbers, one that is alone."""

    def start(folder, num_processes=None, num_devices=1):
        words = ["train", *OPTIONS, "--run-dir", folder]
        before = [] if num_processes is None else ["launch", "--processes", num_processes, "--devices", num_devices]
        return start_process("jmeta", *before, *words)

    return start
