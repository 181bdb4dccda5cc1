"""How to learn from a task of examples.

`num_test_steps`, the inner steps at test, is the protocol's, or else `num_steps`, if not given.
"""

from dataclasses import dataclass
from typing import Literal

AdjointName = Literal[
    "unrolled",
    "rematerialized",
    "rematerialized_but_products",
    "rematerialized_in_blocks",
    "mixed_mode",
    "mixed_mode_in_blocks",
    "first_order",
]
"""How inner loops are differentiated: all but the last one exactly (see `jmeta.adjoints`). `_but_products` stores the
results of matrix products; blocks are of √steps."""


@dataclass(frozen=True)
class Maml:
    """MAML, second order or first."""

    num_steps: int = 1
    inner_lr: float = 0.01
    num_test_steps: int | None = None
    adjoint: AdjointName = "unrolled"


@dataclass(frozen=True)
class Anil:
    """MAML whose inner steps change the head alone."""

    num_steps: int = 5
    inner_lr: float = 0.1
    num_test_steps: int | None = None
    adjoint: AdjointName = "unrolled"


@dataclass(frozen=True)
class Boil:
    """MAML whose inner steps change all but the head."""

    num_steps: int = 1
    inner_lr: float = 0.5
    num_test_steps: int | None = None
    adjoint: AdjointName = "unrolled"


@dataclass(frozen=True)
class Cavia:
    """A network that all tasks share, with a context vector that inner steps change."""

    num_steps: int = 2
    inner_lr: float = 1.0
    num_context: int = 5
    """Numbers that are adapted; more input features, or channels of an image, for the network."""
    num_test_steps: int | None = None
    adjoint: AdjointName = "unrolled"


@dataclass(frozen=True)
class MetaSgd:
    """MAML with a learned rate for every parameter."""

    num_steps: int = 1
    initial_lr: float = 0.01
    num_test_steps: int | None = None
    adjoint: AdjointName = "unrolled"


@dataclass(frozen=True)
class MamlPlusPlus:
    """MAML with multi-step loss, and rates and norms of each step."""

    num_steps: int = 5
    initial_lr: float = 0.1
    num_test_steps: int | None = None
    annealed_until: float = 0.1
    adjoint: AdjointName = "unrolled"


@dataclass(frozen=True)
class Imaml:
    """iMAML: a minimum tied to the meta-learned start, differentiated implicitly; its certificate is logged."""

    num_steps: int = 16
    """Inner steps towards the minimum; they cost no memory."""
    inner_lr: float = 0.1
    regularization: float = 2.0
    """Weight of the tie: the larger, the sooner steps converge and the less a task can move."""
    num_cg_steps: int = 5
    """Of conjugate gradient, each a product with second derivatives."""
    num_test_steps: int | None = None


@dataclass(frozen=True)
class Reptile:
    """Reptile, with an inner Adam without momentum, or RMSProp, which is the same with a state that is learned."""

    num_steps: int = 5
    batch_size: int = 10
    inner_lr: float = 1e-3
    learns_optimizer_state: bool = True
    """Whether the running mean of squared gradients goes on from task to task, as in the paper's code."""
    num_test_steps: int | None = None
    test_batch_size: int = 5


@dataclass(frozen=True)
class Protonet:
    """Prototypical networks."""

    distance: Literal["euclidean", "cosine", "mahalanobis"] = "euclidean"


@dataclass(frozen=True)
class Matching:
    """Matching networks."""

    full_context: bool = True
    num_process_steps: int = 5


@dataclass(frozen=True)
class Relation:
    """Relation networks: a learned comparison of a query with each class."""

    hidden: tuple[int, ...] = (64, 8)
    """Widths of the comparison network, but for its one output."""


@dataclass(frozen=True)
class Ridge:
    """Ridge regression on learned features (R2D2)."""


@dataclass(frozen=True)
class ProtoMaml:
    """MAML whose head starts at the prototypes."""

    num_steps: int = 5
    inner_lr: float = 0.1
    num_test_steps: int | None = None
    adjoint: AdjointName = "unrolled"


@dataclass(frozen=True)
class FineTune:
    """Train a classifier of all meta_train classes, then fit a fresh head to each task: Baseline++ and Baseline."""

    head: Literal["cosine", "linear"] = "cosine"
    """Of Baseline++, or of Baseline."""
    num_steps: int = 100
    """Steps of a task's head."""
    inner_lr: float = 0.01
    """Of the Adam that takes them."""
    batch_size: int = 64
    """Examples in a batch; a meta-step sees `training.tasks_per_step` batches."""
    scale: float = 10.0
    """What a cosine is multiplied by."""
