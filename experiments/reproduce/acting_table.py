"""The part of RESULTS.md on methods that act: trained rows, baselines, exact optima and the papers' results."""

import json
from typing import Any

import numpy as np

from jmeta.evaluation import estimate
from jmeta.runs.evaluate import shown

from . import rl_baselines, rows

ROBOTS = rows.FOLDER.parent / "robots.json"
INTRODUCTION = """Returns are total rewards of an episode. Every trained row comes from one seed, and intervals are over
tasks alone. Trained rows act greedily unless their recipe says otherwise. Baselines learn nothing from other tasks;
their free parameters were tuned on tasks of another seed (`python -m experiments.reproduce.rl_baselines`). The
published column has the papers' results, with their own tuning, for orientation. With 500 pulls there are only
baselines: learning to act for so long needs an accelerator, and none was available.
"""

# From the papers' tables; total rewards of 1000 test tasks.
PUBLISHED_BANDITS: dict[tuple[int, int], dict[str, float]] = {
    (10, 5): {
        "gittins": 6.6,
        "random": 5.0,
        "rl2": 6.7,
        "thompson_sampling": 5.7,
        "ucb1": 6.7,
        "greedy": 6.6,
        "optimistic_thompson_sampling": 6.5,
    },
    (10, 10): {
        "gittins": 6.6,
        "random": 5.0,
        "rl2": 6.7,
        "thompson_sampling": 5.5,
        "ucb1": 6.7,
        "greedy": 6.6,
        "optimistic_thompson_sampling": 6.2,
    },
    (10, 50): {
        "gittins": 6.5,
        "random": 5.1,
        "rl2": 6.8,
        "thompson_sampling": 5.2,
        "ucb1": 6.6,
        "greedy": 6.5,
        "optimistic_thompson_sampling": 5.5,
    },
    (100, 5): {
        "gittins": 78.3,
        "random": 49.9,
        "rl2": 78.7,
        "thompson_sampling": 74.7,
        "ucb1": 78.0,
        "greedy": 74.8,
        "optimistic_thompson_sampling": 77.9,
    },
    (100, 10): {
        "gittins": 82.8,
        "random": 49.9,
        "rl2": 83.5,
        "thompson_sampling": 76.7,
        "ucb1": 82.4,
        "greedy": 77.1,
        "optimistic_thompson_sampling": 81.4,
    },
    (100, 50): {
        "gittins": 85.2,
        "random": 49.8,
        "rl2": 84.9,
        "thompson_sampling": 64.5,
        "ucb1": 84.3,
        "greedy": 78.0,
        "optimistic_thompson_sampling": 67.7,
    },
    (500, 5): {
        "gittins": 405.8,
        "random": 249.8,
        "rl2": 401.6,
        "thompson_sampling": 402.0,
        "ucb1": 405.8,
        "optimistic_thompson_sampling": 406.7,
    },
    (500, 10): {
        "gittins": 437.8,
        "random": 249.0,
        "rl2": 432.5,
        "thompson_sampling": 429.5,
        "ucb1": 437.1,
        "optimistic_thompson_sampling": 438.9,
    },
    (500, 50): {
        "gittins": 463.7,
        "random": 249.6,
        "rl2": 438.9,
        "thompson_sampling": 427.2,
        "ucb1": 457.6,
        "optimistic_thompson_sampling": 437.6,
    },
}
# Published as shares of a normaliser; another table of the same paper has the raw rewards of 10 rollouts.
PUBLISHED_MDPS: dict[int, dict[str, str]] = {
    10: {"rl2": ".752", "psrl": ".665", "optimistic_psrl": ".694", "ucrl2": ".706", "epsilon_greedy": ".640"},
    25: {"rl2": ".859", "psrl": ".788", "optimistic_psrl": ".819", "ucrl2": ".817", "epsilon_greedy": ".727"},
}
OPTIMUM_OF_A_ROLLOUT = 21.83  # mean of the exact optima of 100,000 tabular MDPs, ± 0.01

AIMS_OF_NAVIGATION = {1: -12.0, 2: -4.0}  # lowest mean return aimed at, by number of inner steps


def section(recorded: list[rows.Row]) -> list[str]:
    """Return the paragraphs of this part, from the rows that act; an empty list if there are none."""
    acting = [row for row in recorded if row.facts["metric"] == "return"]
    baselines = json.loads(rl_baselines.RESULTS.read_text()) if rl_baselines.RESULTS.exists() else []
    parts = []
    for pulls, arms in sorted({(row["num_pulls"], row["num_arms"]) for row in baselines if "num_pulls" in row}):
        parts += _bandits(pulls, arms, acting, baselines)
    for count in sorted({row["num_rollouts"] for row in baselines if row["problem"] == "tabular_mdp"}):
        parts += _mdps(count, acting, baselines)
    parts += _by_inner_steps(_of("point navigation", acting))
    parts += _by_rollout(_of("point navigation", acting))
    parts += _robots() + _familiar_robots(_of("", acting, tested_on="trained"))
    return ["## Acting in environments\n", INTRODUCTION, *parts] if parts else []


