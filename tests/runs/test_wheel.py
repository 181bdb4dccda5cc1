"""The wheel by itself, in an environment and an empty folder of its own: our recipes, and a recipe file of a user's."""

import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile

import jax
import numpy as np
import pytest

from jmeta.runs import evaluate

from .. import workers

ROOT = pathlib.Path(__file__).parents[2]
PARTS = ("pyproject.toml", "setup.py", "setup.cfg", "README.md", "LICENSE", "jmeta", "configs")
MINE = '''"""MAML on sinusoids, in a user's own file."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs, tasks


@dataclass(frozen=True)
class Options:
    """My own recipe."""

    inner_lr: float = 0.01
    training: runs.Training = runs.Training(
        num_steps=3000, tasks_per_step=2, steps_per_dispatch=5, evaluate_every=1000, checkpoint_every=200
    )
    testing: runs.Testing = runs.Testing(num_tasks=10)


def build(options: Options) -> runs.Experiment:
    sample = tasks.sinusoid(num_shots=3, num_queries=3)
    network, inner = models.mlp([4, 1]), optax.sgd(options.inner_lr)
    return runs.Experiment(
        learner=learners.maml(network, losses.squared_error, inner, num_steps=1),
        loss_fn=losses.squared_error,
        source=tasks.Source(lambda: sample, sample, sample, "waves", lambda num_tasks: f"waves, {num_tasks} tasks"),
        optimizer=optax.adam(1e-3),
        metric="loss",
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left behind in the clone."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    subprocess.run(["cp", "-r", *(str(ROOT / part) for part in PARTS), str(copy)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(built)]
    subprocess.run([*pip, str(copy)], check=True)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The interpreter of an environment that has the wheel and, from ours, what the wheel depends on."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = folder.glob("lib/*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files do not count
    return python


@pytest.fixture(scope="module")
def command(installed, tmp_path_factory):
    """`(words) -> Popen` in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "mine.py").write_text(MINE)
    environment = {**os.environ, **workers.quick_environment(), "JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONPATH", None)

    def start(*words):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(list(map(str, words)), cwd=folder, env=environment, **pipes)

    start.folder, start.jmeta, start.python = folder, installed.with_name("jmeta"), installed
    return start


def output_of(process, status=0):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == status, output
    return output


def test_nothing_but_jmeta_is_at_the_top_level(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"jmeta"}
        recipes = [name for name in archive.namelist() if name.startswith("jmeta/recipes/")]
    ours = [f"jmeta/recipes/{path.name}" for path in (ROOT / "configs").glob("*.py")]
    assert sorted(recipes) == sorted(ours)


def test_our_recipes_are_listed_and_train(command):
    listed = output_of(command(command.jmeta, "recipes"))
    assert "glyphs_protonet " in listed
    words = ["--training.num-steps", "2", "--training.steps-per-dispatch", "1", "--training.evaluate-every", "2"]
    words += ["--training.num-valid-tasks", "4", "--train-ways", "5", "--num-filters", "4", "--run-dir", "ours"]
    trained = output_of(command(command.jmeta, "train", "glyphs_protonet", *words))
    assert "next: jmeta evaluate ours" in trained
    assert (command.folder / "ours" / "seed_0" / "learning_curve.png").is_file()


def test_a_users_recipe_is_trained_killed_resumed_and_evaluated(command):
    output_of(command(command.python, "mine.py", "--inner-lr", "0.1", "--run-dir", "whole"))
    words = (command.jmeta, "train", "./mine.py", "--inner-lr", "0.1", "--run-dir", "killed")
    process = command(*words)
    until = time.monotonic() + 240
    while not list(command.folder.glob("killed/seed_0/checkpoints/step_*")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before the first checkpoint was seen"
    assert "resumed from step" in output_of(command(*words))
    mine = str(command.folder / "mine.py")
    whole, killed = (
        evaluate.load_run(command.folder / run / "seed_0", mine).meta_params for run in ("whole", "killed")
    )
    jax.tree.map(np.testing.assert_array_equal, whole, killed)
    assert "waves, 10 tasks" in output_of(command(command.jmeta, "evaluate", "killed", "--recipe", "./mine.py"))
