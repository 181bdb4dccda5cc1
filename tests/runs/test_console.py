"""Compile time told apart, and progress as plain lines where there is no terminal."""

import time

import jax
import jax.numpy as jnp

from jmeta.runs import console


def test_nested_traces_are_counted_once(monkeypatch):
    clock = console.CompileClock()
    for end, duration in [(2.0, 1.0), (3.0, 3.0), (10.0, 2.0), (10.5, 1.0)]:  # [1, 2] in [0, 3]; [8, 10.5] in two parts
        monkeypatch.setattr(console.time, "monotonic", lambda end=end: end)
        clock.record("/jax/core/compile/jaxpr_trace_duration", duration)
    clock.record("/jax/some_other_event", 100.0)
    assert clock.seconds == 5.5


def test_only_compilation_is_counted():
    @jax.jit
    def doubled(x):
        return x + x

    with console.compile_clock() as first:
        doubled(jnp.ones(7)).block_until_ready()
    with console.compile_clock() as second:
        doubled(jnp.ones(7)).block_until_ready()
        time.sleep(0.05)
    assert first.seconds > 0
    assert second.seconds < 0.05


def test_progress_without_a_terminal_is_plain_lines(capsys):
    with console.progress("tiny", start=20, total=40) as progress:
        progress.update(30, 0.5, {"loss": 1.5, "accuracy": 0.25, "grad_norm": 3.0, "num_skipped": 2.0})
        progress.say("meta_valid accuracy 0.3")
        progress.update(40, 0.5, {"loss": 1.0})
    assert capsys.readouterr().out.splitlines() == [
        "tiny: step 30/40  loss 1.5000  accuracy 0.2500  skipped 2  20.0 steps/s  0:00 left",
        "tiny: meta_valid accuracy 0.3",
        "tiny: step 40/40  loss 1.0000  20.0 steps/s  0:00 left",
    ]


def test_a_table_shows_every_cell(capsys):
    console.print_table("results", [{"": "maml", "accuracy": "98.70 ± 0.40 %"}, {"": "reptile", "accuracy": "95 %"}])
    output = capsys.readouterr().out
    assert all(cell in output for cell in ("results", "maml", "98.70 ± 0.40 %", "reptile", "95 %"))