def _of(words: str, acting: list[rows.Row], **options: int | str) -> list[rows.Row]:
    """Return the trained rows that have these words in their protocol and were evaluated with these options."""
    found = []
    for row in acting:
        judged_with = row.facts["options"] | row.facts["test"]["options"]
        is_judged_so = all(judged_with.get(name) == value for name, value in options.items())
        if words in row.facts["evaluations"][0]["protocol"] and is_judged_so:
            found.append(row)
    return found


def _bandits(pulls: int, arms: int, acting: list[rows.Row], baselines: list[dict[str, Any]]) -> list[str]:
    published = PUBLISHED_BANDITS.get((pulls, arms), {})
    lines = [
        f"### Bernoulli bandits, {pulls} pulls, {arms} arms\n",
        "| method | total reward | tasks | published |",
        "|---|---|---|---|",
    ]
    for row in _of("bandit", acting, num_pulls=pulls, num_arms=arms):
        is_recurrent = "max_span" in row.facts["options"]  # the published result is that of a recurrent network
        lines.append(_line(row, str(published.get("rl2", "")) if is_recurrent else ""))
    for row in _sorted(baselines):
        if (row.get("num_pulls"), row.get("num_arms")) == (pulls, arms):
            lines.append(_baseline_line(row, str(published.get(row["method"], ""))))
    return ["\n".join(lines) + "\n"]


def _mdps(count: int, acting: list[rows.Row], baselines: list[dict[str, Any]]) -> list[str]:
    published = PUBLISHED_MDPS.get(count, {})
    best = OPTIMUM_OF_A_ROLLOUT * count
    lines = [
        f"### Random tabular MDPs, {count} rollouts\n",
        f"Shares are relative to the exact optimum, {OPTIMUM_OF_A_ROLLOUT} a rollout; those of the papers are relative "
        "to a lower normaliser, about 20.75.\n",
        "| method | total reward | share of the optimum | tasks | published share |",
        "|---|---|---|---|---|",
    ]
    for row in _of("tabular MDP", acting, num_rollouts=count):
        values = row.per_task["0 inductive"]
        cells = [
            row.facts["title"],
            shown("return", estimate(values)),
            f"{values.mean() / best:.3f}",
            f"{len(values):,}",
        ]
        lines.append(f"| {' | '.join([*cells, published.get('rl2', '')])} |")
    here = [row for row in _sorted(baselines) if row["problem"] == "tabular_mdp" and row["num_rollouts"] == count]
    for i, row in enumerate(here):
        if row["method"] not in {other["method"] for other in here[:i] if other["method"] == "random"}:
            prior = f", prior mean {row['reward_mean']:g}" if row["method"] != "random" else ""
            cells = [_named(row) + prior, _value(row), f"{row['mean'] / best:.3f}", f"{row['num_tasks']:,}"]
            lines.append(f"| {' | '.join([*cells, published.get(row['method'], '')])} |")
    return ["\n".join(lines) + "\n"]


def _by_inner_steps(acting: list[rows.Row]) -> list[str]:
    """Return the table of methods that adapt by gradient steps, evaluated after several numbers of steps."""
    stepping = [row for row in acting if row.facts["test"]["inner_steps"]]
    if not stepping:
        return []
    nums = sorted({steps for row in stepping for steps in row.facts["test"]["inner_steps"]})
    header = ["method", *(f"{steps} steps" for steps in nums), "tasks", "meta-steps"]
    lines = [
        "### Point navigation, return after gradient steps\n",
        "Means, and medians in brackets: after two or more steps a few tasks, in which a step went much too far, "
        "dominate the mean of MAML with TRPO. The MAML paper reports −40.41, −11.68, −3.33 and −3.23 after 0, 1, 2 "
        f"and 3 steps. {_aims_of_navigation(stepping)}\n",
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
    ]
    for row in stepping:
        places = {steps: i for i, steps in enumerate(row.facts["test"]["inner_steps"])}
        values = [row.per_task[f"{places[steps]} inductive"] for steps in nums]
        measured = [f"{shown('return', estimate(each))} ({np.median(each):.2f})" for each in values]
        cells = [row.facts["title"], *measured, f"{len(values[0]):,}"]
        lines.append(f"| {' | '.join([*cells, str(row.facts['train']['num_steps'])])} |")
    return ["\n".join(lines) + "\n"]


