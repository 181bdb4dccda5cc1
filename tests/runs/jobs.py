"""A run of MAML on sinusoids, alone or as a job of several processes, for tests that break something under it."""

import os
import shlex
import sys

from jmeta import checkpoints

# Eight blocks, and one size of XLA's pool of threads: the same bits for any number of processes and devices.
OPTIONS = [
    "sinusoid_maml",
    *shlex.split("--training.tasks-per-step 8 --training.num-blocks 8 --training.num-valid-tasks 10 --hidden 64 64"),
    *shlex.split("--train-shots 3 --training.num-steps 2000 --training.steps-per-dispatch 20"),
    *shlex.split("--training.evaluate-every 500 --training.checkpoint-every 100"),
]


def command(folder):
    """Of a process that is alone, for `subprocess`."""
    return [sys.executable, "-m", "jmeta", "train", *OPTIONS, "--run-dir", str(folder)]


def saved(folder):
    return checkpoints.steps(folder / "seed_0" / "checkpoints")


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
