"""Make a row of the results from a trained run: `python -m experiments.reproduce.record RUN NAME --title "..."`.

The run is judged on the whole of its protocol, and its weights are kept beside the numbers. A baseline learns nothing
from other tasks: its row has no weights, and takes from the run what it is compared with, tasks and network.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any, Literal

import tyro

from configs import parts

from .. import console, evaluate, metrics_log
from . import rows

OF_ROLLOUT = "return_of_rollout_"


@dataclasses.dataclass(frozen=True)
class Options:
    """Judge a trained run and keep the result, with its weights, as a row of the results table."""

    run: tyro.conf.Positional[pathlib.Path]
    """Folder of one seed's run."""
    name: tyro.conf.Positional[str]
    """Of the row's files."""
    title: str
    """What the table calls the row."""
    protocol: parts.ProtocolName | None = None
    """Another protocol than the recipe's."""
    num_ways: int | None = None
    """Classes in a test task, in place of the recipe's."""
    num_shots: int | None = None
    """Support examples of each class, in place of the recipe's."""
    num_tasks: int | None = None
    """Test tasks, in place of the protocol's."""
    tested_on: parts.TestedOn | None = None
    """Bodies of robots inside or outside of training's ranges, in place of the recipe's."""
    inner_steps: tuple[int, ...] = ()
    """Numbers of inner steps to judge, one line each."""
    baseline: Literal["nearest mean", "from scratch"] | None = None
    """Judge this on the run's tasks, in place of what the run has learned."""


def record(options: Options) -> rows.Row:
    """Judge, and write the row."""
    name, recipe, meta_params = evaluate.load_run(options.run)
    asked = ("protocol", "num_ways", "num_shots", "num_tasks", "tested_on", "inner_steps")
    test = {key: getattr(options, key) for key in asked}
    if options.baseline is not None:
        test, meta_params = test | {"baseline": options.baseline}, {}
    recorded = json.loads((options.run / "config.json").read_text())
    facts: dict[str, Any] = {
        "title": options.title,
        "recipe": name,
        "command": rows.command_of(name, recipe),
        "hash": recorded["hash"],
        "options": recorded["options"],
        "test": test | {"inner_steps": list(options.inner_steps)},
        "seed": recipe.training.seed,
        "train": None if options.baseline else _training(options.run, recipe.training.num_steps),
    }
    _, experiment = rows.experiment_of(facts)
    facts["split_hash"] = experiment.source.split_hash
    timed = [
        evaluate.timed_evaluation(
            experiment, learner, meta_params, tasks_at_once=recipe.testing.tasks_at_once, num_steps=steps
        )
        for learner, steps in rows.learners_of(facts, recipe, experiment)
    ]
    facts["metric"] = evaluate.main_metric(timed[0].evaluation)
    facts["evaluations"] = [_of_metric(evaluate.as_json(each.evaluation), facts["metric"]) for each in timed]
    per_task = {
        f"{i} {kind}": estimates[facts["metric"]].values
        for i, each in enumerate(timed)
        for kind in ("inductive", "transductive")
        if (estimates := getattr(each.evaluation, kind)) is not None
    }
    row = rows.Row(options.name, facts, rows.flattened(meta_params), per_task)
    rows.write(row)
    console.print_table(options.title, [evaluate.table_row(options.name, each) for each in timed])
    return row


def _of_metric(evaluation: dict[str, Any], metric: str) -> dict[str, Any]:
    """The metric alone; of an episode of several rollouts the return of each, too."""
    kinds = {kind: evaluation[kind] and evaluation[kind][metric] for kind in ("inductive", "transductive")}
    names = [name for name in evaluation["inductive"] if name.startswith(OF_ROLLOUT)]
    by_rollout = [evaluation["inductive"][f"{OF_ROLLOUT}{number + 1}"] for number in range(len(names))]
    return evaluation | kinds | ({"by_rollout": by_rollout} if by_rollout else {})


def _training(folder: pathlib.Path, num_steps: int) -> dict[str, Any]:
    """How long the run trained and on what, by its own log; seconds of meta-steps, without compiling and validating."""
    trained = metrics_log.read_metrics(folder, "meta_train")
    session = json.loads((folder / "sessions.jsonl").read_text().splitlines()[-1])
    return {
        "device": session["device"],
        "cpus": session["cpus"],
        "jax": session["jax"],
        "num_steps": max(line["step"] for line in trained),
        "of_num_steps": num_steps,
        "seconds": round(sum(line["seconds"] for line in trained), 1),
    }


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.reproduce.record")
    console.use_compilation_cache()
    return console.run_command(lambda: print(f"recorded {record(options).name}"), if_interrupted="nothing was recorded")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
