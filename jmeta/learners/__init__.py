"""Learners: one method a file, each a factory that returns a `jmeta.Learner`.

Some methods train on more than a loss of query predictions: MAML++, iMAML, Reptile and Baseline++. The learner's fourth
function, `episode`, says how, and `jmeta.episode` uses it. Learners that act in environments are in
`jmeta.domains.rl.learners`.
"""

from .anil import anil
from .boil import boil
from .cavia import cavia
from .exact_gaussian_process import evidence, exact_gaussian_process
from .fine_tune import fine_tune
from .first_order_maml import first_order_maml
from .from_scratch import from_scratch
from .imaml import imaml
from .maml import maml
from .maml_plus_plus import maml_plus_plus
from .matching import matching
from .meta_sgd import meta_sgd
from .nearest_mean import nearest_mean
from .proto_maml import proto_maml
from .protonet import protonet
from .relation import relation, relation_loss
from .reptile import reptile
from .ridge import ridge

__all__ = [
    "anil",
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
    "nearest_mean",
    "proto_maml",
    "protonet",
    "relation",
    "relation_loss",
    "reptile",
    "ridge",
]
