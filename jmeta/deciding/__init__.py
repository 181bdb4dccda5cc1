"""What to do with a prediction: how far to trust it, when to refuse, and what to ask next.

Everything here works with any learner, and is fitted on tasks of other classes than those it is used on (meta_valid):
few examples cannot say how good a prediction from them is, but other tasks can.
"""

from .acquisition import (
    Acquisition,
    disagreement,
    entropy,
    expected_entropy,
    label_curve,
    margin,
    randomly,
    uncertainty,
)
from .conformal import (
    CLASSES,
    NUMBERS,
    Conformal,
    PredictionIntervals,
    PredictionSets,
    Score,
    conformal,
    fit_conformal,
    set_scores,
    split_conformal,
)
from .expected_accuracy import AccuracyModel, ExpectedAccuracy, Signs, expected_accuracy, fit_expected_accuracy, signs
from .novelty import (
    UNKNOWN,
    Rejections,
    auroc,
    energy,
    fit_novelty,
    least_confidence,
    novelty_scores,
    rejecting,
    smallest_distance,
    with_unknown_classes,
)

__all__ = [
    "CLASSES",
    "NUMBERS",
    "Score",
    "Conformal",
    "PredictionIntervals",
    "PredictionSets",
    "conformal",
    "fit_conformal",
    "set_scores",
    "split_conformal",
    "AccuracyModel",
    "ExpectedAccuracy",
    "Signs",
    "expected_accuracy",
    "fit_expected_accuracy",
    "signs",
    "UNKNOWN",
    "Rejections",
    "auroc",
    "energy",
    "fit_novelty",
    "least_confidence",
    "novelty_scores",
    "rejecting",
    "smallest_distance",
    "with_unknown_classes",
    "Acquisition",
    "disagreement",
    "entropy",
    "expected_entropy",
    "label_curve",
    "margin",
    "randomly",
    "uncertainty",
]
