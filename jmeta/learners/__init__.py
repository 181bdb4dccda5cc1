"""Learners: one method a file, each a factory that returns a `jmeta.Learner`.

Some methods train on more than a loss of query predictions: MAML++, iMAML, Reptile, Baseline++, VariBAD, and MAML for
reinforcement learning with the terms of ProMP or E-MAML. The learner's fourth function, `episode`, says how, and
`jmeta.episode` uses it.
"""

from .anil import anil
from .boil import boil
from .cavia import cavia
from .fine_tune import fine_tune
from .first_order_maml import first_order_maml
from .from_scratch import from_scratch
from .imaml import imaml
from .maml import maml
from .maml_plus_plus import maml_plus_plus
from .maml_rl import collect_adaptation, maml_rl
from .matching import matching
from .meta_sgd import meta_sgd
from .nearest_mean import nearest_mean
from .proto_maml import proto_maml
from .protonet import protonet
from .relation import relation, relation_loss
from .reptile import reptile
from .ridge import ridge
from .rl2 import rl2
from .varibad import task_inference, varibad, varibad_policy

__all__ = [
    "anil",
    "boil",
    "cavia",
    "fine_tune",
    "first_order_maml",
    "from_scratch",
    "imaml",
    "maml",
    "maml_plus_plus",
    "maml_rl",
    "collect_adaptation",
    "matching",
    "meta_sgd",
    "nearest_mean",
    "proto_maml",
    "protonet",
    "relation",
    "relation_loss",
    "reptile",
    "ridge",
    "rl2",
    "task_inference",
    "varibad",
    "varibad_policy",
]
