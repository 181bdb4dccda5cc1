"""What to do with a prediction: sets that contain the answer as often as they say, and how often it will be right.

Everything here works with any learner, and is fitted on tasks of other classes than those it is used on (meta_valid):
few examples cannot say how good a prediction from them is, but other tasks can.
"""

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
]
