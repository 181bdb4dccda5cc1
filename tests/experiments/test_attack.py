"""A short attack on every surface, kills of runs, and what was recorded of the long ones."""

import json
import pathlib
import subprocess
import sys

import pytest

from experiments.attack import table
from experiments.attack.kills import RUNS

ROOT = pathlib.Path(__file__).parents[2]
SURFACES = ["images", "arrays", "configurations", "checkpoints", "commands", "calls", "tasks"]


def attacked(tmp_path, *words, timeout=600):
    """The record of an attack in another process, in which no test's checks of types stand before ours."""
    command = [sys.executable, "-m", "experiments.attack", "--record", tmp_path / "record.json", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, timeout=timeout, check=False, **pipes)
    assert done.returncode == 0, done.stdout
    return json.loads((tmp_path / "record.json").read_text())


def test_a_short_attack_finds_nothing(tmp_path):
    record = attacked(tmp_path, "--seconds", 500, "--cases", 12, "--seed", 7)
    rows = record["attacks"]["rows"]
    assert [row["surface"] for row in rows] == SURFACES
    for row in rows:
        assert row["inputs"] == 12
        assert row.get("right", 0) + row.get("refused", 0) + row.get("wrong type", 0) == 12
        assert row.get("right", 0) > 0
        assert row.get("refused", 0) > 0
    assert record["attacks"]["findings"] == []


@pytest.mark.slow
def test_runs_that_are_killed_lose_nothing(tmp_path):
    record = attacked(tmp_path, "--seconds", 0, "--kills", 6, "--out", tmp_path / "runs", timeout=1800)
    rows = record["kills"]["rows"]
    assert sum(row["kills"] for row in rows) >= 6
    assert {row["run"] for row in rows} <= set(RUNS)
    assert all(row["lost_checkpoints"] == row["other_bits"] == 0 for row in rows)


def test_the_page_shows_what_was_recorded():
    record = json.loads(table.RECORD.read_text())
    page = table.PAGE.read_text()
    assert all(text in page for text in table.sections(record).values())
    assert table.filled(page, record) == page
    assert record["attacks"]["findings"] == []
    assert [row["surface"] for row in record["attacks"]["rows"]] == SURFACES
    kills = record.get("kills", {"rows": []})["rows"]
    assert all(row["lost_checkpoints"] == row["other_bits"] == 0 for row in kills)
