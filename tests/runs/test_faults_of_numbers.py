"""Numbers that are not finite, in several processes: all of them skip the same steps, or give up together."""

import json
import re

import pytest

from jmeta import checkpoints
from jmeta.runs.launch import EXIT_MISTAKE

from .commands import ended, the_error
from .jobs import OPTIONS

pytestmark = pytest.mark.usefixtures("eight_threads")


@pytest.mark.slow
def test_several_processes_give_up_together_and_name_the_tasks(tmp_path, start_process):
    words = ["train", *OPTIONS, "--inner-lr", "1e30", "--run-dir", tmp_path]
    status, output = ended(start_process("jmeta", "launch", "--processes", 2, "--devices", 1, *words))
    assert status == EXIT_MISTAKE, output
    assert "meta-steps 0 to 19 were skipped" in the_error(output)
    assert "In step 19 all 8 tasks are at fault" in the_error(output)
    assert checkpoints.steps(tmp_path / "seed_0" / "diverged") == [20]
    status, output = ended(start_process("jmeta", "replay", tmp_path / "seed_0", "--step", "19"))
    assert status == 0, output
    assert "0 of 8 tasks are finite" in output


@pytest.mark.slow
def test_one_task_that_is_not_finite_skips_the_same_steps_everywhere(start_process):
    script = "tests.runs.nan_process"
    alone = start_process(script)
    status, output = ended(alone)
    assert status == 0, output
    (expected,) = results(output)
    assert 1 < expected["num_skipped"] == len(expected["skipped"]) < 50
    assert expected["last_skipped_step"] == expected["skipped"][-1]
    assert expected["is_finite"]
    status, output = ended(start_process("jmeta", "launch", "--processes", 2, "--devices", 2, "-m", script))
    assert status == 0, output
    found = results(output)
    assert sorted(result["process"] for result in found) == [0, 1]
    assert all({**result, "process": 0} == expected for result in found)


def results(output):
    return [json.loads(line) for line in re.findall(r"^(?:\[1\] )?(\{.*\})$", output, re.MULTILINE)]
