"""Benchmarks: that contenders compute the same, and what is exact in them, bytes; never times."""

import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import (
    collectives,
    interleaved,
    physics,
    profile,
    report,
    scaling,
    scaling_worker,
    sweep,
    with_jax,
    worker,
)
from experiments.benchmarks.workloads import Workload, arrays

from ..workers import quick_environment

SMALL = Workload("W2", tasks=3, steps=2, dispatched=2)
MEGABYTE = 1e6


@functools.cache
def contender(name, workload):
    """One contender, compiled once for all tests that look at it."""
    if workload.acts:
        return worker.acting_contender(name, workload)
    with jax.numpy_rank_promotion("allow"):  # which the plainest JAX makes use of
        return worker.contender_of(name)(workload, arrays(workload))


def assert_same_gradient(found, expected, rtol):
    np.testing.assert_allclose(found.loss, expected.loss, rtol=rtol)
    np.testing.assert_allclose(found.grad_norm, expected.grad_norm, rtol=rtol)
    found.run(2)


@pytest.mark.parametrize(
    "name",
    [
        "jmeta: mixed_mode, scan",
        "by hand: vmap",
        pytest.param("torch.func: vmap", marks=pytest.mark.peers),
        pytest.param("torch.func: loop", marks=pytest.mark.peers),
        pytest.param("PyTorch loop", marks=pytest.mark.peers),
    ],
)
def test_a_contender_has_the_loss_and_gradient_of_jmeta(name):
    assert_same_gradient(contender(name, SMALL), contender("jmeta: unrolled, vmap", SMALL), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name", "way"),
    [
        ("W4-A2C", "jmeta: one pass", "jmeta: collected first"),
        pytest.param("W4-A2C", "PyTorch", "jmeta: collected first", marks=pytest.mark.peers),
        pytest.param("W4-PPO", "PyTorch", "jmeta: collected first", marks=pytest.mark.peers),
    ],
)
def test_a_contender_that_acts_learns_from_recorded_pulls_as_jmeta_does(kind, name, way):
    workload = Workload(kind, tasks=8, steps=6)
    assert_same_gradient(contender(name, workload), contender(way, workload), rtol=1e-4)


def test_an_unknown_contender_is_refused():
    for name in ("jmeta: two passes", "nobody"):
        with pytest.raises(ValueError, match="is not done by|there is no contender"):
            worker.acting_contender(name, Workload("W4-A2C", 2, 2))
    with pytest.raises(ValueError, match="there is no contender 'nobody'"):
        worker.contender_of("nobody")


def test_contenders_take_turns_in_processes_of_their_own():
    names = ["jmeta: unrolled, vmap", "by hand: vmap", "nobody"]
    measured, failed = interleaved.measure(SMALL, names, rounds=2, least_seconds=0.01, environment=quick_environment())
    assert list(measured) == names[:2]
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


def row_on(machine, **seconds):
    """A row of W1 T=4 S=5: each way's seconds in every round."""
    fixed = {"temporary_bytes": 1e6, "peak_bytes": 1e9, "compile_seconds": 1.0}
    measured = {name.replace("_", " "): {"seconds": [each] * 3, **fixed} for name, each in seconds.items()}
    names = {"unrolled auto": "jmeta: unrolled, auto", "unrolled scan": "jmeta: unrolled, scan"}
    return {
        "workload": "W1 T=4 S=5",
        "is_tuned": False,
        "machine": machine,
        "versions": {"jax": "0"},
        "matmul_peak": 1e12,
        "copied_bytes_per_second": 5e9,
        "measured": {names.get(name, name): each for name, each in measured.items()},
        "failed": {},
    }


