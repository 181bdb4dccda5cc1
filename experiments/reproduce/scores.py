"""Scores of class probabilities: what a row keeps of them, and the table that shows them beside accuracy.

Accuracy hides three things: how much probability a classifier gives to the truth, whether it is right as often as it
believes to be, and how it does on its worst tasks.
"""

import re
from typing import Any

import numpy as np

from jmeta.calibration import Reliability
from jmeta.evaluation import Evaluation, estimate
from jmeta.runs.evaluate import shown

from .rows import Row

NAMES = ("negative_log_likelihood", "calibration_error")
"""Scores that a row keeps for every test task."""

UNKNOWN = "–"
KINDS = ("inductive", "transductive")

INTRODUCTION = """Predictions of classes have a second table of what accuracy hides. *Worst tenth*: the mean accuracy of
the tenth of the test tasks with the lowest; a task has few queries, so part of it is chance. *NLL*: the negative
log-likelihood, in nats; five equally probable classes have 1.609. *ECE*: the expected calibration error in 15 bins, of
the predictions for all tasks together, and as the mean over tasks, where few queries in a bin bias it upwards. A dash:
the row is older than these scores.
"""


def of_evaluation(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Return the scores of an evaluation by kind of prediction, as `"scores"` of a row's facts; `{}` if it has none."""
    facts = {}
    for kind, diagram in evaluation.reliability.items():
        estimates = getattr(evaluation, kind)
        facts[kind] = {
            name: {"mean": estimates[name].mean, "half_width": estimates[name].half_width} for name in NAMES
        } | {"pooled_calibration_error": float(diagram.calibration_error())}
    return {"scores": facts} if facts else {}


def of_tasks(number: int, evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Return the scores of every task, by the number of the evaluation, the kind and the name of the score."""
    return {
        f"{number} {kind} {name}": getattr(evaluation, kind)[name].values
        for kind in evaluation.reliability
        for name in NAMES
    }


def diagrams(number: int, evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Return the reliability diagrams over all tasks, `[counts confidence correct, bins]`, by number and kind."""
    return {f"{number} {kind}": np.stack(diagram) for kind, diagram in evaluation.reliability.items()}


def diagram_of(row: Row, key: str) -> Reliability:
    """Return a kept reliability diagram."""
    return Reliability(*row.reliability[key])


def worst_tenth(accuracies: np.ndarray) -> float:
    """Return the mean over the tenth of the tasks with the lowest accuracy, at least one task.

    Example:
      >>> worst_tenth(np.array([1.0] * 18 + [0.25, 0.75]))
      0.5
    """
    return float(np.sort(accuracies)[: max(1, len(accuracies) // 10)].mean())


def table(recorded: list[Row]) -> str:
    """Return the table of rows that predict classes, a line for each evaluation and kind of prediction."""
    names = ["method", "tasks", "predictions", "accuracy", "worst tenth", "NLL", "ECE", "ECE a task"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in recorded:
        for i, evaluation in enumerate(row.facts["evaluations"]):
            for kind in KINDS:
                if (accuracies := row.per_task.get(f"{i} {kind}")) is None:
                    continue
                cells = [row.facts["title"], _tasks(evaluation["protocol"]), kind]
                cells += [shown("accuracy", estimate(accuracies)), f"{100 * worst_tenth(accuracies):.1f} %"]
                lines.append(f"| {' | '.join([*cells, *_scores(row, i, kind)])} |")
    return "\n".join(lines) + "\n"


def _scores(row: Row, number: int, kind: str) -> list[str]:
    if f"{number} {kind}" not in row.reliability:
        return [UNKNOWN] * 3
    nll, per_task = (shown(name, estimate(row.per_task[f"{number} {kind} {name}"])) for name in NAMES)
    return [nll, f"{diagram_of(row, f'{number} {kind}').calibration_error():.3f}", per_task]


def _tasks(protocol: str) -> str:
    """Return the ways, the shots and the inner steps that a protocol's words name."""
    return ", ".join(re.findall(r"\d+-way \d+-shot|\d+ inner steps?", protocol))
