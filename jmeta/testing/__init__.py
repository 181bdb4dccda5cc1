"""Checks of the contract that every learner, sampler, estimator and network with memory obeys.

A method written outside jmeta can run `check_learner` in its own tests, as ours do. Each check raises `AssertionError`
and names the violated clause. `leaks` tells transductive learners from inductive ones and raises nothing. Checks of
environments and policies are in `jmeta.domains.rl.testing`.
"""

from ..inductive import LeakReport, leaks
from .gradients import check_estimator, check_meta_gradient
from .learners import check_learner
from .samplers import check_sampler
from .sequence_models import check_sequence_model

__all__ = [
    "check_learner",
    "check_sampler",
    "check_estimator",
    "check_meta_gradient",
    "check_sequence_model",
    "leaks",
    "LeakReport",
]