def test_an_aim_is_judged_on_the_worst_machine():
    fast = row_on("fast", unrolled_auto=0.1, unrolled_scan=0.1, learn2learn=0.2)
    slow = row_on("slow", unrolled_auto=0.44, unrolled_scan=0.4, learn2learn=0.52)
    lines = report.render([slow, fast]).splitlines()
    assert "| W1 T=4 S=5: learn2learn | at least 1.4 | 1.30 | slow | 1.30 to 2.00 | missed |" in lines
    auto = "W1 T=4 S=5: `auto` over the better of `scan` and `vmap`"
    assert f"| {auto} | at most 1.03 | 1.10 | slow | 1.00 to 1.10 | missed |" in lines
    flops = Workload("W1", 4, 5).useful_flops
    share = f"{flops / 0.4 / 1e12:.2f} | slow | {flops / 0.4 / 1e12:.2f} to {flops / 0.1 / 1e12:.2f} | missed |"
    assert f"| W1 T=4 S=5: share of the speed of a large product | at least 0.55 | {share}" in lines
    assert [line for line in lines if line.endswith("jax 0. Large products 1,000 GFLOP/s, copies 5.0 GB/s.")] != []
    lines = report.render([fast]).splitlines()
    assert "| W1 T=4 S=5: learn2learn | at least 1.4 | 2.00 | fast | one machine | met |" in lines


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


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="these are the bytes of the CPU's compiler")
def test_the_memory_of_a_hundred_inner_steps_is_that_of_their_parameters():
    """W1 in mixed mode: a step costs little more than its parameters, 0.45 MB; plain reverse mode keeps 11 MB of it."""
    few, many = (temporary_bytes(Workload("W1", 1, steps), "mixed_mode") for steps in (5, 100))
    assert many < 120 * MEGABYTE
    assert (many - few) / 95 < 0.5 * MEGABYTE


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="these are the bytes of the CPU's compiler")
def test_the_memory_of_many_tasks_is_that_of_one():
    """W1, one task at a time: no more for 32 tasks than their images."""
    few, many = (temporary_bytes(Workload("W1", tasks, 5), "mixed_mode") for tasks in (1, 32))
    assert many < 75 * MEGABYTE
    assert many < 1.05 * few + arrays(Workload("W1", 32, 5)).query_x.nbytes


def test_the_page_is_what_was_measured():
    assert report.PAGE.read_text() == report.render(*report.measured()), "run `python -m experiments.benchmarks.report`"


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_profile_tells_kinds_of_work_apart():
    found = profile.profile(Workload("W3"), with_jax.Way("unrolled", "scan"))
    assert {"norms", "convolutions: products of matrices"} < set(found["milliseconds"])
    assert 0.1 < found["busy_share"] < 1.1
    assert "convolutions: products of matrices" in report.render([], None, found)


def test_robots_are_simulated_in_turns_and_shown(monkeypatch):
    monkeypatch.setattr(physics, "OURS", {name: physics.OURS[name] for name in ("crawler", "eel")})
    found = physics.measure(physics.Options(robots=2, steps=3, rounds=2), has_brax=False)
    assert {len(each["seconds"]) for each in found["measured"].values()} == {2}
    page = report.render([], None, None, found)
    assert {"jmeta: crawler", "jmeta: eel"} == set(found["measured"])
    assert all(f"| {name} | " in page for name in found["measured"])


# three turns of a loop with an all-reduce of 1000 numbers and a permutation; and once, one of every other kind
PROGRAM = """HloModule program, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%body (state: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %state = (s32[], f32[1000]{0}) parameter(0)
  %all-reduce.1 = (f32[999]{0}, f32[]) all-reduce(%a, /*index=1*/%b), channel_id=1, replica_groups={}, to_apply=%add
  %moved = bf16[10]{0} collective-permute(%c), channel_id=2, source_target_pairs={{0,1},{1,0}}
  ROOT %out = (s32[], f32[1000]{0}) tuple(%i, %all-reduce.1)
}

%condition (state: (s32[], f32[1000])) -> pred[] {
  ROOT %less = pred[] compare(%i, %three), direction=LT
}

ENTRY %main (a: f32[1000]) -> f32[1000] {
  %loop = (s32[], f32[1000]{0}) while(%start), condition=%condition, body=%body, KNOWN
  %gathered = s32[16,2]{1,0} all-gather(%d), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %parts = (f32[1,5]{1,0}, f32[1,5]{1,0}) all-to-all(%e, %f), replica_groups=[4,2]<=[8], metadata={op_name="jit(f)/g"}
  %scattered = f32[5]{0} reduce-scatter(%g), replica_groups=mesh['a'=1,'b'=2,'c'=4], device_ids=([8]) {'b','c'}
  %is_fine = pred[] all-reduce(%h), replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}, to_apply=%add
  ROOT %out.1 = f32[1000]{0} get-tuple-element(%loop), index=1
}
"""
KNOWN = 'backend_config={"known_trip_count":{"n":"3"}}'


