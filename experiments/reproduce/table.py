"""Write RESULTS.md from the recorded rows: `python -m experiments.reproduce.table`.

Nothing in that file is typed by hand except the papers' results, which are a table in this module.
"""

import pathlib
import re
import sys
from typing import Any

import numpy as np

from jmeta.evaluation import Estimate, estimate, paired_difference
from jmeta.runs import files, recipes
from jmeta.runs.evaluate import shown

from ..benchmarks import report_accelerators
from . import acting_table, rows, scores

RESULTS = pathlib.Path(__file__).parents[2] / "RESULTS.md"

INTRODUCTION = """# Results

Made by `python -m experiments.reproduce.table` from the rows in `experiments/reproduce/rows`; nothing is typed by
hand. Intervals are 95 %, over test tasks. *Inductive*: each query is predicted without the others. *Transductive*: all
queries of a task are predicted together, where that makes a difference. Every trained row keeps its weights: the test
suite evaluates them again on other tasks, and fails if the result is more than three standard errors away. Where a run
was shorter than its recipe, the column of meta-steps says so. The time is that of the meta-steps, on the device named;
compiling and evaluating on meta_valid take extra time. Losses of distributions are in nats; the squared error is that
of their mean, which for numbers that are 0 or 1 is half the Brier score.

A number is valid for its protocol, which is named in the row, and for our seeded splits. The papers' results, under
their protocols, are in a separate table below, for orientation and not for comparison.
"""

# Only numbers from the papers' own tables.
PUBLISHED = """| paper | protocol | 5-way 1-shot | 5-way 5-shot | 20-way 1-shot | 20-way 5-shot |
|---|---|---|---|---|---|
| MAML (Finn et al. 2017) | finn2017, transductive | 98.7 ± 0.4 | 99.9 ± 0.1 | 95.8 ± 0.3 | 98.9 ± 0.2 |
| first-order MAML (same) | finn2017, transductive | 98.3 ± 0.5 | 99.2 ± 0.2 | 89.4 ± 0.5 | 97.9 ± 0.1 |
| Reptile (Nichol et al. 2018) | reptile2018, inductive | 95.39 ± 0.09 | 98.90 ± 0.10 | 88.14 ± 0.15 | 96.65 ± 0.33 |
| Reptile (same) | reptile2018, transductive | 97.68 ± 0.04 | 99.48 ± 0.06 | 89.43 ± 0.14 | 97.12 ± 0.32 |
| prototypical networks (Snell et al. 2017) | vinyals | 98.8 | 99.7 | 96.0 | 98.9 |
| matching networks (Vinyals et al. 2016) | vinyals | 98.1 | 98.9 | 93.8 | 98.5 |

Sinusoids, mean squared error of MAML at 5 shots, trained with 10, after 1, 5 and 10 inner steps: 0.67, 0.38, 0.35 (Finn
et al. 2017).
"""

# Rows that differ in one thing: evaluated on the same test tasks, so the difference is taken task by task.
PAIRS = (("omniglot_maml_20w1s", "omniglot_first_order_maml_20w1s"),)


def render() -> str:
    """Return the text of RESULTS.md."""
    recorded = [rows.read(name) for name in rows.names()]
    parts = [INTRODUCTION, scores.INTRODUCTION, "## Measured\n"]
    predicting = [row for row in recorded if row.facts["metric"] != "return"]
    for data in sorted({_data(row) for row in predicting}):
        of_data = [row for row in predicting if _data(row) == data]
        parts += [f"### {data}\n", _table(of_data)]
        if of_classes := [row for row in of_data if row.facts["metric"] == "accuracy"]:
            parts += [scores.table(of_classes)]
    parts += [text for pair in PAIRS if (text := _difference(*pair, {row.name: row for row in recorded}))]
    parts += acting_table.section(recorded)
    parts += [report_accelerators.results_section(report_accelerators.recorded())]
    parts += ["## How each row was made\n", *(_details(row) for row in recorded)]
    parts += ["## Published results\n", PUBLISHED]
    return "\n".join(parts)


def _data(row: rows.Row) -> str:
    """Return the heading of a row, the name of its data: the first words of its protocol."""
    return re.split(r"/|,| \d", row.facts["evaluations"][0]["protocol"])[0]


