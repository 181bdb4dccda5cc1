"""Networks as `jmeta.Model(init, apply, calibrate)`, and bridges from other libraries' modules.

The rest of jmeta knows a network only as a `Model`. Convolution and pooling are in `primitives`, normalisation and its
policies in `norms`; statistics are ordinary leaves of the parameters, never hidden state.
"""

from .bernoulli_outputs import bernoulli_outputs
from .binned_outputs import binned_outputs
from .causal_transformer import causal_transformer
from .chain import chain
from .conv4 import conv4 as conv4
from .forgetful import forgetful
from .fourier_features import fourier_features
from .from_equinox import from_equinox
from .from_haiku import from_haiku
from .from_linen import from_linen
from .from_nnx import from_nnx
from .mlp import mlp
from .normal_outputs import normal_outputs
from .norms import but_statistics, frozen, is_head, is_norm, is_statistic
from .primitives import convolution, max_pool, patch_conv
from .recurrent import gru, lstm
from .resnet12 import resnet12 as resnet12
from .same_size_convolutions import conv1d, conv2d
from .set_transformer import set_transformer
from .snail import snail

__all__ = [
    "mlp",
    "conv1d",
    "conv2d",
    "conv4",
    "resnet12",
    "gru",
    "lstm",
    "causal_transformer",
    "snail",
    "set_transformer",
    "forgetful",
    "chain",
    "fourier_features",
    "normal_outputs",
    "bernoulli_outputs",
    "binned_outputs",
    "from_linen",
    "from_nnx",
    "from_equinox",
    "from_haiku",
    "but_statistics",
    "frozen",
    "is_head",
    "is_norm",
    "is_statistic",
    "convolution",
    "patch_conv",
    "max_pool",
]
