"""A run that is planned to fit a memory budget: what is tried, what is kept, and that it resumes as planned."""

import dataclasses
import json

import pytest

from configs.parts import Conv4, Maml, Protonet
from experiments import planning, recipes, run_folder, train


def test_all_exact_ways_are_tried_and_no_other(tiny_sinusoid):
    names = set(planning.ways_of(dataclasses.replace(tiny_sinusoid, method=Maml(num_steps=4))))  # of four tasks
    assert len(names) == 6 * 4
    assert len(planning.ways_of(tiny_sinusoid)) == 4 * 4, "a loop of one step has no blocks"
    assert {"unrolled, all tasks at once", "mixed_mode, 2 tasks at once", "rematerialized, one task at once"} < names
    assert not any("first_order" in name for name in names)


def test_what_is_not_exact_stays_so(tiny_sinusoid):
    biased = dataclasses.replace(tiny_sinusoid, method=Maml(adjoint="first_order"))
    assert {way.method.adjoint for way in planning.ways_of(biased).values()} == {"first_order"}


def test_a_method_without_inner_loop_has_its_tasks_batched(tiny_blobs):
    ways = planning.ways_of(dataclasses.replace(tiny_blobs, method=Protonet()))
    assert {way.training.batching for way in ways.values()} == {"auto", "vmap", 2, "scan"}


def test_lower_precision_is_a_way_only_if_allowed(tiny_sinusoid):
    convolutional = dataclasses.replace(tiny_sinusoid, model=Conv4())
    assert {way.model.dtype for way in planning.ways_of(convolutional).values()} == {"float32"}
    allowed = planning.ways_of(convolutional, allow_bfloat16=True)
    assert allowed["mixed_mode, one task at once, bfloat16"].model.dtype == "bfloat16"
    assert len(allowed) == 2 * 4 * 4
    with pytest.raises(ValueError, match="Mlp has no bfloat16"):
        planning.ways_of(tiny_sinusoid, allow_bfloat16=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--memory-gb -1", "--memory-gb -1.0; expected a positive"),
        ("--allow-bfloat16", "add --memory-gb"),
        ("--memory-gb 1 --seeds 4 --seeds-at-once 4", "plans for one seed at a time"),
    ],
)
def test_options_of_a_plan_are_checked_first(words, message):
    with pytest.raises(ValueError, match=message):
        train.parse(["glyphs_maml", *words.split()])


@pytest.fixture
def few_ways(monkeypatch):
    """Two of them, for a test that compiles."""
    all_ways = planning.ways_of
    kept = ("unrolled, all tasks at once", "mixed_mode, one task at once")
    ways = lambda recipe, **options: {name: all_ways(recipe, **options)[name] for name in kept}
    monkeypatch.setattr(planning, "ways_of", ways)


def test_a_planned_run_is_trained_as_planned_and_resumes_so(few_ways, tiny_sinusoid, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "load", lambda name: tiny_sinusoid)
    arguments = ["tiny", "--run-dir", str(tmp_path / "run"), "--training.num-steps", "20"]
    assert train.main([*arguments, "--memory-gb", "1"]) == 0
    output = capsys.readouterr().out
    assert "the fastest of the 2 of 2 ways that fit into 1.00 GB" in output
    kept = json.loads((tmp_path / "run" / planning.FILE).read_text())
    assert len(kept["trials"]) == 2
    _, options = run_folder.read_config(tmp_path / "run" / "seed_0")
    chosen = planning.ways_of(tiny_sinusoid)[kept["chosen"]]
    assert (options["method"]["adjoint"], options["training"]["batching"]) == (
        chosen.method.adjoint,
        chosen.training.batching,
    )
    assert train.main([*arguments, "--memory-gb", "1"]) == 0
    assert f"{kept['chosen']}: as planned before" in capsys.readouterr().out
    assert train.main([*arguments, "--memory-gb", "2"]) == 1
    assert "was planned for --memory-gb 1" in capsys.readouterr().err


def test_a_run_that_was_not_planned_is_left_alone(tiny_sinusoid, tmp_path):
    (tmp_path / "run" / "seed_0").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds a run that was not planned"):
        planning.planned(tiny_sinusoid, 1.0, tmp_path / "run")
    assert not (tmp_path / "run" / planning.FILE).exists()


def test_a_budget_that_is_too_small_is_refused_before_anything_is_written(few_ways, tiny_sinusoid, tmp_path):
    with pytest.raises(ValueError, match="nothing fits into 0 MB"):
        planning.planned(tiny_sinusoid, 1e-9, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"memory_gb": "1", "allow_bfloat16": false, "chosen": "unrolled, all tasks at once"}',
        '{"memory_gb": 1.0, "allow_bfloat16": false, "chosen": ["unrolled, all tasks at once"]}',
        '{"memory_gb": "\\u001b[2J", "allow_bfloat16": false, "chosen": ""}',
    ],
)
def test_a_plan_of_other_types_is_refused(few_ways, tiny_sinusoid, tmp_path, text):
    (tmp_path / planning.FILE).write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json is damaged \(it is no plan\)"):
        planning.planned(tiny_sinusoid, 1.0, tmp_path)


def test_devices_that_share_tasks_are_not_planned_for(tmp_path, capsys):
    words = ["sinusoid_maml", "--memory-gb", "1", "--mesh", "tasks=1", "--run-dir", str(tmp_path / "run")]
    assert train.main(words) == 1
    assert "plan a run in one process without --mesh" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
