"""Commands in this process and in others, and what a run folder holds when they have ended."""

import os
import pathlib
import re
import subprocess
import time

import jax
import numpy as np
from PIL import Image

from jmeta import checkpoints
from jmeta.runs import evaluate, log, state
from jmeta.runs.main import run

from .. import workers

ROOT = pathlib.Path(__file__).parents[2]
MINE = pathlib.Path(__file__).parent / "mine.py"
"""A recipe file such as a user has."""
MY_IMAGES = pathlib.Path(__file__).parent / "my_images.py"
"""Another, on image files of one's own."""


def jmeta(*words):
    """The exit status of a command line, run in this process."""
    return run([str(word) for word in words])


def environment(**variables):
    """Variables of the processes that tests start: all compile quickly and alike, else their bits would differ."""
    return {**os.environ, **workers.quick_environment(), "JAX_PLATFORMS": "cpu", **variables}


def ran(words, timeout=300, **options):
    """`(exit status, output)` of another process."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    options = {"cwd": ROOT, "env": environment(), **pipes, **options}
    done = subprocess.run([str(word) for word in words], timeout=timeout, check=False, **options)
    return done.returncode, done.stdout


def ended(process):
    """`(exit status, output)`, after five minutes at most."""
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def the_error(output):
    """What is wrong, in one line, with nothing around it that looks like an error."""
    assert "Traceback" not in output, output
    (line,) = (line for line in output.splitlines() if re.match(r"(\[\d+\] )?error: ", line))
    return line


def content(folder, named=None):
    """The run's last state as bytes, its metrics without times, and the steps of its checkpoints.

    Args:
      folder: of one seed's run.
      named: the recipe file, if it is not one of ours.
    """
    recipe, options, best = evaluate.load_run(folder, named)
    step, last = checkpoints.restore(
        folder / "checkpoints", state.init_state(recipe.build(options), options.training.seed)
    )
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in log.read_metrics(folder)]
    return recipe.name, step, [*bits(last), *bits(best)], metrics, checkpoints.steps(folder / "checkpoints")


def bits(tree):
    """The bytes of each array, and of each key."""

    def plain(leaf):
        is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return [np.asarray(plain(leaf)).tobytes() for leaf in jax.tree.leaves(tree)]


def wait_for_checkpoint_after(step, folder, process):
    """Return when there is a checkpoint later than `step`, or the process has ended."""
    until = time.monotonic() + 300
    while process.poll() is None and not any(s > step for s in checkpoints.steps(folder / "checkpoints")):
        assert time.monotonic() < until, "no checkpoint within five minutes"
        time.sleep(0.01)


def children(launcher, num_processes):
    """Ids of a launcher's processes by rank."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = {}
        for pid in pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            found |= {int(rank): int(pid) for rank in re.findall(rb"JMETA_PROCESS_ID=(\d+)", environment)}
        if len(found) == num_processes:
            return found
        time.sleep(0.01)
    raise AssertionError("the processes were not started within a minute")


def wait_for_end(pids):
    """Return when they are gone, which the kernel may take a moment for."""
    until = time.monotonic() + 5
    while any(map(_is_running, pids.values())):
        assert time.monotonic() < until, "they run on"
        time.sleep(0.01)


def _is_running(pid):
    """Whether there is such a process, and it is no zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def write_images(folder, size):
    """Nine classes of four square images of noise, each class in a folder of its own."""
    rng = np.random.default_rng(0)
    for name in "abcdefghi":
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (size, size), np.uint8)).save(folder / name / f"{i}.png")
