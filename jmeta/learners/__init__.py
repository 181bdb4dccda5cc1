"""Learners: one method per file, with its aliases, each a factory that returns a `jmeta.Learner`.

Some methods train on more than a loss of query predictions: MAML++, iMAML, Reptile, Baseline++, PLATIPUS and ABML. The
learner's fourth function, `episode`, defines their objective, and `jmeta.episode` uses it. Learners that act in
environments are in `jmeta.domains.rl.learners`.
"""

from .abml import abml, negative_elbo
from .cavia import cavia
from .exact_gaussian_process import evidence, exact_gaussian_process
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
from .platipus import platipus
from .proto_maml import proto_maml
from .protonet import protonet
from .relation import relation, relation_loss
from .reptile import reptile
from .ridge import ridge

__all__ = [
    "InnerSteps",
    "abml",
    "anil",
    "at_step",
    "boil",
    "cavia",
    "evidence",
    "exact_gaussian_process",
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
    "negative_elbo",
    "per_step_norms",
    "per_step_rates",
    "platipus",
    "proto_maml",
    "protonet",
    "relation",
    "relation_loss",
    "reptile",
    "ridge",
]
