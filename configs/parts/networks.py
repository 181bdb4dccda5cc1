"""Which network: of single examples, or with a memory."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Mlp:
    """A multilayer perceptron."""

    hidden: tuple[int, ...] = (40, 40)


Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Conv4:
    """Four blocks of convolution, normalisation and ReLU."""

    num_filters: int = 64
    pooling: Literal["max", "strided"] = "max"
    norm: Literal["batch", "support", "group", "layer", "none"] = "batch"
    """Whose statistics normalise: of the call (transductive), of the support, of one example, or none."""
    dtype: Dtype = "float32"
    """Of the activations; parameters and statistics are float32 always."""


@dataclass(frozen=True)
class Resnet12:
    """Residual blocks of three convolutions each; halves the image once a block."""

    widths: tuple[int, ...] = (64, 160, 320, 640)
    norm: Literal["batch", "support", "group", "layer", "none"] = "batch"
    """As for Conv4."""
    dropout_rate: float = 0.0
    """Share of every block's output that is dropped in training."""
    drop_size: int = 1
    """Side of the squares that are dropped: 1 is dropout, more is DropBlock."""
    dtype: Dtype = "float32"
    """As for Conv4."""


@dataclass(frozen=True)
class Recurrent:
    """A recurrent network, for policies that remember."""

    cell: Literal["gru", "lstm"] = "gru"
    width: int = 64
    max_span: int | None = None
    """Steps that the longest-lived part of a new memory lasts; a few if not given."""


@dataclass(frozen=True)
class Transformer:
    """A causal transformer over all steps of an episode, for policies that remember."""

    width: int = 32
    num_layers: int = 2
    num_heads: int = 4


@dataclass(frozen=True)
class Snail:
    """Temporal convolutions and attention in turn (SNAIL), for policies that remember."""

    width: int = 32
    num_blocks: int = 2
    num_filters: int = 16
    key_width: int = 16
    value_width: int = 16


@dataclass(frozen=True)
class Forgetful:
    """A multilayer perceptron of the present observation, for policies that do not adapt."""

    hidden: tuple[int, ...] = (64, 64)


Memory = Recurrent | Transformer | Snail | Forgetful
"""Networks that go through an episode step by step, and remember it or not."""
Network = Mlp | Conv4 | Resnet12 | Memory
