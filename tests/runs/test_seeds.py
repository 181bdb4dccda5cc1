"""Seeds that share their dispatches: each is trained as it would be alone, whatever becomes of the others."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import checkpoints
from jmeta.runs import dispatch, log, loop, seeds, state, train
from jmeta.runs import folder as run_folder
from jmeta.training import step_keys

from ..slow import slow
from .commands import bits, jmeta

SEEDS = (3, 4, 5)


def folders(parent):
    found = {seed: parent / f"seed_{seed}" for seed in SEEDS}
    for folder in found.values():
        folder.mkdir(parents=True, exist_ok=True)
    return found


def run_seeds(parent, experiment):
    return loop.run_seeds(experiment, folders(parent))


def assert_close(one, other):
    arrays = (jax.tree.leaves(each._replace(key=jax.random.key_data(each.key))) for each in (one, other))
    for a, b in zip(*arrays, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def logged(parent):
    """By seed, the lines of its log without times."""
    lines = {seed: log.read_metrics(folder) for seed, folder in folders(parent).items()}
    return {seed: [{**line, "seconds": 0} for line in own] for seed, own in lines.items()}


def numbers(lines):
    return np.array([line[name] for line in lines for name in sorted(line) if name not in ("split", "protocol")])


@pytest.mark.parametrize("recipe_name", ["tiny_sinusoid", *slow("tiny_blobs")])
def test_seeds_together_are_trained_as_each_alone(tmp_path, request, recipe_name):
    tiny = request.getfixturevalue(recipe_name)
    together = run_seeds(tmp_path / "together", tiny.experiment())
    for seed, folder in folders(tmp_path / "alone").items():
        alone = loop.run(tiny.trained(seed=seed).experiment(), folder)
        if recipe_name == "tiny_sinusoid":  # distances do not change with the last bias: it follows rounding alone
            assert_close(alone, together[seed])
    for seed, lines in logged(tmp_path / "alone").items():
        np.testing.assert_allclose(numbers(lines), numbers(logged(tmp_path / "together")[seed]), rtol=1e-3, atol=1e-5)
        folder = tmp_path / "together" / f"seed_{seed}"
        assert checkpoints.steps(folder / "checkpoints") == [20, 40, 60]
        assert list((folder / "tensorboard").glob("events.*"))
        (session,) = [json.loads(line) for line in (folder / "sessions.jsonl").read_text().splitlines()]
        assert (session["seed"], session["trained_together"]) == (seed, list(SEEDS))
    assert len({own[-1]["loss"] for own in logged(tmp_path / "together").values()}) == len(SEEDS)


def test_the_time_of_a_dispatch_is_shared_among_its_seeds(tmp_path, tiny_blobs, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("jmeta.runs.loop.time.perf_counter", lambda: 6.0 * next(clock))
    monkeypatch.setattr("jmeta.runs.console.CompileClock.seconds", 0.0)
    run_seeds(tmp_path, tiny_blobs.experiment())
    lines = [log.read_metrics(folder, "meta_train") for folder in folders(tmp_path).values()]
    assert {line["seconds"] for own in lines for line in own} == {6.0 / len(SEEDS)}


def test_a_seed_that_stops_early_leaves_the_others_as_they_are(tmp_path, tiny_blobs):
    impatient = tiny_blobs.trained(evaluate_every=10, patience=2).experiment()
    run_seeds(tmp_path / "whole", tiny_blobs.trained(evaluate_every=10).experiment())
    states = run_seeds(tmp_path / "stopped", impatient)
    stopped_at = {seed: int(each.meta.step) for seed, each in states.items()}
    assert len(set(stopped_at.values())) > 1  # else nothing is shown
    whole = logged(tmp_path / "whole")
    for seed, lines in logged(tmp_path / "stopped").items():
        assert lines == [line for line in whole[seed] if line["step"] <= stopped_at[seed]]
        assert max(checkpoints.steps(tmp_path / "stopped" / f"seed_{seed}" / "checkpoints")) == stopped_at[seed]
    assert bits(run_seeds(tmp_path / "stopped", impatient)) == bits(states)  # and stay so


@pytest.mark.parametrize("num_saves", [4, *slow(1, 5)])
def test_seeds_that_were_stopped_at_different_steps_go_on_in_the_same_bits(
    tmp_path, tiny_sinusoid, monkeypatch, num_saves
):
    experiment = tiny_sinusoid.experiment()
    whole = run_seeds(tmp_path / "whole", experiment)
    save, saved = checkpoints.AsyncSaver.save, []

    def save_some(*args, **kwargs):
        if len(saved) == num_saves:
            raise KeyboardInterrupt
        saved.append(save(*args, **kwargs))

    monkeypatch.setattr(checkpoints.AsyncSaver, "save", save_some)
    with pytest.raises(KeyboardInterrupt):
        run_seeds(tmp_path / "stopped", experiment)
    monkeypatch.undo()
    latest = {
        max(checkpoints.steps(folder / "checkpoints"), default=0) for folder in folders(tmp_path / "stopped").values()
    }
    assert len(latest) == 2
    assert bits(run_seeds(tmp_path / "stopped", experiment)) == bits(whole)
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")


def test_a_seed_that_diverges_leaves_the_others_as_they_are(tmp_path, tiny_sinusoid):
    experiment = tiny_sinusoid.trained(max_skipped_in_a_row=5).experiment()
    whole = run_seeds(tmp_path / "whole", experiment)
    key = state.init_state(experiment, 4).key
    steps = [step_keys(key, step)[0] for step in range(23, 60)]
    keys = jnp.concatenate(
        [jax.random.key_data(jax.random.split(each, experiment.training.tasks_per_step)) for each in steps]
    )

    def poisoned(inner, keys, key):
        task = inner(key)
        is_bad = (jax.random.key_data(key)[None] == keys).all(-1).any()
        return task._replace(query=task.query._replace(y=jnp.where(is_bad, jnp.nan, task.query.y)))

    sample = jax.tree_util.Partial(poisoned, experiment.meta_train, keys)
    source = experiment.source._replace(meta_train=lambda: sample)
    with pytest.raises(loop.DivergedError, match=r"^seed 4: meta-steps 23 to 29 were skipped"):
        run_seeds(tmp_path / "poisoned", dataclasses.replace(experiment, source=source))
    for seed in (3, 5):
        own = checkpoints.restore(tmp_path / "poisoned" / f"seed_{seed}" / "checkpoints", whole[seed])
        assert own[0] == 60
        assert_close(own[1], whole[seed])  # not to the bit: it is another program


def test_tasks_from_the_host_are_refused_together(tiny_folder):
    experiment = tiny_folder.experiment()
    states = [state.init_state(experiment, seed) for seed in SEEDS]
    with pytest.raises(ValueError, match="3 seeds together on tasks from the host"):
        dispatch.dispatcher(experiment, states)


@pytest.mark.parametrize("option", ["--seeds", "--seeds-at-once"])
def test_less_than_one_seed_is_refused(option, capsys):
    assert jmeta("train", "blobs_protonet", option, "0") == 1
    assert f"error: {option} 0; expected at least 1" in capsys.readouterr().err


def test_seeds_that_share_dispatches_share_no_devices(tmp_path, tiny_blobs):
    run = train.Run(run_dir=tmp_path / "run", seeds=2, seeds_at_once=2)
    with pytest.raises(ValueError, match="--seeds-at-once is for one device"):
        train.train(tiny_blobs.recipe, tiny_blobs.trained(mesh="tasks=1").options, run)
    assert not (tmp_path / "run").exists()


def test_the_interval_over_seeds_is_kept(tmp_path, tiny_sinusoid, capsys, monkeypatch):
    together = []
    monkeypatch.setattr(
        train, "train_together", lambda *args, keep=train.train_together: together.append([*args[2]]) or keep(*args)
    )
    train.train(*tiny_sinusoid, train.Run(run_dir=tmp_path, seeds=3, seeds_at_once=2))
    assert together == [[0, 1], [2]]
    output = capsys.readouterr().out
    stored = next(iter(json.loads((tmp_path / seeds.FILE).read_text()).values()))["best loss"]
    best = [min(x["loss"] for x in log.read_metrics(tmp_path / f"seed_{s}", "meta_valid")) for s in range(3)]
    assert list(stored["seeds"].values()) == pytest.approx(best)
    assert stored["mean"] == pytest.approx(np.mean(best))
    assert f"3 seeds: best loss on meta_valid {stored['mean']:.4f} ± {stored['half_width']:.4f}" in output


def test_a_seed_without_a_finite_score_has_no_interval_over_seeds(tmp_path):
    over = seeds.store(tmp_path, "a", {"loss": {"seed_0": 1.0, "seed_1": math.inf}, "rate": {"seed_0": 1, "seed_1": 3}})
    assert set(over) == {"rate"}
    seeds.store(tmp_path, "b", {"loss": {"seed_0": 1.0, "seed_1": 2.0}})
    assert set(json.loads((tmp_path / seeds.FILE).read_text())) == {"a", "b"}


def test_a_session_tells_what_has_changed_since_the_last(tmp_path, monkeypatch):
    record = lambda step, together=(0,): run_folder.record_session(
        tmp_path, seed=0, resumed_from=step, trained_together=list(together)
    )
    assert [record(0), record(20)] == ["", ""]
    assert record(20, (0, 1)) == "trained_together was [0], is [0, 1]"
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    monkeypatch.setattr(run_folder.os, "sched_getaffinity", lambda pid: range(77), raising=False)
    assert record(0, (0, 1)) == ""  # nothing is used of what the other version computed
    monkeypatch.undo()
    assert record(20, (0, 1)) == f"jax was 0.0.1, is {jax.__version__}; threads was 77, is {run_folder.num_cpus()}"


def test_what_bits_do_not_depend_on_is_no_change(tmp_path, monkeypatch):
    record = lambda **has_blocks: run_folder.record_session(
        tmp_path, seed=0, resumed_from=20, trained_together=[0], **has_blocks
    )
    monkeypatch.setenv("NPROC", "8")
    assert record() == ""
    monkeypatch.setattr(jax, "device_count", lambda: 99)
    monkeypatch.setattr(jax, "process_count", lambda: 9)
    monkeypatch.setattr(run_folder.os, "sched_getaffinity", lambda pid: range(77), raising=False)
    assert record(has_blocks=True) == ""  # of devices, nor of cores where the size of the pool of threads is set
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert re.fullmatch("device was 99 x cpu .*, is 2 x cpu .*", record())
    monkeypatch.undo()
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setattr(jax, "local_device_count", lambda: 50)  # more than cores: as many threads
    assert record(has_blocks=True) == "threads was 8, is 50"


def test_a_resumed_run_says_in_a_line_what_has_changed(tmp_path, tiny_blobs, monkeypatch, capsys):
    experiment = tiny_blobs.experiment()
    save = checkpoints.AsyncSaver.save

    def save_once(*args, **kwargs):
        save(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(jax, "__version__", "0.0.1")
        patched.setattr(checkpoints.AsyncSaver, "save", save_once)
        with pytest.raises(KeyboardInterrupt):
            loop.run(experiment, tmp_path)
    capsys.readouterr()
    loop.run(experiment, tmp_path)
    expected = f"run: warning: since the last session jax was 0.0.1, is {jax.__version__}; so the run may end in other"
    assert expected in capsys.readouterr().out
    loop.run(experiment, tmp_path)  # at its end: nothing is computed
    assert "warning" not in capsys.readouterr().out
