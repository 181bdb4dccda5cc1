"""Learners: one method per file, with its aliases, each a factory that returns a `jmeta.Learner`.

Some methods train on more than a loss of query predictions: MAML++, iMAML, Reptile and Baseline++. The learner's fourth
function, `episode`, defines their objective, and `jmeta.episode` uses it. Learners that act in environments are in
`jmeta.domains.rl.learners`.
"""

from .cavia import cavia
from .ensembled import ensembled
from .exact_gaussian_process import evidence, exact_gaussian_process
from .exact_sinusoid_or_line import exact_sinusoid_or_line
from .fine_tune import fine_tune
from .from_scratch import from_scratch
from .imaml import imaml
from .maml import anil, boil, first_order_maml, maml
from .maml_plus_plus import (
    InnerSteps,
    at_step,
    maml_plus_plus,
    multi_step_loss,
    multi_step_weights,
    per_step_norms,
    per_step_rates,
)
from .matching import matching
from .meta_sgd import meta_sgd
from .nearest_mean import nearest_mean
from .proto_maml import proto_maml
from .protonet import protonet
from .relation import relation, relation_loss
from .reptile import reptile
from .ridge import ridge

__all__ = [
    "InnerSteps",
    "anil",
    "at_step",
    "boil",
    "cavia",
    "ensembled",
    "evidence",
    "exact_gaussian_process",
    "exact_sinusoid_or_line",
    "fine_tune",
    "first_order_maml",
    "from_scratch",
    "imaml",
    "maml",
    "maml_plus_plus",
    "matching",
    "meta_sgd",
    "multi_step_loss",
    "multi_step_weights",
    "nearest_mean",
    "per_step_norms",
    "per_step_rates",
    "proto_maml",
    "protonet",
    "relation",
    "relation_loss",
    "reptile",
    "ridge",
]
