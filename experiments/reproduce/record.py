"""Make a row of the results from a trained run: `python -m experiments.reproduce.record RUN NAME --title "..."`.

The run is evaluated on its whole protocol, and its weights are kept with the numbers. As with `jmeta evaluate`, any
option of the recipe can get another value for the evaluation. A baseline learns nothing from other tasks: its row has
no weights, and it uses the run's tasks and network.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import tyro

from jmeta.runs import console, evaluate, log, options, uncertainty
from jmeta.runs import folder as run_folder

from . import rows, scores

OF_ROLLOUT = "return_of_rollout_"
PROGRAM = "python -m experiments.reproduce.record"


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate a trained run and keep the result, with its weights, as a row of the results table."""

    run: tyro.conf.Positional[pathlib.Path]
    """Folder of one seed's run of a recipe that comes with jmeta."""
    name: tyro.conf.Positional[str]
    """Name of the row's files."""
    title: str
    """Title of the row in the table."""
    inner_steps: tuple[int, ...] = ()
    """Numbers of inner steps to evaluate, one line each."""
    variants: tuple[str, ...] = ()
    """Values of an option to evaluate, one line each, such as `num_shots=1 num_shots=5`."""
    baseline: str | None = None
    """Baseline of the recipe, such as "nearest mean of the inputs", to evaluate on the run's tasks in place of the
    trained learner."""


def record(asked: Options, overrides: list[str]) -> rows.Row:
    """Evaluate a run and write its row.

    Args:
      asked: the options of the command.
      overrides: command-line words that change options of the recipe.

    Raises:
      ValueError: if the run's recipe does not come with jmeta, or has no such baseline or no inner steps.
    """
    if not run_folder.read_config(asked.run).is_ours:
        raise ValueError(f"{asked.run} is a run of a recipe file; a row needs a run of a recipe that comes with jmeta")
    recipe, trained, meta_params = evaluate.load_run(asked.run)
    tested = evaluate.overridden(recipe, trained, overrides, program=f"{PROGRAM} RUN NAME")
    test = {"options": options.differences(tested, trained), "inner_steps": list(asked.inner_steps)}
    if asked.baseline is not None:
        test, meta_params = test | {"baseline": asked.baseline}, {}
    if asked.variants:
        test["variants"] = [_variant(words, tested) for words in asked.variants]
    recorded = options.recorded(trained)
    facts: dict[str, Any] = {
        "title": asked.title,
        "recipe": recipe.name,
        "command": rows.command_of(recipe, trained),
        "hash": options.hash_of(recorded),
        "options": recorded,
        "test": test,
        "seed": trained.training.seed,
        "train": None if asked.baseline else _training(asked.run, trained.training.num_steps),
    }
    row, timed = judged(rows.Row(asked.name, facts, rows.flattened(meta_params), {}, {}))
    rows.write(row)
    console.print_table(asked.title, [evaluate.table_row(asked.name, each) for each in timed])
    return row


def judged(row: rows.Row) -> tuple[rows.Row, list[evaluate.Timed]]:
    """Evaluate a row's meta-parameters as its facts say; return it with the results, and the evaluations."""
    lines, timed = rows.lines_of(row.facts), []
    for experiment, learner, steps in lines:
        scored = uncertainty.with_scores(experiment) if experiment.metric == "accuracy" else experiment
        meta_params = rows.restored(experiment, row.meta_params)
        timed.append(evaluate.timed_evaluation(scored, learner, meta_params, num_steps=steps))
    metric = evaluate.main_metric(timed[0].evaluation)
    per_task, reliability = {}, {}
    for i, (evaluation, *_) in enumerate(timed):
        kinds = {kind: getattr(evaluation, kind) for kind in ("inductive", "transductive")}
        per_task |= {f"{i} {kind}": each[metric].values for kind, each in kinds.items() if each is not None}
        per_task |= scores.of_tasks(i, evaluation)
        reliability |= scores.diagrams(i, evaluation)
    facts = row.facts | {
        "split_hash": lines[0].experiment.source.split_hash,
        "metric": metric,
        "evaluations": [
            _of_metric(evaluate.as_json(each._replace(reliability={})), metric) | scores.of_evaluation(each)
            for each, *_ in timed
        ],
    }
    return row._replace(facts=facts, per_task=per_task, reliability=reliability), timed


def _variant(words: str, tested: Any) -> dict[str, Any]:
    """Return the option that a variant names, with its value: `{"num_shots": 5}` of `num_shots=5`."""
    name, is_given, text = words.partition("=")
    if not is_given:
        raise ValueError(f"--variants {words}; expected an option and its value, such as num_shots=5")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    options.replaced(tested, {name: value})  # refuses what is no option, or of another type
    return {name: value}


def _of_metric(evaluation: dict[str, Any], metric: str) -> dict[str, Any]:
    """Keep this metric, and where there are any, the return of each rollout and the squared error of means."""
    kinds = {kind: evaluation[kind] and evaluation[kind][metric] for kind in ("inductive", "transductive")}
    inductive = evaluation["inductive"]
    names = [name for name in inductive if name.startswith(OF_ROLLOUT)]
    by_rollout = [inductive[f"{OF_ROLLOUT}{number + 1}"] for number in range(len(names))]
    others = {"by_rollout": by_rollout} if by_rollout else {}
    if inductive.keys() >= {"negative_log_likelihood", "squared_error"}:
        others |= {"squared_error": inductive["squared_error"]}
    return evaluation | kinds | others


def _training(folder: pathlib.Path, num_steps: int) -> dict[str, Any]:
    """Return the run's device and training time from its log: seconds of meta-steps, no compiling and validating."""
    trained = log.read_metrics(folder, "meta_train")
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
    """Run the command line; return the exit status."""
    asked, overrides = tyro.cli(Options, args=arguments, prog=PROGRAM, return_unknown_args=True)
    console.use_compilation_cache()
    return console.run_command(
        lambda: print(f"recorded {record(asked, overrides).name}"), if_interrupted="nothing was recorded"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
