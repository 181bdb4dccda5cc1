"""Whole trainings that continue from call to call: each keeps its state and metrics in one file of the folder.

A finished training is evaluated on all tasks of its protocol. One that does not finish in time records how far it came,
and continues when the command is called again with the same folder.
"""

import os
import pathlib
import time
from typing import Any

import jax
import numpy as np

from jmeta.evaluation import Evaluation
from jmeta.training import MetaState, sampled_steps
from jmeta.types import PyTree

from .period import Period, reason_of
from .trainings import TRAININGS, Training

SECONDS_BETWEEN_CHECKPOINTS = 60.0
SECONDS_TO_JUDGE = 40.0
"""Time reserved for compiling and evaluating; if less is left, the next call evaluates."""


def run(period: Period) -> None:
    """Record rows of all trainings that fit into the time."""
    names = ("maml 5w1s", "bandits 100 50") if period.is_tiny else tuple(TRAININGS)
    for name in names:
        if period.seconds_left() < _seconds_to_end(period):
            period.record_failure({"training": name}, "not begun: no time was left")
            continue
        try:
            _train_and_judge(period, TRAININGS[name](name, is_tiny=period.is_tiny))
        except Exception as error:
            period.record_failure({"training": name}, reason_of(error))


def _seconds_to_end(period: Period) -> float:
    return 1.0 if period.is_tiny else 10.0


def _train_and_judge(period: Period, training: Training) -> None:
    file = period.out / f"{training.name.replace(' ', '_')}.npz"
    state, metrics = restored(file, training.start(jax.random.key(0)))
    if int(state.step) < training.num_steps:
        state, metrics = _train(period, training, state, metrics, file)
    case = {"training": training.name, "meta-steps": int(state.step), "of": training.num_steps}
    costs = _costs(metrics, training, int(state.step))
    if int(state.step) < training.num_steps:
        last = {name: float(values[-1]) for name, values in metrics.items() if name in ("loss", "accuracy", "reward")}
        period.record(case, {**last, **costs})
    elif period.seconds_left() < (0 if period.is_tiny else SECONDS_TO_JUDGE):
        period.record(case, {**costs, "judged": "in the next call"})
    elif "judged" not in metrics:
        for judge in training.judges:
            period.record(case, {**_scores(judge(state.meta_params, jax.random.key(1))), **costs})
        save(file, state, {**metrics, "judged": np.ones(1)})


def _train(
    period: Period, training: Training, state: MetaState, metrics: dict[str, np.ndarray], file: pathlib.Path
) -> tuple[MetaState, dict[str, np.ndarray]]:
    """Make meta-steps until all are done or the time is over; save the state every minute, and at the end."""
    dispatch = sampled_steps(training.trainer, num_steps=training.steps_per_dispatch)
    saved, taken, is_first = time.time(), 0.0, True
    while int(state.step) < training.num_steps and period.seconds_left() > _seconds_to_end(period) + taken:
        began = time.perf_counter()
        state, aux = dispatch(state, training.sample_tasks, jax.random.key(0))
        own = {name: float(np.mean(values)) for name, values in aux.items()}  # waits for the device
        taken = time.perf_counter() - began
        own |= {"step": int(state.step), "seconds": taken, "is_first": is_first}
        metrics = {name: np.append(metrics.get(name, []), value) for name, value in own.items()}
        is_first = False
        if time.time() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            save(file, state, metrics)
            saved = time.time()
    save(file, state, metrics)
    return state, metrics


def _costs(metrics: dict[str, np.ndarray], training: Training, num_steps: int) -> dict[str, float]:
    """Report the cost of meta-steps, without the first dispatch of each call, which compiled."""
    if not metrics:  # the time was over before the first dispatch
        return {}
    is_first = metrics["is_first"] == 1
    costs = {"compile s, with a first dispatch": float(metrics["seconds"][is_first].sum())}
    if is_first.all():
        return costs
    each = float(np.median(metrics["seconds"][~is_first])) / training.steps_per_dispatch
    return {"ms a meta-step": each * 1e3, "minutes of meta-steps": each * num_steps / 60, **costs}


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    """Return means and half-widths of their 95 % intervals: accuracy in percent, or return."""
    scores: dict[str, Any] = {"protocol": evaluation.protocol}
    for kind, estimates in (("inductive", evaluation.inductive), ("transductive", evaluation.transductive)):
        for name, scale, unit in (("accuracy", 100, " %"), ("return", 1, "")):
            if estimates is not None and name in estimates:
                scores[f"{kind} {name}{unit}"] = scale * estimates[name].mean
                scores[f"± {kind}"] = scale * estimates[name].half_width
    return scores


def save(file: pathlib.Path, state: PyTree, metrics: dict[str, np.ndarray]) -> None:
    """Write a state and metrics atomically: a reader, or a kill, finds the old file or the new one."""
    leaves = {f"state/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    temporary = file.with_suffix(".tmp")
    with open(temporary, "wb") as opened:
        np.savez(opened, allow_pickle=False, **leaves, **{f"metrics/{name}": each for name, each in metrics.items()})
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)


def restored(file: pathlib.Path, start: PyTree) -> tuple[PyTree, dict[str, np.ndarray]]:
    """Load what `save` wrote, in the tree structure of `start`; `start` and no metrics if there is no file.

    Raises:
      ValueError: if the saved tree is another one.
    """
    if not file.exists():
        return start, {}
    with np.load(file, allow_pickle=False) as stored:
        leaves = [stored[f"state/{i}"] for i in range(sum(name.startswith("state/") for name in stored.files))]
        metrics = {name.split("/", 1)[1]: stored[name] for name in stored.files if name.startswith("metrics/")}
    expected = jax.tree.leaves(start)
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in expected]:
        raise ValueError(f"{file} has the state of another training; move it away to start again")
    return jax.tree.unflatten(jax.tree.structure(start), [jax.numpy.asarray(leaf) for leaf in leaves]), metrics
