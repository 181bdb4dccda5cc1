"""The command that measures accelerators, on a CPU: that it ends, loses nothing, and names what is missing."""

import ast
import functools
import json
import os
import pathlib
import pkgutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments.benchmarks import accelerator, report, report_accelerators
from experiments.benchmarks.accelerator import __main__ as command
from experiments.benchmarks.accelerator import full_rows, period, supervisor, tables, timing
from experiments.benchmarks.accelerator.supervisor import Section
from experiments.benchmarks.accelerator.trainings import TRAININGS

ROOT = pathlib.Path(__file__).parents[2]
HEAD = """
import pathlib, subprocess, sys, time
from experiments.benchmarks.accelerator.period import write
out, ends_at = pathlib.Path(sys.argv[1]), float(sys.argv[2])
"""
WRITES = "write(out, {'section': 'any', 'case': {'number': 1}, 'measured': {'ms': 2.5}})\n"
HANGS = "child = subprocess.Popen(['sleep', '300']); (out / 'child').write_text(str(child.pid)); time.sleep(300)\n"


def section(name, code, share=1.0):
    return Section(name, share, (sys.executable, "-c", HEAD + code))


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=60):
    ends_at = time.time() + seconds
    while not condition():
        assert time.time() < ends_at, "it did not happen"
        time.sleep(0.1)


def test_sections_that_crash_or_take_too_long_stop_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(supervisor, "LEAST_SECONDS", 1.0)
    sections = [
        section("crashes", WRITES + "raise ValueError('broken')"),
        section("hangs", WRITES + HANGS, share=0.5),
        section("has no share", "", share=1e-9),
        section("is well", WRITES),
    ]
    supervisor.supervise(sections, tmp_path, time.time() + 12)
    rows = period.read(tmp_path / period.FILE_NAME)
    failed = {row["section"]: row["failed"] for row in rows if "failed" in row}
    assert failed == {
        "crashes": "crashed with status 1: ValueError: broken",
        "hangs": "stopped: its share of the time was over",
        "has no share": "not begun: no time was left",
    }
    assert len([row for row in rows if "measured" in row]) == 3, "what was written before the end is kept"
    assert not is_alive((tmp_path / "child").read_text()), "what a section started ends with it"
    assert "is well: 1 rows" in capsys.readouterr().out


def test_a_killed_command_loses_no_row_and_a_torn_line_no_other(tmp_path):
    code = "import sys, time, pathlib; from experiments.benchmarks.accelerator import supervisor; "
    code += f"hangs = supervisor.Section('hangs', 1.0, (sys.executable, '-c', {HEAD + WRITES + HANGS!r})); "
    code += f"supervisor.supervise([hangs], pathlib.Path({str(tmp_path)!r}), time.time() + 600)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_until((tmp_path / "child").exists)
    process.kill()
    process.wait()
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    with open(tmp_path / period.FILE_NAME, "a") as file:
        file.write('{"section": "any", "case')
    (row,) = period.read(tmp_path / period.FILE_NAME)
    assert row["measured"] == {"ms": 2.5}


def test_ways_that_fail_are_named_and_others_timed():
    def out_of_memory(num_calls):
        raise RuntimeError("out of memory\nand more")

    done, failed = timing.compiled_together({"one": lambda: 1, "none": lambda: 1 / 0})
    assert (done, failed) == ({"one": 1}, {"none": "ZeroDivisionError: division by zero"})
    seconds, failed = timing.in_turns(
        {"bad": out_of_memory, "good": lambda num_calls: None}, rounds=2, least_seconds=0.0
    )
    assert list(seconds) == ["good"]
    assert len(seconds["good"]) == 2
    assert failed == {"bad": "RuntimeError: out of memory"}


def test_the_products_that_shares_are_of_are_of_their_precision():
    products = timing.products(8)
    assert list(products) == list(timing.PRECISIONS)
    for run in products.values():
        run(2)


def test_it_needs_the_dependencies_of_the_core_alone():
    """In one process: the supervisor, then what the core imports, then everything that measures."""
    found = [module.name for module in pkgutil.iter_modules(accelerator.__path__)]
    assert set(command.SHARES) < set(found), "a section is a module"
    package, libraries = accelerator.__name__, ("tyro", "rich", "tensorboardX", "PIL", "matplotlib", "rlax", "torch")
    look = f"print([name for name in {('jax', 'haiku', 'equinox', *libraries)} if name in sys.modules])"
    measuring = [f"{package}.{name}" for name in found if name != "__main__"]
    measuring += ["jmeta.domains.rl.policy_gradients", "experiments.benchmarks.worker"]
    measuring += ["experiments.benchmarks.acting_with_jax"]
    lines = [f"import sys, {package}.__main__", look, "import flax.linen, optax, orbax.checkpoint", look]
    lines += [f"import {', '.join(measuring)}", look]
    words = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    supervising, core, everything = map(ast.literal_eval, done.stdout.splitlines())
    assert supervising == [], "the supervisor must not take the card's memory"
    assert set(everything) == set(core)