def test_bytes_are_read_from_the_text_of_a_program():
    found = collectives.collectives(PROGRAM.replace("KNOWN", KNOWN))
    assert [each[:4] for each in found] == [
        ("all-reduce", 4000, 8, 3),
        ("collective-permute", 20, 8, 3),
        ("all-gather", 128, 4, 1),
        ("all-to-all", 40, 2, 1),
        ("reduce-scatter", 20, 8, 1),
        ("all-reduce", 1, 2, 1),
    ]
    assert found[3].source == "jit(f)/g"
    assert [each.sent for each in found] == [3 * 2 * 7 / 8 * 4000, 60, 3 / 4 * 128, 20, 7 * 20, 1]
    assert collectives.total_sent(found) == 21000 + 60 + 96 + 20 + 140 + 1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("KNOWN", "backend_config={}", "in a loop of unknown length"),
        (" all-gather(", " all-gather-start(", "started and finished separately"),
        ("replica_groups=[4,2]<=[8]", "replica_groups=others", "cannot read which devices exchange"),
        ("ENTRY", "", "it has no ENTRY"),
    ],
)
def test_programs_that_cannot_be_counted_are_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        collectives.collectives(PROGRAM.replace(before, after).replace("KNOWN", KNOWN))


def test_bytes_of_a_program_that_was_compiled():
    """A thousand numbers summed over 8 devices in each of five turns, and gathered once along an axis of two."""
    code = """
import functools, json, jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from experiments.benchmarks.collectives import collectives
mesh = jax.make_mesh((4, 2), ("tasks", "model"), (jax.sharding.AxisType.Auto,) * 2)
@functools.partial(jax.shard_map, mesh=mesh, in_specs=P(("tasks", "model")), out_specs=P("tasks"), check_vma=False)
def fn(x):
    turn = lambda x, _: (jnp.sin(jax.lax.psum(x, ("tasks", "model"))), None)
    return jax.lax.all_gather(jax.lax.scan(turn, x[0], None, length=5)[0][None], "model", tiled=True)
print(json.dumps(collectives(jax.jit(fn).lower(jnp.zeros((8, 1000))).compile().as_text())))
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **flags}, stdout=subprocess.PIPE, text=True, check=True
    )
    found = [each[:4] for each in json.loads(done.stdout)]
    assert sorted(found) == [["all-gather", 8000, 2, 1], ["all-reduce", 4000, 8, 5]]


NODES = scaling.Accelerators("nodes", "here", 1e12, 100.0, 10.0, node=2, latency=0.5, network_latency=3.0)
TORUS = scaling.Accelerators("torus", "here", 1e12, 600.0, 0.0, node=1, latency=0.5, network_latency=0.0)


def test_the_estimate_is_what_is_computed_by_hand(monkeypatch):
    """1200 bytes: in a node of two, in two such nodes, and in cubes of side 2 and 4; links at their full speed."""
    monkeypatch.setattr(scaling, "SHARE_OF_LINK", 1.0)
    assert scaling.all_reduce_seconds(1200, 2, NODES) == 12 + 2 * 0.5
    there_and_back = 12 + 2 * (1 / 2) * 600 / 10 + 2 * 0.5 + 2 * 3
    assert scaling.all_reduce_seconds(1200, 4, NODES) == there_and_back
    assert scaling.in_order_seconds(1200, 2, NODES) == 1200 / 2 / 100 + 0.5 + 13 / 2
    assert scaling.in_order_seconds(1200, 4, NODES) == 300 / 100 + 600 / 10 + 0.5 + 3 + there_and_back / 2
    small, large = 2 * (7 / 8) * 1200 / 300 + 3, 2 * (63 / 64) * 1200 / 600 + 9  # half of the links lead to another
    assert scaling.all_reduce_seconds(1200, 8, TORUS) == pytest.approx(small)
    assert scaling.all_reduce_seconds(1200, 64, TORUS) == pytest.approx(large)
    assert scaling.in_order_seconds(1200, 8, TORUS) == pytest.approx(8 * 1200 / 4 / (4 * 100) + 1.5 + small / 2)
    assert scaling.in_order_seconds(1200, 64, TORUS) == pytest.approx(64 * 1200 / 4 / (2 * 16 * 100) + 4.5 + large / 2)
    found = scaling.estimate(scaling.Model("any", flops=0.3 * 39e12, num_bytes=1200), NODES, 2)
    assert found["compute"] == pytest.approx(39)
    assert found["one all-reduce: efficiency"] == pytest.approx(39 / (39 + 13))


@pytest.mark.slow
def test_devices_and_processes_take_turns_at_all_cases():
    arrangements = [("devices", 1), ("processes", 2)]
    found = scaling.time_arrangements(1, arrangements)
    cases = {
        (kind, number, *case)
        for kind, number in arrangements
        for case in scaling_worker.cases(number, [1, 2] if number == 1 else [])
    }
    assert {(row["kind"], row["number"], row["workload"], row["way"], row["tasks"]) for row in found} == cases
    assert all(0 < seconds < 60 for row in found for seconds in row["seconds"])
    assert all(len(row["seconds"]) == 1 for row in found)


@pytest.mark.slow
def test_what_is_exchanged_is_what_was_recorded():
    found, recorded = scaling.count(), json.loads(scaling.FILE.read_text())
    rows = [scaling.exchange(row) for row in found["counted"]]
    assert len(rows) == len(scaling_worker.COUNTED) * len(scaling_worker.SUMS)
    assert all(row["least"] <= row["sent"] < 1.3 * row["least"] for row in rows)  # the most is in fixed order, divided
    if recorded["versions"]["jax"] == jax.__version__:
        assert rows == [scaling.exchange(row) for row in recorded["counted"]]


def counted(method, gradient_bytes, exchanges, **others):
    row = {"method": method, "way": "one all-reduce", "mesh": {"tasks": 8}, "gradient_bytes": gradient_bytes}
    found = [collectives.Collective(*each, source="")._asdict() for each in exchanges]
    return {**row, "divided_bytes": 0, "updates": 1, "collectives": found, **others}


def test_scaling_becomes_tables():
    case = {"workload": "MAML", "tasks": 8, "kind": "devices", "number": 2}
    found = {
        "machine": "a machine",
        "versions": {"jax": "0"},
        "rounds": 3,
        "sizes": {"MAML": scaling_worker.Sizes(8, 4, 1)._asdict()},
        "timed": [
            {**case, "number": 1, "way": "plain", "seconds": [1.0, 2.0, 1.0]},
            {**case, "way": "fixed order", "seconds": [3.0, 4.0, 2.5]},
            {**case, "way": "one all-reduce", "seconds": [1.5, 2.0, 2.0]},
        ],
        "num_tasks_counted": 16,
        "full_size": {"name": "small", "num_tasks": 4, "flops": 2e10, "parameters": 1000},
        "counted": [
            counted("ProtoNet", 4000, [("all-reduce", 4008, 8, 1)]),
            counted("RL²", 4000, [("all-reduce", 4008, 8, 4), ("all-gather", 800, 8, 1)], updates=4),
            counted(
                "divided",
                4000,
                [
                    ("reduce-scatter", 1600, 2, 1),
                    ("all-reduce", 808, 8, 1),
                    ("all-reduce", 1600, 4, 1),
                    ("all-gather", 3200, 2, 1),
                ],
                mesh={"tasks": 4, "model": 2},
                divided_bytes=3200,
            ),
            counted(
                "divided",
                4000,
                [("all-to-all", 4008, 8, 1), ("all-gather", 4008, 8, 1), ("all-gather", 3200, 2, 1)],
                mesh={"tasks": 4, "model": 2},
                divided_bytes=3200,
                way="fixed order",
            ),
        ],
    }
    page = report.render([], scaling=found)
    assert "| 2 devices | 1,000 | 2,000 | 1.50 (1.00 to 2.00) | 3,000 | 2.50 (2.00 to 3.00) |" in page
    assert "| 2 devices | 125,000 | 250,000 | 1.50" in page  # µs a task
    assert "| ProtoNet | tasks 8 | one all-reduce | 4,000 | 7,014 | 0 | 0 | 7,014 | 7,000 | 1.0020 |" in page
    assert "| RL² | tasks 8 | one all-reduce | 4,000 | 28,056 | 0 | 700 | 28,756 | 28,000 | 1.0270 |" in page
    assert "| divided | tasks 4, model 2 | one all-reduce | 4,000 | 5,414 | 1,600 | 0 | 7,014 | 7,000 |" in page
    assert "| divided | tasks 4, model 2 | fixed order | 4,000 | 7,014 | 1,600 | 0 | 8,614 | 7,000 |" in page
    assert "RL² computes 4 gradients in a meta-step; its others are 1 array of collected data, 800 bytes" in page
    assert "gets the whole sum, 1,600 bytes more" in page
    assert len([line for line in page.splitlines() if line.startswith("| small | ")]) == 6
