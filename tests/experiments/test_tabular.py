"""Real tables: how they are split and scored."""

import json

import numpy as np
import pytest

from experiments.tabular import report
from jmeta import learners
from jmeta.runs.main import run as jmeta_command


def test_means_and_differences_are_taken_split_by_split():
    areas = {report.OURS: [0.9, 0.8], report.FOREST: [0.85, 0.77]}
    one = {"name": "one", "is_bundled": True, "rows": 9, "columns": 2, "classes": 2, "areas": areas}
    two = one | {"name": "two", "areas": {report.OURS: [0.7, 0.8], report.FOREST: [0.75, 0.83]}}
    lines = report.table({"tables": [one, two, one | {"name": "three", "is_bundled": False}]}).splitlines()
    # a paired difference of 5 and 3 points is 4 ± t(0.975, 1) / √2 · √2 = 4 ± 12.7
    assert lines[2] == "| one | 9, 2, 2 | 85.0 ± 63.5 | 81.0 ± 50.8 | 4.0 ± 12.7 |"
    assert lines[4].startswith("| **mean of these 2** |  | 80.0 ± 0.0 | 80.0 ± 0.0 | 0.0 ± 0.0 |")
    assert [line.split(" | ")[0] for line in lines[3:]] == ["| two", "| **mean of these 2**", "| three"]


@pytest.fixture
def sets():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'jmeta[peers]'")
    from experiments.tabular import sets

    return sets


@pytest.mark.peers
def test_rows_are_split_by_class_and_columns_that_vary_most_are_kept(sets):
    x = np.random.default_rng(0).normal(size=(60, 3)) * [1.0, 9.0, 3.0]
    table = sets.Table("mine", x, np.repeat([0, 1, 2], [30, 20, 10]))
    draw = lambda seed: sets.split(table, num_support=40, num_queries=25, num_features=2, seed=seed)
    split = draw(0)
    assert np.bincount(split.support_y).tolist() == [15, 10, 5]  # half of 60, not 40
    assert split.query_x.shape == (25, 2)
    rows = {tuple(row) for row in x[:, 1:].astype(np.float32)}
    drawn = [tuple(row) for row in np.concatenate([split.support_x, split.query_x])]
    assert len(set(drawn)) == 55
    assert set(drawn) <= rows
    assert not np.array_equal(draw(1).support_x, split.support_x)
    np.testing.assert_array_equal(draw(0).query_x, split.query_x)


@pytest.mark.peers
def test_a_learner_is_compared_on_the_same_splits(sets):
    """The nearest mean, of rows that are padded in all directions, against its formula."""
    from experiments.tabular import __main__ as experiment

    learner = learners.nearest_mean(num_ways=5)
    classify = experiment.prior_fitted(learner, {}, num_support=80, num_queries=70, num_features=6)

    def by_formula(split, seed):
        means = np.stack([split.support_x[split.support_y == c].mean(0) for c in range(3)])
        distances = np.square(split.query_x[:, None] - means).sum(-1)
        likelihoods = np.exp(distances.min(1, keepdims=True) - distances)
        return likelihoods / likelihoods.sum(1, keepdims=True)

    iris = next(each for each in sets.bundled() if each.name == "iris")
    options = experiment.Options(num_support=40, num_queries=60, num_splits=2)
    (compared,) = experiment.compare([iris], {"ours": classify, "formula": by_formula}, options, num_features=3)
    np.testing.assert_allclose(compared["areas"]["ours"], compared["areas"]["formula"], atol=1e-3)
    assert min(compared["areas"]["ours"]) > 0.9


@pytest.mark.peers
def test_a_trained_run_is_compared_and_the_results_written(sets, tmp_path):
    from experiments.tabular import __main__ as experiment

    sizes = "--train-support 4 8 --num-support 8 --train-queries 4 --num-queries 4 --num-features 2 4 --num-ways 2 3"
    network = "--hidden 8 --width 8 --num-layers 1 --num-heads 2 --num-orders 2"
    steps = "--training.num-steps 2 --training.tasks-per-step 2 --training.steps-per-dispatch 1"
    valid = f"--training.evaluate-every 2 --training.num-valid-tasks 4 --run-dir {tmp_path / 'run'}"
    assert jmeta_command(["train", "tabular_prior_fitted", *f"{sizes} {network} {steps} {valid}".split()]) == 0
    options = experiment.Options(
        run=tmp_path / "run" / "seed_0",
        num_orders=3,
        num_support=30,
        num_queries=20,
        num_splits=2,
        out=tmp_path / "results.json",
    )
    record = experiment.main(options, [each for each in sets.bundled() if each.name == "iris"])
    assert record == json.loads(options.out.read_text())
    assert record["num_features"] == 4
    (iris,) = record["tables"]
    assert list(iris["areas"]) == [report.OURS, "logistic regression", report.FOREST, "gradient boosting"]
    assert all(0 <= value <= 1 for value in iris["areas"][report.OURS])
    assert min(iris["areas"][report.FOREST]) > 0.9


@pytest.mark.peers
def test_eight_tables_come_with_scikit_learn(sets):
    tables = sets.bundled()
    assert len(tables) == 8
    for table in tables:
        assert np.isfinite(table.x).all()
        assert np.unique(table.y).tolist() == list(range(table.y.max() + 1))


@pytest.mark.data
@pytest.mark.peers
def test_molecules_are_labelled_by_what_is_closest_to_even(sets, data_dir):
    shares = {each.name: (each.x.shape[1], round(each.y.mean(), 3)) for each in sets.molecules(data_dir)}
    assert shares == {
        "Tox21, SR-ARE": (2048, 0.162),
        "SIDER, Reproductive system and breast disorders": (2048, 0.509),
    }