class Ends:
    """A period that ends after so many questions."""

    is_tiny = True

    def __init__(self, out, questions):
        self.out, self._left = out, questions

    def seconds_left(self):
        self._left -= 1
        return 1e6 if self._left >= 0 else 0.0


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(full_rows, "sampled_steps", functools.cache(full_rows.sampled_steps))  # compile once
    training = TRAININGS["bandits 100 50"]("bandits 100 50", is_tiny=True)._replace(steps_per_dispatch=1)
    file, key = tmp_path / "state.npz", jax.random.key(0)
    whole, _ = full_rows._train(Ends(tmp_path, 10), training, training.start(key), {}, tmp_path / "whole.npz")
    full_rows._train(Ends(tmp_path, 1), training, training.start(key), {}, file)
    half, metrics = full_rows.restored(file, training.start(key))
    assert int(half.step) == len(metrics["loss"]) == 1
    state, metrics = full_rows._train(Ends(tmp_path, 10), training, half, metrics, file)
    assert int(state.step) == len(metrics["loss"]) == training.num_steps == 2
    assert metrics["is_first"].tolist() == [1, 1]
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    with pytest.raises(ValueError, match="the state of another training"):
        full_rows.restored(file, {"other": np.zeros(3)})


def row(section="w1", card="a card", is_tiny=False, **others):
    about = {"card": card, "versions": {"jax": "0"}, "date": "2030-01-31", "is_tiny": is_tiny}
    return {
        "section": section,
        "case": {"workload": "W1", "form": "xla"},
        "measured": {"ms": 0.1234},
        **about,
        **others,
    }


def test_rows_become_tables():
    failed = {name: value for name, value in row(failed="no memory").items() if name != "measured"}
    text = tables.tables_of([row(), row(measured={"ms": 1234.5, "is fine": True}), failed])
    assert "a card; jax 0; 2030-01-31." in text
    assert "| W1       | xla  | 0.123 |" in text
    assert "| 1,234 | yes" in text
    assert "* not measured: W1, xla: no memory" in text
    assert tables.tables_of([]) == "nothing was measured"


def test_pages_show_accelerators_by_card_and_say_that_there_are_none(tmp_path):
    assert report_accelerators.recorded(tmp_path) == []
    assert "No accelerator has been measured yet" in report_accelerators.benchmarks_section([])
    assert "Nothing has been trained on an accelerator yet." in report_accelerators.results_section([])
    trained = {"protocol": "finn2017/omniglot 20-way 1-shot", "transductive accuracy %": 12.5}
    rows = [row(card="b card"), row(), row(is_tiny=True, card="c card"), row("full_rows", measured=trained)]
    rows.append({"section": "w2", "case": {}, "failed": "stopped"})
    (tmp_path / "accelerator_a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    recorded = report_accelerators.recorded(tmp_path)
    page = report.render([], accelerators=recorded)
    assert page.index("### a card, 2030-01-31") < page.index("### b card, 2030-01-31")
    assert "c card" not in page, "sizes of a test are no measurement"
    assert "12.5" not in page
    results = report_accelerators.results_section(recorded)
    assert "| W1       | xla  | finn2017/omniglot 20-way 1-shot | 12.5" in results


def processes_of(out):
    """Those that were started with this folder."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(out).encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_the_whole_command_on_a_cpu_without_pytorch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    out = tmp_path / "out"
    words = [sys.executable, "-m", accelerator.__name__, "--tiny", "--seconds", "900", "--out", str(out)]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = period.read(out / period.FILE_NAME)
    measured = [each for each in rows if "measured" in each]
    assert {each["section"] for each in measured} == set(command.SHARES)
    failed = [(each["section"], each["failed"]) for each in rows if "failed" in each]
    assert {section for section, _ in failed} == {"peers", "w3w4"}
    assert {reason for _, reason in failed} == {"ModuleNotFoundError: No module named 'torch'"}
    (checked,) = (each["measured"] for each in rows if each["section"] == "check")
    assert checked["relative error"] < 1e-5
    assert checked["the same bits twice"]
    for name in command.SHARES:
        assert f"### {name}" in done.stdout
    assert {each["case"]["training"] for each in measured if each["section"] == "full_rows"} == {
        "maml 5w1s",
        "bandits 100 50",
    }


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_its_rows_and_no_process(tmp_path):
    words = [sys.executable, "-m", accelerator.__name__, "--tiny", "--seconds", "900", "--out", str(tmp_path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([*words, "--sections", "check", "full_rows"], cwd=ROOT, env=environment)
    wait_until(lambda: period.read(tmp_path / period.FILE_NAME), 300)
    process.kill()
    process.wait()
    assert period.read(tmp_path / period.FILE_NAME)[0]["section"] == "check"
    wait_until(lambda: not processes_of(tmp_path))