EXACT = "exact posterior"
"""The baseline that no learner can beat, in recipes of tasks that have it."""
NEAREST = "completion_nearest"
"""End of the names of recipes of the nearest pixels, with which other completions of images are compared."""


def _reference(recorded: list[rows.Row]) -> tuple[str, dict[str, np.ndarray]]:
    """Return what rows are compared with, and its loss for each test task, by protocol."""
    by_name = {
        "the exact posterior": [row for row in recorded if row.facts["test"].get("baseline") == EXACT],
        "the nearest pixels": [row for row in recorded if row.facts["recipe"].endswith(NEAREST)],
    }
    for name, chosen in by_name.items():
        losses = {
            evaluation["protocol"]: row.per_task[f"{i} inductive"]
            for row in chosen
            for i, evaluation in enumerate(row.facts["evaluations"])
        }
        if losses:
            return name, losses
    return "", {}


def _table(recorded: list[rows.Row]) -> str:
    compared_with, losses = _reference(recorded)
    has_squares = any("squared_error" in each for row in recorded for each in row.facts["evaluations"])
    names = ["method", "protocol", "inductive", "transductive", *([f"above {compared_with}"] if losses else [])]
    names += [*(["squared error"] if has_squares else []), "meta-steps", "training"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in recorded:
        facts, train = row.facts, row.facts["train"]
        for i, evaluation in enumerate(facts["evaluations"]):
            values = {kind: row.per_task.get(f"{i} {kind}") for kind in ("inductive", "transductive")}
            cells = ["same" if value is None else shown(facts["metric"], estimate(value)) for value in values.values()]
            if losses:
                best = losses.get(re.sub(r", \d+ inner steps?$", "", evaluation["protocol"]))
                gap = None if best is None else estimate(values["inductive"] - best)  # task by task
                cells.append("" if gap is None else shown(facts["metric"], gap))
            if has_squares:
                error = evaluation.get("squared_error")
                cells.append("" if error is None else "{mean:.4f} ± {half_width:.4f}".format(**error))
            trained = ["none", "none"] if train is None else _training(facts["recipe"], train)
            lines.append(f"| {' | '.join([facts['title'], evaluation['protocol'], *cells, *trained])} |")
    return "\n".join(lines) + "\n"


def _training(recipe: str, train: dict[str, Any]) -> list[str]:
    """Return the cells of a row's training: its meta-steps, of how many if it was shorter, and their time."""
    steps, whole = f"{train['num_steps']:,}", recipes.load(recipe).options().training.num_steps
    if train["num_steps"] < whole:
        steps += f" of the recipe's {whole:,}"
    if train["num_steps"] < train["of_num_steps"]:
        steps += " (stopped early)"
    cores = "1 core" if train["cpus"] == 1 else f"{train['cpus']} cores"
    return [steps, f"{train['seconds'] / 60:.1f} min, {train['device']}, {cores}"]


def _difference(first: str, second: str, by_name: dict[str, rows.Row]) -> str | None:
    if not {first, second} <= set(by_name):
        return None
    lines = []
    for kind in ("inductive", "transductive"):
        difference: Estimate = paired_difference(
            *(estimate(by_name[name].per_task[f"0 {kind}"]) for name in (first, second))
        )
        lines.append(f"* {kind}: {shown('accuracy', difference)}")
    titles = [by_name[name].facts["title"] for name in (first, second)]
    return f"{titles[0]} minus {titles[1]}, task by task:\n\n" + "\n".join(lines) + "\n"


def _details(row: rows.Row) -> str:
    facts = row.facts
    split = f", split {facts['split_hash'][:12]}" if facts["split_hash"] else ""
    if (baseline := facts["test"].get("baseline")) is not None:
        data_and_network = f"on the tasks{', with the network' if baseline.startswith('from scratch') else ''} of"
        return f"* **{facts['title']}**. `{row.name}`: {data_and_network} `{facts['recipe']}`{split}; not trained.\n"
    default = f"`{row.name}`: configuration {facts['hash']}{split}, seed {facts['seed']}, jax {facts['train']['jax']}"
    return f"* **{facts['title']}**. {default}.\n\n  ```\n  {facts['command']}\n  ```\n"


def main() -> int:
    """Write the file."""
    files.replace_text(RESULTS, render())
    print(f"wrote {RESULTS.name} from {len(rows.names())} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
