"""A run killed at any moment, and started again, ends in the same bits as one never stopped."""

import json
import random
import shlex
import signal
import time

import pytest

from jmeta import checkpoints
from jmeta.runs import folder as run_folder

from .commands import content, wait_for_checkpoint_after

OFTEN = shlex.split("--training.tasks-per-step 4 --training.num-valid-tasks 10 --training.seed 7")

# Checkpoints take most of this run's time, so that most kills come in the middle of one.
OPTIONS = [
    "sinusoid_maml",
    *OFTEN,
    *shlex.split("--train-shots 3 --hidden 8 8 --training.num-steps 500 --training.steps-per-dispatch 20"),
    *shlex.split("--training.evaluate-every 60 --training.checkpoint-every 20"),
]
THREE_SEEDS = [
    "blobs_protonet",
    *OFTEN,
    *shlex.split("--widths 8 8 --training.num-steps 600 --training.steps-per-dispatch 20 --training.patience 20"),
    *shlex.split("--training.evaluate-every 20 --seeds 3 --seeds-at-once 3"),
]
CONVOLUTIONS_AND_BATCH_NORM = [
    "glyphs_maml",
    *OFTEN,
    *shlex.split("--num-filters 4 --num-test-steps 1 --training.num-steps 60"),
    *shlex.split("--training.steps-per-dispatch 4 --training.evaluate-every 12 --training.checkpoint-every 4"),
]


@pytest.mark.parametrize(
    ("options", "seeds", "num_kills"),
    [
        pytest.param(OPTIONS, (7,), 1, id="mlp"),
        pytest.param(THREE_SEEDS, (7, 8, 9), 1, id="three seeds together", marks=pytest.mark.slow),
        pytest.param(CONVOLUTIONS_AND_BATCH_NORM, (7,), 1, id="convolutions and batch norm", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_ends_in_the_same_bits(tmp_path, start_process, options, seeds, num_kills):
    whole = start_process("jmeta", "train", *options, "--run-dir", tmp_path / "whole")
    output, _ = whole.communicate(timeout=400)
    assert whole.returncode == 0, output

    moments = random.Random(0)
    folders = [tmp_path / "killed" / f"seed_{seed}" for seed in seeds]
    killed = 0
    for _ in range(num_kills):
        last = max(checkpoints.steps(folders[0] / "checkpoints"), default=0)
        process = start_process("jmeta", "train", *options, "--run-dir", tmp_path / "killed")
        wait_for_checkpoint_after(last, folders[0], process)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed == num_kills  # none had ended by itself

    resumed = start_process("jmeta", "train", *options, "--run-dir", tmp_path / "killed")
    output, _ = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, output
    resumed_from = []
    for folder in folders:
        assert content(folder) == content(tmp_path / "whole" / folder.name)
        sessions = [json.loads(line) for line in (folder / "sessions.jsonl").read_text().splitlines()]
        assert len(sessions) == num_kills + 1
        resumed_from.append(sessions[-1]["resumed_from"])
    assert max(resumed_from) > 0  # not all: a kill may come between the first checkpoints of two seeds


@pytest.mark.slow
def test_two_runs_cannot_write_one_folder(tmp_path, start_process):
    first = start_process("jmeta", "train", *OPTIONS, "--run-dir", tmp_path)
    wait_for_checkpoint_after(0, tmp_path / "seed_7", first)
    first.send_signal(signal.SIGSTOP)  # it would be at its end before the other has begun
    assert first.poll() is None
    second = start_process("jmeta", "train", *OPTIONS, "--run-dir", tmp_path)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"is being written by process {first.pid}" in output
    first.kill()
    first.communicate()
    with run_folder.locked(tmp_path / "seed_7"):  # the system released it
        pass
