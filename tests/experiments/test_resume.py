"""A run killed at any moment, and started again, ends in the same bits as one never stopped."""

import json
import random
import shlex
import signal
import time

import jax
import numpy as np
import pytest

from experiments import evaluate, loop, run_folder
from experiments.build import build
from jmeta import checkpoints

# Checkpoints take most of this run's time, so that most kills come in the middle of one.
OPTIONS = shlex.split(
    "sinusoid_maml --data.num-shots 3 --model.hidden 8 8 --training.num-steps 1000 --training.tasks-per-step 4 "
    "--training.steps-per-dispatch 20 --training.evaluate-every 60 --training.checkpoint-every 20 "
    "--training.num-valid-tasks 10 --training.seed 7"
)
NUM_KILLS = 3


def content(folder):
    """The run's last state as bytes, its metrics without times, and the steps of its checkpoints."""
    name, recipe, best = evaluate.load_run(folder)

    step, state = checkpoints.restore(folder / "checkpoints", loop.init_state(build(recipe), 7))
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in run_folder.read_metrics(folder)]
    bits = [np.asarray(leaf).tobytes() for leaf in [*leaves, *jax.tree.leaves(best)]]
    return name, step, bits, metrics, checkpoints.steps(folder / "checkpoints")


def wait_for_checkpoint_after(step, folder, process):
    """Return when there is a checkpoint later than `step`, or the process has ended."""
    until = time.monotonic() + 60
    while process.poll() is None and not any(s > step for s in checkpoints.steps(folder / "checkpoints")):
        assert time.monotonic() < until, "no checkpoint within a minute"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_is_killed_ends_in_the_same_bits(tmp_path, start_process):
    whole = start_process("experiments.train", *OPTIONS, "--run-dir", tmp_path / "whole")
    output, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, output

    moments = random.Random(0)
    folder = tmp_path / "killed" / "seed_7"
    num_kills = 0
    for _ in range(NUM_KILLS):
        last = max(checkpoints.steps(folder / "checkpoints"), default=0)
        process = start_process("experiments.train", *OPTIONS, "--run-dir", tmp_path / "killed")
        wait_for_checkpoint_after(last, folder, process)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        num_kills += process.returncode == -signal.SIGKILL
    assert num_kills == NUM_KILLS  # none had ended by itself

    resumed = start_process("experiments.train", *OPTIONS, "--run-dir", tmp_path / "killed")
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert content(folder) == content(tmp_path / "whole" / "seed_7")
    sessions = [json.loads(line) for line in (folder / "sessions.jsonl").read_text().splitlines()]
    assert len(sessions) == NUM_KILLS + 1
    assert sessions[-1]["resumed_from"] > 0


@pytest.mark.slow
def test_two_runs_cannot_write_one_folder(tmp_path, start_process):
    first = start_process("experiments.train", *OPTIONS, "--run-dir", tmp_path)
    wait_for_checkpoint_after(0, tmp_path / "seed_7", first)
    assert first.poll() is None
    second = start_process("experiments.train", *OPTIONS, "--run-dir", tmp_path)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"is being written by process {first.pid}" in output
    first.kill()
    first.communicate()
    with run_folder.locked(tmp_path / "seed_7"):  # the system released it
        pass
