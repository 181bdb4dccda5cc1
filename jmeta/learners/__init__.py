"""Learners: one method per file, with its aliases, each a factory that returns a `jmeta.Learner`.

Some methods train on more than a loss of query predictions: MAML++, iMAML, Reptile, Baseline++, PLATIPUS, ABML,
Bayesian MAML with a leader, LLAMA, the deep kernels, neural processes with latent variables and autoregressive ones.
The learner's fourth function, `episode`, defines their objective, and `jmeta.episode` uses it. Learners that act in
environments are in `jmeta.domains.rl.learners`.
"""

from .abml import abml, negative_elbo
from .adkf_ift import adkf_ift
from .attentive_neural_process import attentive_neural_process, dot_product_scores, laplace_scores
from .autoregressive import log_joint, sample_jointly
from .bayesian_maml import bayesian_maml, svgd
from .cavia import cavia
from .conditional_neural_process import conditional_neural_process
from .convolutional_neural_process import convolutional_neural_process
from .deep_kernel_classifier import deep_kernel_classifier
from .deep_kernel_transfer import deep_kernel_transfer
from .ensembled import deep_ensemble, ensembled
from .exact_gaussian_process import evidence, exact_gaussian_process, exact_joint, exact_posteriors
from .exact_sinusoid import exact_sinusoid
from .exact_sinusoid_or_line import exact_sinusoid_or_line
from .fine_tune import fine_tune
from .from_scratch import from_scratch
from .grid_convolutional_neural_process import grid_convolutional_neural_process
from .imaml import imaml
from .in_context import in_context
from .latent_path import LatentPath
from .leo import GeneratedHead, leo
from .llama import DiagonalPrecision, KroneckerPrecision, laplace_precision, llama
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
from .meta_curvature import meta_curvature
from .meta_opt_net import SvmHead, meta_opt_net
from .meta_sgd import meta_sgd
from .nearest_mean import nearest_mean
from .nearest_pixels import nearest_pixels
from .neural_process import neural_process
from .platipus import platipus
from .proto_maml import proto_maml
from .protonet import protonet
from .relation import relation, relation_loss
from .reptile import reptile
from .ridge import ridge
from .standardized import Columns, StandardizedState, standardized
from .t_nets import mt_net, t_net
from .transformer_neural_process import transformer_neural_process

__all__ = [
    "DiagonalPrecision",
    "GeneratedHead",
    "InnerSteps",
    "KroneckerPrecision",
    "LatentPath",
    "SvmHead",
    "abml",
    "adkf_ift",
    "anil",
    "at_step",
    "attentive_neural_process",
    "bayesian_maml",
    "boil",
    "cavia",
    "conditional_neural_process",
    "convolutional_neural_process",
    "deep_ensemble",
    "deep_kernel_classifier",
    "deep_kernel_transfer",
    "dot_product_scores",
    "ensembled",
    "evidence",
    "exact_gaussian_process",
    "exact_joint",
    "exact_posteriors",
    "exact_sinusoid",
    "exact_sinusoid_or_line",
    "fine_tune",
    "first_order_maml",
    "from_scratch",
    "grid_convolutional_neural_process",
    "imaml",
    "in_context",
    "laplace_precision",
    "laplace_scores",
    "leo",
    "llama",
    "log_joint",
    "maml",
    "maml_plus_plus",
    "matching",
    "meta_curvature",
    "meta_opt_net",
    "meta_sgd",
    "mt_net",
    "multi_step_loss",
    "multi_step_weights",
    "nearest_mean",
    "nearest_pixels",
    "negative_elbo",
    "neural_process",
    "per_step_norms",
    "per_step_rates",
    "platipus",
    "proto_maml",
    "protonet",
    "relation",
    "relation_loss",
    "reptile",
    "ridge",
    "Columns",
    "StandardizedState",
    "standardized",
    "sample_jointly",
    "svgd",
    "t_net",
    "transformer_neural_process",
]
