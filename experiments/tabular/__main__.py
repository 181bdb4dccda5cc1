"""Compare a prior-fitted classifier with scikit-learn's classifiers on real tables that it has never seen.

    python -m experiments.tabular                 about 3 minutes on a CPU core; --help lists the options

The weights are those of a row of RESULTS.md or of a run, trained on synthetic tables alone. All methods see the same
rows and the same columns. Nothing is tuned: scikit-learn's classifiers have their default options, but for more
iterations and trees, and logistic regression has standardized columns. Needs `pip install "jmeta[peers]"`.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier  # pyright: ignore[reportMissingImports]
from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]
from sklearn.metrics import roc_auc_score  # pyright: ignore[reportMissingImports]
from sklearn.pipeline import make_pipeline  # pyright: ignore[reportMissingImports]
from sklearn.preprocessing import StandardScaler  # pyright: ignore[reportMissingImports]

from jmeta import Batch, Learner
from jmeta.runs import Experiment, console, evaluate
from jmeta.runs.options import replaced
from jmeta.types import PyTree

from ..reproduce import rows
from . import report, sets

Classifier = Callable[[sets.Split, int], np.ndarray]
"""`(split, seed) -> probabilities`, `[queries, classes]`."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Test the prior-fitted classifier of a row beside scikit-learn's classifiers."""

    run: pathlib.Path | None = None
    """Folder of one seed's run of `tabular_prior_fitted`; the weights of `row` if not given."""
    row: str = "tabular_prior_fitted"
    """Row of the results whose weights are used."""
    num_orders: int = 32
    """Orders of columns and classes that its predictions are averaged over."""
    num_support: int = 100
    """Labelled rows; at most half of a table's."""
    num_queries: int = 200
    """Most rows that are predicted."""
    num_splits: int = 10
    """Random splits of each table."""
    out: pathlib.Path = pathlib.Path("experiments/tabular/results.json")
    """The JSON file to write."""


def trained(options: Options) -> tuple[Experiment, PyTree]:
    """Return the experiment and the meta-parameters of the run or the row."""
    orders = {"num_orders": options.num_orders}
    if options.run is None:
        row = rows.read(options.row)
        experiment = rows.experiment_of(row.facts, variant=orders)
        return experiment, rows.restored(experiment, row.meta_params)
    recipe, of_run, meta_params = evaluate.load_run(options.run)
    return evaluate.tested_otherwise(recipe, of_run, replaced(of_run, orders)), meta_params


def prior_fitted(
    learner: Learner, meta_params: PyTree, *, num_support: int, num_queries: int, num_features: int
) -> Classifier:
    """Build a classifier of a learner: everything is padded to these sizes, so that one program serves all tables."""

    @jax.jit
    def probabilities(support: Batch, x: jax.Array, seed: jax.Array) -> jax.Array:
        adapted = learner.adapt(meta_params, support, jax.random.key(seed))
        return jax.nn.softmax(learner.predict(meta_params, adapted, x, None))

    def padded(values: np.ndarray, num_rows: int) -> jax.Array:
        shape = (num_rows, num_features)[: values.ndim]
        widths = [(0, size - present) for size, present in zip(shape, values.shape, strict=True)]
        return jnp.asarray(np.pad(values, widths))

    def classify(split: sets.Split, seed: int) -> np.ndarray:
        support = Batch(
            padded(split.support_x, num_support),
            padded(split.support_y.astype(np.int32), num_support),
            jnp.arange(num_support) < len(split.support_y),
        )
        found = probabilities(support, padded(split.query_x, num_queries), jnp.uint32(seed))
        return np.asarray(found)[: len(split.query_y), : split.support_y.max() + 1]

    return classify


def of_sklearn(make: Callable[[int], Any]) -> Classifier:
    """Build a classifier of `seed -> estimator`."""
    return lambda split, seed: make(seed).fit(split.support_x, split.support_y).predict_proba(split.query_x)


def peers() -> dict[str, Classifier]:
    """Return scikit-learn's classifiers by name."""
    return {
        "logistic regression": of_sklearn(lambda _: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))),
        report.FOREST: of_sklearn(lambda seed: RandomForestClassifier(300, random_state=seed)),
        "gradient boosting": of_sklearn(lambda seed: GradientBoostingClassifier(random_state=seed)),
    }


def area(split: sets.Split, probabilities: np.ndarray) -> float:
    """Return the area under the ROC curve; with several classes, the mean over pairs of them."""
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(split.query_y, probabilities[:, 1]))
    normalized = probabilities / probabilities.sum(1, keepdims=True)
    return float(roc_auc_score(split.query_y, normalized, multi_class="ovo"))


def compare(
    tables: list[sets.Table], classifiers: Mapping[str, Classifier], options: Options, num_features: int
) -> list[dict[str, Any]]:
    """Return the area of every classifier on the splits of every table."""
    compared = []
    for table in tables:
        areas: dict[str, list[float]] = {name: [] for name in classifiers}
        for seed in range(options.num_splits):
            split = sets.split(
                table,
                num_support=options.num_support,
                num_queries=options.num_queries,
                num_features=num_features,
                seed=seed,
            )
            for name, classify in classifiers.items():
                areas[name].append(round(area(split, classify(split, seed)), 5))
        shown = {name: f"{np.mean(values):.3f}" for name, values in areas.items()}
        print(table.name, shown, flush=True)
        sizes = {"rows": len(table.y), "columns": table.x.shape[1], "classes": int(table.y.max()) + 1}
        compared.append({"name": table.name, "is_bundled": table.is_bundled, **sizes, "areas": areas})
    return compared


def main(options: Options, tables: list[sets.Table] | None = None) -> dict[str, Any]:
    """Test, write the results and print them; on these tables, if not on all that there are."""
    console.use_compilation_cache()
    experiment, meta_params = trained(options)
    assert isinstance(experiment.tested, Learner)
    num_features = jax.eval_shape(experiment.source.meta_test, jax.random.key(0)).query.x.shape[1]
    ours = prior_fitted(
        experiment.tested,
        meta_params,
        num_support=options.num_support,
        num_queries=options.num_queries,
        num_features=num_features,
    )
    if tables is None:
        data_dir = os.environ.get("JMETA_DATA")
        tables = sets.bundled() + (sets.molecules(pathlib.Path(data_dir)) if data_dir else [])
    record = {
        **{name: getattr(options, name) for name in ("row", "num_orders", "num_support", "num_queries", "num_splits")},
        "num_features": num_features,
        "tables": compare(tables, {report.OURS: ours, **peers()}, options, num_features),
    }
    options.out.write_text(json.dumps(record) + "\n")
    print(report.table(record))
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
