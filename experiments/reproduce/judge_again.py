"""Judge kept rows again from their weights: `python -m experiments.reproduce.judge_again NAME ...`.

It is for rows that are older than a score that rows keep now.
"""

import sys

import tyro

from jmeta.evaluation import estimate
from jmeta.runs import console

from . import record, rows

PROGRAM = "python -m experiments.reproduce.judge_again"


def judge_again(name: str) -> rows.Row:
    """Evaluate a row's weights on its own tasks and write the row, with all scores.

    Raises:
      ValueError: if the metric is not what the row says: its mean moved by more than its interval.
    """
    old = rows.read(name)
    new, _ = record.judged(old)
    if old.per_task.keys() - new.per_task.keys():
        raise ValueError(f"{name} has results of {sorted(old.per_task)}, but now there are {sorted(new.per_task)}")
    for key, values in old.per_task.items():
        before, now = estimate(values), estimate(new.per_task[key])
        if not abs(now.mean - before.mean) <= before.half_width:
            raise ValueError(f"{name}, {key}: the row says {before}, but its weights have {now} on the same tasks")
    rows.write(new)
    return new


def _judge_all(names: list[str]) -> None:
    for name in names:
        new = judge_again(name)
        print(name, *(f"{evaluation['inductive']['mean']:.4f}" for evaluation in new.facts["evaluations"]))


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    names = tyro.cli(tyro.conf.Positional[list[str]], args=arguments, prog=PROGRAM, description=__doc__)
    console.use_compilation_cache()
    return console.run_command(lambda: _judge_all(names), if_interrupted="the rows that were printed are written")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