def _aims_of_navigation(stepping: list[rows.Row]) -> str:
    parts = []
    for steps, aim in AIMS_OF_NAVIGATION.items():
        means = {
            row.facts["title"]: row.per_task[f"{i} inductive"].mean()
            for row in stepping
            for i, number in enumerate(row.facts["test"]["inner_steps"])
            if number == steps
        }
        best = max(means, key=lambda title: means[title])
        verdict = "met" if means[best] >= aim else "missed"
        parts.append(f"at least {aim:.0f} after {steps} ({verdict}: {means[best]:.2f} by {best})")
    return f"Aims: {'; '.join(parts)}."


def _by_rollout(acting: list[rows.Row]) -> list[str]:
    """Return the tables of methods with memory, evaluated in each rollout of an episode."""
    parts = []
    remembering = [row for row in acting if "by_rollout" in row.facts["evaluations"][0]]
    for protocol in sorted({row.facts["evaluations"][0]["protocol"] for row in remembering}):
        these = [row for row in remembering if row.facts["evaluations"][0]["protocol"] == protocol]
        count = len(these[0].facts["evaluations"][0]["by_rollout"])
        header = ["method", *(f"rollout {number + 1}" for number in range(count)), "whole episode", "meta-steps"]
        lines = [f"### {protocol}: return of each rollout\n", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        for row in these:
            each = [_interval(value) for value in row.facts["evaluations"][0]["by_rollout"]]
            whole = shown("return", estimate(row.per_task["0 inductive"]))
            lines.append(f"| {' | '.join([row.facts['title'], *each, whole, str(row.facts['train']['num_steps'])])} |")
        parts.append("\n".join(lines) + "\n")
    return parts


def _robots() -> list[str]:
    """Return the curves of robots, as written by `experiments.reproduce.robots`."""
    if not ROBOTS.exists():
        return []
    facts = json.loads(ROBOTS.read_text())
    lines = [
        f"### Robots: {facts['protocol']}\n",
        "Return of a rollout against the number of earlier rollouts in the same body; made by `python -m "
        f"experiments.reproduce.robots`. Training from scratch is the mean of {facts['num_scratch_tasks']} bodies, one "
        "policy each. The last column is the difference to no adaptation on the same tasks.\n",
        "![](docs/robots.png)\n",
        "| method | rollouts before | return | minus no adaptation |",
        "|---|---|---|---|",
    ]
    for name, curve in facts["curves"].items():
        gains = facts["minus_no_adaptation"].get(name)
        for i, seen in enumerate(curve["rollouts"]):
            gain = f"{gains['mean'][i]:+.2f} ± {gains['half_width'][i]:.2f}" if gains else ""
            lines.append(f"| {name} | {seen} | {curve['mean'][i]:.2f} ± {curve['half_width'][i]:.2f} | {gain} |")
    return ["\n".join([*lines, "", "![a film of one episode](docs/robots.gif)"]) + "\n"]


def _familiar_robots(acting: list[rows.Row]) -> list[str]:
    """Return the table of rows evaluated on bodies from training's ranges, after each number of rollouts."""
    lines = []
    for row in acting:
        first, *others = row.facts["evaluations"]
        if "by_rollout" in first:
            curve = dict(enumerate(first["by_rollout"]))
        else:
            steps = [number * row.facts["options"]["num_rollouts"] for number in row.facts["test"]["inner_steps"]]
            curve = dict(zip(steps, (each["inductive"] for each in (first, *others)), strict=True))
        about = f"{first['num_tasks']:,} | {first['protocol'].split(',')[0]}"
        lines += [f"| {row.facts['title']} | {seen} | {_interval(value)} | {about} |" for seen, value in curve.items()]
    head = [
        "### Robots: bodies from training's ranges\n",
        "| method | rollouts before | return | tasks | robot |",
        "|---|---|---|---|---|",
    ]
    return ["\n".join([*head, *lines]) + "\n"] if lines else []


def _interval(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['half_width']:.3f}"


def _line(row: rows.Row, published: str) -> str:
    values = row.per_task["0 inductive"]
    cells = [row.facts["title"], shown("return", estimate(values)), f"{len(values):,}", published]
    return f"| {' | '.join(cells)} |"


def _baseline_line(row: dict[str, Any], published: str) -> str:
    cells = [_named(row), _value(row), f"{row['num_tasks']:,}", published]
    return f"| {' | '.join(cells)} |"


def _sorted(baselines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(baselines, key=lambda row: -row["mean"])


def _named(row: dict[str, Any]) -> str:
    tuned = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in row["tuned"].items())
    return row["method"].replace("_", " ") + (f" ({tuned})" if tuned else "")


def _value(row: dict[str, Any]) -> str:
    return f"{row['mean']:.3f} ± {row['half_width']:.3f}"
