"""Quantiles of scores of many tasks, such that a new task exceeds them as rarely as promised."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["quantiles_over_tasks"]


def quantiles_over_tasks(
    scores: Float[np.ndarray, "tasks queries"], is_counted: Bool[np.ndarray, "tasks queries"], levels: Sequence[float]
) -> Float[np.ndarray, "levels"]:
    """Find numbers that the scores of a new task stay under as often as `levels` say, on average over tasks.

    All queries of a task share its difficulty, so they have the weight of one task together; and one more task, whose
    scores are infinite, stands for the new one. Tasks without a counted query are left out.

    Args:
      scores: of each task's queries.
      is_counted: which of them count.
      levels: in (0, 1).

    Raises:
      ValueError: if a level is out of range, or higher than n tasks can promise, n / (n + 1); if a score is NaN.

    Example:
      >>> import numpy as np
      >>> scores = np.arange(9.0).reshape(9, 1)
      >>> quantiles_over_tasks(scores, np.ones((9, 1), bool), [0.5, 0.9]).tolist()
      [4.0, 8.0]

    Reference:
      Lee, Barber, Willett, "Distribution-free inference with hierarchical data", 2023, arXiv:2306.06342, section 3.
    """
    if not len(levels) or not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels={list(levels)}; expected numbers between 0 and 1, such as 0.9")
    counts = is_counted.sum(1, keepdims=True)
    num_tasks = int((counts > 0).sum())
    needed = int(np.ceil(max(level / (1 - level) for level in levels) - 1e-9))
    if num_tasks < needed:
        raise ValueError(
            f"{num_tasks} tasks can promise {num_tasks / (num_tasks + 1):.3f} at most, and levels={list(levels)} ask "
            f"for more; take at least {needed} tasks"
        )
    if np.isnan(scores[is_counted]).any():
        raise ValueError("some predictions are NaN, which nothing can be learned from; look for the tasks they are for")
    weights = (is_counted / np.maximum(counts, 1) / (num_tasks + 1))[is_counted]
    order = np.argsort(scores[is_counted], kind="stable")
    found = np.searchsorted(np.cumsum(weights[order]), np.asarray(levels) - 1e-9)
    return scores[is_counted][order][np.minimum(found, order.size - 1)]
