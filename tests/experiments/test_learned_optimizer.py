"""The learned optimizer: it starts as Adam, learns, and its page shows what was measured."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.learned_optimizer import __main__ as experiment
from experiments.learned_optimizer import picture
from experiments.learned_optimizer.optimizer import init_weights, learned_optimizer
from jmeta import runs

ROOT = pathlib.Path(__file__).parents[2]
TINY = experiment.Size(3, (4,), 20)


def quadratic(params):
    return jnp.square(params["w"] - 3.0).sum() + jnp.square(params["b"]).sum() * 50


def test_it_starts_as_adam(float64, key):
    params = {"w": jnp.arange(4.0), "b": jnp.ones(2)}
    weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), init_weights(key, rate=0.1))
    pair = [(each, params, each.init(params)) for each in (learned_optimizer(weights), optax.adam(0.1))]
    for _ in range(5):
        stepped = []
        for optimizer, at, state in pair:
            updates, state = optimizer.update(jax.grad(quadratic)(at), state, at)
            stepped.append((optimizer, optax.apply_updates(at, updates), state))
        pair = stepped
    np.testing.assert_allclose(pair[0][1]["w"], pair[1][1]["w"], rtol=1e-7)
    np.testing.assert_allclose(pair[0][1]["b"], pair[1][1]["b"], rtol=1e-7)


def test_updates_do_not_depend_on_the_size_of_gradients(key):
    weights = {**init_weights(key), "out": jnp.full((16, 2), 0.1)}
    optimizer, params = learned_optimizer(weights), jnp.arange(1.0, 4.0)
    grads = jnp.array([0.3, -0.2, 0.1])
    small, large = (optimizer.update(scale * grads, optimizer.init(params), params)[0] for scale in (1.0, 1e3))
    np.testing.assert_allclose(small, large, rtol=1e-3)


def test_a_short_experiment_writes_its_results(tmp_path, capsys):
    numbers = runs.Training(num_steps=4, tasks_per_step=2, steps_per_dispatch=2, evaluate_every=2, num_valid_tasks=2)
    options = experiment.Options(
        small=TINY,
        larger=(TINY._replace(hidden=(5, 4)),),
        batch_size=4,
        num_pairs=2,
        rates=(1e-2, 1e-1),
        steps_per_unroll=5,
        num_problems=4,
        training=numbers,
        run_dir=tmp_path / "run",
        out=tmp_path / "results.json",
    )
    record = experiment.main(options)
    assert record == json.loads((tmp_path / "results.json").read_text())
    assert [row["num_parameters"] for row in record["rows"]] == [4 * 4 + 5 * 5, 4 * 5 + 6 * 4 + 5 * 5]
    for row in record["rows"]:
        last, minus = row["last_loss"], row["learned_minus"]
        assert np.isclose(minus["Adam"]["mean"], last["learned"]["mean"] - last["Adam"]["mean"])
        assert set(row["rates"].values()) <= set(options.rates)
    assert (tmp_path / "results.png").stat().st_size > 1000
    assert picture.table(record) in capsys.readouterr().out
    again = experiment.meta_train(dataclasses.replace(options, num_problems=2))  # a finished run is left as it is
    assert again.best_step == record["best_step"]


def test_the_page_shows_what_was_measured():
    record = json.loads((ROOT / "experiments" / "learned_optimizer" / "results.json").read_text())
    page = (ROOT / "docs" / "inner_loops.md").read_text()
    assert picture.table(record) in page
    assert f"a network of {sum(leaf.size for leaf in jax.tree.leaves(init_weights(jax.random.key(0))))} weights" in page
    last, minus = ([row[name] for row in record["rows"]] for name in ("last_loss", "learned_minus"))
    assert all(each["learned"]["mean"] < each["Adam"]["mean"] for each in last)  # "everywhere"
    by_cosine = [each["Adam, cosine"]["mean"] for each in minus]
    assert [difference < 0 for difference in by_cosine] == [True, False, False, False]  # "worse only on ..."
