"""Tiny recipes, and processes to run and kill."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs import blobs_protonet, folder_protonet, sinusoid_maml
from configs.parts import Blobs, Folder, Mlp, Recipe, Sinusoid

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def tiny_sinusoid() -> Recipe:
    """A MAML run of a second, mostly compilation."""
    recipe = sinusoid_maml.RECIPE
    training = dataclasses.replace(
        recipe.training, num_steps=60, tasks_per_step=4, steps_per_dispatch=10, evaluate_every=20, num_valid_tasks=10
    )
    testing = dataclasses.replace(recipe.testing, num_tasks=10, tasks_at_once=5)
    data = Sinusoid(num_shots=3, num_queries=4, num_test_queries=5)
    return dataclasses.replace(recipe, data=data, model=Mlp(hidden=(8,)), training=training, testing=testing)


@pytest.fixture
def tiny_blobs() -> Recipe:
    """A prototypical network on blobs, likewise."""
    recipe = blobs_protonet.RECIPE
    training = dataclasses.replace(
        recipe.training, num_steps=60, tasks_per_step=4, steps_per_dispatch=10, evaluate_every=20, num_valid_tasks=10
    )
    testing = dataclasses.replace(recipe.testing, num_tasks=10, tasks_at_once=5)
    data = Blobs(num_queries=2, num_features=4)
    return dataclasses.replace(recipe, data=data, model=Mlp(hidden=(8, 4)), training=training, testing=testing)


@pytest.fixture
def tiny_folder(tmp_path, tiny_blobs) -> Recipe:
    """A prototypical network on image files, which the host draws tasks from."""
    write_images(tmp_path / "images", size=6)
    data = Folder(str(tmp_path / "images"), size=None, train_ways=2, num_queries=2, host_fed=True)
    testing = dataclasses.replace(tiny_blobs.testing, num_ways=2)
    return dataclasses.replace(
        folder_protonet.RECIPE, data=data, model=Mlp(hidden=(8, 4)), training=tiny_blobs.training, testing=testing
    )


@pytest.fixture
def start_process():
    """`(module, *arguments) -> Popen` with captured output; whatever still runs at the end is killed."""
    started = []
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def start(module, *arguments):
        command = [sys.executable, "-m", module, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def write_images(folder, size):
    """Nine classes of four square images of noise, each class in a folder of its own."""
    rng = np.random.default_rng(0)
    for name in "abcdefghi":
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (size, size), np.uint8)).save(folder / name / f"{i}.png")


def ran(words, timeout=240, **options):
    """`(exit status, output)`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(words, cwd=ROOT, timeout=timeout, check=False, **pipes, **options)
    return done.returncode, done.stdout


def ended(process):
    """`(exit status, output)`, after a minute or two at most."""
    output, _ = process.communicate(timeout=150)
    return process.returncode, output
