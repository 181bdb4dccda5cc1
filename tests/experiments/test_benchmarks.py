"""Benchmarks: that contenders compute the same, and what is exact in them, bytes; never times."""

import importlib.util

import jax
import numpy as np
import pytest

from experiments.benchmarks import interleaved, physics, profile, report, sweep, with_jax, worker
from experiments.benchmarks.workloads import Workload, arrays

SMALL = Workload("W2", tasks=3, steps=2)
MEGABYTE = 1e6


@pytest.mark.parametrize("name", ["jmeta: mixed_mode, scan", "by hand: vmap", "torch.func: vmap", "torch.func: loop"])
def test_a_contender_has_the_loss_and_gradient_of_jmeta(name):
    if "torch" in name and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed: pip install 'jmeta[peers]'")
    with jax.numpy_rank_promotion("allow"):  # which the plainest JAX makes use of
        first, contender = (worker.contender_of(each)(SMALL, arrays(SMALL)) for each in ("jmeta: unrolled, vmap", name))
    np.testing.assert_allclose(contender.loss, first.loss, rtol=1e-5)
    np.testing.assert_allclose(contender.grad_norm, first.grad_norm, rtol=1e-5)
    contender.run(2)


@pytest.mark.parametrize(
    ("kind", "name", "way"),
    [
        ("W4-A2C", "jmeta: one pass", "jmeta: collected first"),
        ("W4-A2C", "PyTorch", "jmeta: collected first"),
        ("W4-PPO", "PyTorch", "jmeta: collected first"),
    ],
)
def test_a_contender_that_acts_learns_from_recorded_pulls_as_jmeta_does(kind, name, way):
    if name == "PyTorch" and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed: pip install 'jmeta[peers]'")
    workload = Workload(kind, tasks=8, steps=6)
    contender, first = (worker.acting_contender(each, workload) for each in (name, way))
    np.testing.assert_allclose(contender.loss, first.loss, rtol=1e-4)
    np.testing.assert_allclose(contender.grad_norm, first.grad_norm, rtol=1e-4)
    contender.run(2)


def test_an_unknown_contender_is_refused():
    for name in ("jmeta: two passes", "nobody"):
        with pytest.raises(ValueError, match="is not done by|there is no contender"):
            worker.acting_contender(name, Workload("W4-A2C", 2, 2))
    with pytest.raises(ValueError, match="there is no contender 'nobody'"):
        worker.contender_of("nobody")


def test_contenders_take_turns_in_processes_of_their_own():
    measured, failed = interleaved.measure(
        SMALL, ["jmeta: unrolled, vmap", "by hand: vmap", "nobody"], rounds=2, least_seconds=0.01
    )
    assert list(measured) == ["jmeta: unrolled, vmap", "by hand: vmap"]
    assert "there is no contender 'nobody'" in failed["nobody"]
    for each in measured.values():
        assert len(each.seconds) == 2
        assert each.peak_bytes > 50 * MEGABYTE
        assert each.temporary_bytes is not None
    row = {
        "workload": "W2 T=25 S=5",
        "is_tuned": False,
        "machine": "a machine",
        "versions": {"jax": "0"},
        "matmul_peak": 1.0,
        "measured": {name: each._asdict() for name, each in measured.items()},
        "failed": failed,
    }
    page = report.render([row])
    assert "| **jmeta: unrolled, vmap** |" in page
    assert "Not measured: nobody: " in page


def test_a_contender_with_another_gradient_is_not_timed():
    facts = {"loss": 1.0, "grad_norm": 2.0}
    assert interleaved._differs(facts, facts, 1e-3) is None
    assert interleaved._differs({**facts, "grad_norm": 2.1}, facts, 1e-3) == "its grad_norm is 2.1 and not 2"
    assert interleaved._differs({**facts, "loss": np.nan}, facts, 1e-3) is not None


def test_useful_flops_are_those_of_the_convolutions():
    """Of one image forwards, layer after layer: pixels, 3x3 taps, channels in and out, a product and a sum."""
    forward = 2 * 9 * 64 * (28 * 28 * 1 + (14 * 14 + 7 * 7 + 3 * 3) * 64)
    assert Workload("W1", tasks=2, steps=5).useful_flops == 2 * forward * (9 * 5 * 5 + 3 * 75)
    assert Workload("W3").useful_flops == 3 * 400 * forward


def temporary_bytes(workload, adjoint, batching="scan"):
    compiled, _ = with_jax.lowered(workload, arrays(workload), with_jax.Way(adjoint, batching))
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="these are the bytes of the CPU's compiler")
def test_the_memory_of_a_hundred_inner_steps_is_that_of_their_parameters():
    """W1 in mixed mode: a step costs little more than its parameters, 0.45 MB; plain reverse mode keeps 11 MB of it."""
    few, many = (temporary_bytes(Workload("W1", 1, steps), "mixed_mode") for steps in (5, 100))
    assert many < 120 * MEGABYTE
    assert (many - few) / 95 < 0.5 * MEGABYTE


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="these are the bytes of the CPU's compiler")
def test_the_memory_of_many_tasks_is_that_of_one():
    """W1, one task at a time: no more for 32 tasks than their images."""
    few, many = (temporary_bytes(Workload("W1", tasks, 5), "mixed_mode") for tasks in (1, 32))
    assert many < 75 * MEGABYTE
    assert many < 1.05 * few + arrays(Workload("W1", 32, 5)).query_x.nbytes


def test_the_page_is_what_was_measured():
    assert report.PAGE.read_text() == report.render(*report.measured()), "run `python -m experiments.benchmarks.report`"


def test_a_sweep_becomes_a_table_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "PICTURE", tmp_path / "picture.png")
    options = sweep.Options(rounds=1)
    points = [
        sweep.measure(workload, with_jax.Way("unrolled", batching, estimator=estimator), options)
        for workload in (Workload("W2", 1, 5), Workload("W2", 2, 5))
        for batching, estimator in (("scan", "reverse"), ("vmap", "reverse"), ("scan", "evolution_strategies"))
    ]
    measured = {"machine": "a machine", "versions": {"jax": "0"}, "points": points}
    page = report.render([], measured)
    assert "| estimator | S=5 |" in page
    assert "| batching | T=1 | T=2 |" in page
    report.draw(measured)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_profile_tells_kinds_of_work_apart():
    found = profile.profile(Workload("W3"), with_jax.Way("unrolled", "scan"))
    assert {"norms", "convolutions: products of matrices"} < set(found["milliseconds"])
    assert 0.1 < found["busy_share"] < 1.1
    assert "convolutions: products of matrices" in report.render([], None, found)


def test_robots_are_simulated_in_turns_and_shown():
    found = physics.measure(physics.Options(robots=2, steps=3, rounds=2), has_brax=False)
    assert {len(each["seconds"]) for each in found["measured"].values()} == {2}
    page = report.render([], None, None, found)
    assert {"jmeta: crawler", "jmeta: arm", "jmeta: eel"} == set(found["measured"])
    assert all(f"| {name} | " in page for name in found["measured"])
