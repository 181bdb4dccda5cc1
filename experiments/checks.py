"""What a recipe's numbers may be: looked at before anything is loaded, computed or written."""

import math
from typing import Any

from configs import parts


def check(recipe: parts.Recipe) -> None:
    """Raise `ValueError` at the first number that is out of its range, with the option's name.

    Of runs that are trained: what is only judged may have been trained by other rules.
    """
    check_steps(recipe.training)
    training, testing = recipe.training, recipe.testing
    _check_at_least(1, "training.tasks_per_step", training.tasks_per_step)
    _check_at_least(1, "training.halve_lr_every", training.halve_lr_every)
    _check_at_least(2, "training.num_valid_tasks", training.num_valid_tasks)
    _check_at_least(1, "training.patience", training.patience)
    _check_at_least(1, "training.max_skipped_in_a_row", training.max_skipped_in_a_row)
    _check_at_least(1, "training.keep_last", training.keep_last)
    _check_at_least(1, "testing.num_ways", testing.num_ways)
    _check_at_least(1, "testing.num_shots", testing.num_shots)
    _check_at_least(2, "testing.num_tasks", testing.num_tasks)
    _check_at_least(1, "testing.tasks_at_once", testing.tasks_at_once)
    for name in ("train_ways", "train_shots", "train_queries", "num_queries"):
        _check_at_least(1, f"data.{name}", getattr(recipe.data, name, None))
    _check_positive("training.lr", training.lr)
    _check_positive("training.clip_norm", training.clip_norm)
    _check_meta_optimizer(recipe.method, training)


def check_steps(part: parts.Training) -> None:
    """Raise `ValueError` unless numbers of steps are multiples of `steps_per_dispatch`."""
    unit = part.steps_per_dispatch
    numbers = {"num_steps": part.num_steps, "evaluate_every": part.evaluate_every}
    numbers |= {"checkpoint_every": part.checkpoint_every} if part.checkpoint_every is not None else {}
    for name, number in {"steps_per_dispatch": unit, **numbers}.items():
        if number < 1 or number % unit:
            raise ValueError(
                f"training.{name}={number}; expected a positive multiple of training.steps_per_dispatch={unit}, so "
                "that a resumed run dispatches the same steps together"
            )


def _check_at_least(least: int, name: str, number: int | None) -> None:
    if number is not None and number < least:
        raise ValueError(f"{name}={number}; expected at least {least}")


def _check_positive(name: str, number: float | None) -> None:
    if number is not None and not 0 < number < math.inf:
        raise ValueError(f"{name}={number}; expected a positive number")


def _check_meta_optimizer(method: Any, training: parts.Training) -> None:
    """A learned mean of squares stays positive only while the meta-optimizer averages it with the tasks'."""
    averages = training.optimizer == "sgd" and training.lr <= 1
    if isinstance(method, parts.Reptile) and method.learns_optimizer_state and not averages:
        raise ValueError(
            "Reptile that learns its optimizer's state needs --training.optimizer sgd and a --training.lr of at most "
            f"1, not {training.optimizer} and {training.lr:g}: a step may not take the running mean of squared "
            "gradients below zero; or pass --method.no-learns-optimizer-state"
        )
