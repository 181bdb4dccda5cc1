"""Means over tasks or seeds with confidence intervals, and paired differences."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

__all__ = ["Estimate", "Interval", "estimate", "proportion_interval", "paired_difference"]


class Estimate(NamedTuple):
    """A mean with its uncertainty.

    Attributes:
      mean: mean of `values`.
      half_width: half-width of the two-sided 95 % confidence interval of the mean (Student's t; see `estimate`).
      values: `[count]` float64, one for each task (or seed).
      num_undefined: number of `values` that are NaN and left out of the mean and its interval.
    """

    mean: float
    half_width: float
    values: np.ndarray
    num_undefined: int = 0

    def __str__(self) -> str:
        undefined = f" (undefined in {self.num_undefined} of {self.values.size})" if self.num_undefined else ""
        return f"{self.mean:.4f} ± {self.half_width:.4f}{undefined}"

    def __repr__(self) -> str:
        return f"Estimate({self}, {self.values.size} values)"


class Interval(NamedTuple):
    """A confidence interval, not necessarily symmetric about the mean.

    Attributes:
      low: lower end.
      high: upper end.
    """

    low: float
    high: float


def estimate(values: Float[np.ndarray, " count"] | Float[Array, " count"], *, skip_undefined: bool = False) -> Estimate:
    """Return the mean of independent values and its 95 % interval, by Student's t with `count - 1` degrees of freedom.

    The interval is symmetric, and assumes that the mean is nearly Gaussian. Accuracies near 100 % are not: most tasks
    have no error at all, and a few have one. In simulations with 5 queries per task it covered the true accuracy in
    81 % of cases for 600 tasks at 99.9 %, and in 78 % for 100 tasks at 99.7 %, instead of 95 %. For rates near 0 or 1
    use `proportion_interval(estimate.values)`.

    Args:
      values: one for each task (or seed).
      skip_undefined: whether NaN marks an undefined value, like the area under a curve in a task with one class. The
        estimate then covers the other values, and counts those left out. With fewer than two values it is NaN.

    Raises:
      ValueError: if there are fewer than two values.

    Example:
      >>> import numpy as np
      >>> print(estimate(np.array([0.0, 1.0, 0.0, 1.0])))
      0.5000 ± 0.9187
    """
    values = _checked(values)
    defined = values[~np.isnan(values)] if skip_undefined else values
    num_undefined = values.size - defined.size
    if defined.size < 2:
        return Estimate(float("nan"), float("nan"), values, num_undefined)
    half_width = _student_t(defined.size, 0.95) * defined.std(ddof=1) / np.sqrt(defined.size)
    return Estimate(float(defined.mean()), float(half_width), values, num_undefined)


def proportion_interval(
    values: Float[np.ndarray, " count"] | Float[Array, " count"], *, level: float = 0.95
) -> Interval:
    """Return the confidence interval of a mean of rates in [0, 1], such as accuracies; it also covers near 0 and 1.

    It is the exact binomial interval (Clopper and Pearson) for the number of independent answers that would give the
    mean its variance, n = p(1 - p) / (s² / count), reduced by the square of the quotient of the Gaussian's and
    Student's quantiles (Korn and Graubard). Where all values are equal, n is their count, which is cautious: 100 tasks
    without an error give 0.9638 to 1. In simulations of 15 settings from 1 to 99.99 %, with and without differences in
    difficulty between tasks, it covered 94 to 99.6 % at a level of 95 %.

    Args:
      values: the rate of each task, `[count]`; tasks are independent, answers within a task need not be.
      level: the confidence, in (0, 1).

    Raises:
      ValueError: if there are fewer than two values, one is outside of [0, 1], or the level outside of (0, 1).

    Example:
      >>> import numpy as np
      >>> low, high = proportion_interval(np.array([1.0] * 99 + [0.8]))  # a single error in 500 answers
      >>> print(f"{low:.4f} to {high:.4f}")
      0.9887 to 1.0000

    Reference:
      Korn, Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated from
      survey data", Survey Methodology 24, 1998.
    """
    values = _checked(values)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"values from {values.min()} to {values.max()}; expected rates in [0, 1], such as accuracies")
    if not 0 < level < 1:
        raise ValueError(f"level={level}; expected a number between 0 and 1, such as 0.95")
    from scipy.special import betaincinv, ndtri  # imported when used, so that `import jmeta` does not import SciPy

    mean, variance, tail = values.mean(), values.var(ddof=1) / values.size, (1 - level) / 2
    answers = mean * (1 - mean) / variance if variance > 0 else float(values.size)
    students = _student_t(values.size, level)
    answers *= (ndtri(1 - tail) / students) ** 2 if students > 0 else 1.0  # both are 0 at the smallest levels
    right, wrong = answers * mean, answers * (1 - mean)
    low = betaincinv(right, wrong + 1, tail) if right > 0 else 0.0
    high = betaincinv(right + 1, wrong, 1 - tail) if wrong > 0 else 1.0
    return Interval(float(low), float(high))


def paired_difference(first: Estimate, second: Estimate) -> Estimate:
    """Return `first - second` on the tasks where both are defined; its interval is narrower than theirs.

    Raises:
      ValueError: if the two were not measured on the same number of tasks.

    Example:
      >>> import numpy as np
      >>> first, second = estimate(np.array([0.2, 0.9, 0.5])), estimate(np.array([0.1, 0.8, 0.3]))
      >>> print(first, "less", second, "is", paired_difference(first, second))
      0.5333 ± 0.8724 less 0.4000 ± 0.8957 is 0.1333 ± 0.1434
    """
    if first.values.shape != second.values.shape:
        raise ValueError(
            f"a paired difference needs the same tasks, but there are {first.values.size} and {second.values.size}; "
            "evaluate both with one key and one num_tasks"
        )
    return estimate(first.values - second.values, skip_undefined=first.num_undefined + second.num_undefined > 0)


def _checked(values: Float[np.ndarray, " count"] | Float[Array, " count"]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.size < 2:
        raise ValueError(f"an interval needs at least two values, but there is {values.size}")
    return values


def _student_t(count: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, (1 + level) / 2))
