"""Evaluation of a learner on many tasks: means with 95 % intervals, and never without the protocol's name.

A prediction for one query is *inductive* if it does not depend on the other queries, and *transductive* if it does, as
with batch normalisation that uses the statistics of the query set. The difference is worth points of accuracy, so
`evaluate` finds out which of the two a learner is, and reports both where both exist.

`evaluate` is for learners and `evaluate_episodes` for episode functions, such as those of methods that act;
`per_task_values` is the loop under both, for callers that evaluate again and again.
"""

from .estimates import Estimate, Interval, estimate, paired_difference, proportion_interval
from .evaluations import Evaluation, adaptation_curve, evaluate, evaluate_episodes
from .per_task import ONE_DEVICE, evaluation_episode, per_task_values

__all__ = [
    "Evaluation",
    "evaluate",
    "evaluate_episodes",
    "adaptation_curve",
    "evaluation_episode",
    "per_task_values",
    "ONE_DEVICE",
    "Estimate",
    "estimate",
    "paired_difference",
    "Interval",
    "proportion_interval",
]
