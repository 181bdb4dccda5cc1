"""The pieces that recipes are composed of: plain typed values, in four groups.

    data        which tasks to meta-train on             Sinusoid, Blobs, Images, Folder, Bandit, Robot, ...
    model       which network                            Mlp, Conv4, Resnet12, Recurrent, Transformer, Snail, Forgetful
    method      how to learn from a task                 Maml, Reptile, Protonet, Rl2, ...
    training    how long, how fast, what to watch        Training
    testing     which tasks to choose and judge by       Testing

`experiments.build` turns them into functions, and checks that they fit together.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

# Data


@dataclass(frozen=True)
class Sinusoid:
    """Sine waves, drawn and not stored."""

    num_shots: int = 10
    num_queries: int = 10
    num_test_queries: int = 100


@dataclass(frozen=True)
class Blobs:
    """Gaussian blobs: classification without data."""

    num_ways: int = 5
    num_shots: int = 1
    num_queries: int = 5
    num_features: int = 8
    spread: float = 1.0


ProtocolName = Literal["glyphs", "finn2017", "reptile2018", "vinyals", "lake"]
TestedOn = Literal["held_out", "trained"]


@dataclass(frozen=True)
class Images:
    """Images of classes, loaded, split, rotated and drawn as a named protocol says (see `jmeta.tasks.protocols`)."""

    protocol: ProtocolName
    train_ways: int | None = None
    """Classes in a training task, in place of the protocol's."""
    train_shots: int | None = None
    """Support examples of each class in training, in place of the protocol's."""
    train_queries: int | None = None
    """Queries of each class in training, in place of the protocol's."""


@dataclass(frozen=True)
class Folder:
    """Your own images, a folder for each class (see `jmeta.tasks.datasets.folder`)."""

    path: str = ""
    size: tuple[int, int] | None = (28, 28)
    """Height and width that images are resized to; as they are if not given."""
    num_channels: int = 1
    """1 for grey, 3 for colours."""
    train_ways: int | None = None
    """Classes in a training task; as many as at test if not given."""
    train_shots: int | None = None
    """Support examples of each class in training; as many as at test if not given."""
    num_queries: int = 5
    """Queries of each class, in training and at test."""
    host_fed: bool = False
    """Draw training tasks on the host, a few batches ahead, for images that do not fit on the device."""


@dataclass(frozen=True)
class Bandit:
    """Bandits; a task is its arms, an episode so many pulls."""

    num_arms: int = 5
    num_pulls: int = 10
    kind: Literal["bernoulli", "gaussian"] = "bernoulli"


@dataclass(frozen=True)
class TabularMdp:
    """Random tabular Markov decision processes."""

    num_rollouts: int = 10
    """Of an episode."""
    num_states: int = 10
    num_actions: int = 5
    horizon: int = 10
    """Steps of a rollout."""
    observes_transitions: bool = False
    """Observations come with the ones before them, from which a transformer learns sooner."""


@dataclass(frozen=True)
class Navigation:
    """A point that has to find its goal in the plane."""

    reward: Literal["dense", "sparse"] = "dense"
    """Minus the distance to a goal in a square, or a reward only near a goal on a half circle."""
    num_rollouts: int = 3
    """Of an episode; a method that adapts by gradient steps has numbers of its own."""
    horizon: int | None = None
    """Steps of a rollout; 100 with dense rewards and 20 with sparse ones, if not given."""
    ends_at_goal: bool = True
    """Whether a rollout with dense rewards ends at the goal. In an episode of several, that pays who stops short."""


@dataclass(frozen=True)
class Robot:
    """A robot in the plane that is told neither its goal nor what its body is like."""

    name: Literal["crawler", "arm", "eel"] = "crawler"
    num_rollouts: int = 3
    """Of an episode; a method that adapts by gradient steps has numbers of its own."""
    tested_on: TestedOn = "held_out"
    """Ranges that the bodies of meta_test are drawn from: outside of those of training (see `experiments.robots`), or
    the same."""


Environments = Bandit | TabularMdp | Navigation | Robot
"""Whose parameters are the task, for methods that act."""
Data = Sinusoid | Blobs | Images | Folder | Environments

# Models


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

# Methods. `num_test_steps`, the inner steps at test, is the protocol's, or else `num_steps`, if not given


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


@dataclass(frozen=True)
class Rl2:
    """RL²: a policy whose memory is what it has learned of a task."""

    loss: Literal["ppo", "a2c"] = "ppo"
    discount: float = 0.99
    gae_lambda: float = 0.3
    """Of the advantages: 1 trusts rewards alone, 0 the critic."""
    reward_scale: float = 1.0
    """What rewards are multiplied by for the critic, so that its guesses are not far from 1."""
    clip: float = 0.2
    """Of PPO."""
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """Whether that weight stays, or goes linearly to zero."""
    num_epochs: int = 2
    """Times that what was collected is gone through."""
    num_minibatches: int = 2
    """Updates in each; a matter of whole episodes."""
    initial_log_std: float = 0.0
    """Of continuous actions."""
    is_greedy: bool = True
    """Whether the most probable action is taken when the policy is judged."""


@dataclass(frozen=True)
class Varibad:
    """VariBAD: a policy of the observation and of a belief about the task, which the run's network infers."""

    acting: Rl2 = Rl2()
    """How it acts and learns to."""
    num_latents: int = 5
    """Numbers of the task's embedding."""
    kl_weight: float = 0.1
    num_elbo_terms: int | None = None
    """Steps of an episode whose beliefs are decoded in an update, drawn at random; all if not given."""
    decoder: tuple[int, ...] = (64, 32)
    """Hidden widths of what predicts rewards from the embedding."""
    trunk: tuple[int, ...] = (64, 64)
    """Widths of the policy's network."""


@dataclass(frozen=True)
class MamlRl:
    """MAML for reinforcement learning: a policy to start from, adapted by policy gradients."""

    num_steps: int = 1
    inner_lr: float = 0.1
    later_inner_lr: float | None = None
    """Of all inner steps after the first; the same if not given."""
    num_test_steps: int | None = None
    surrogate: Literal["reinforce", "likelihood_ratio", "dice"] = "reinforce"
    """What an inner step descends."""
    outer: Literal["trpo", "ppo"] = "trpo"
    """How the start is improved; the optimizer, its rate and clipping are PPO's alone."""
    num_rollouts: int = 20
    """For each inner step, and of the adapted policy."""
    horizon: int = 100
    """Steps of a rollout, at most."""
    discount: float = 0.99
    gae_lambda: float = 1.0
    initial_log_std: float = 0.0
    max_divergence: float = 0.01
    """Of TRPO: mean KL divergence of a step."""
    clip: float = 0.3
    """Of PPO."""
    num_epochs: int = 5
    """Of PPO."""
    kl_weight: float = 0.0
    """Of ProMP's penalty on changes of the policies that rolled out."""
    exploration_weight: float = 0.0
    """Of E-MAML's term; 1 makes the meta-gradient that of the expected return."""


Acting = Rl2 | Varibad | MamlRl
"""Methods that act in environments."""
Descending = Maml | Anil | Boil | Cavia | MetaSgd | MamlPlusPlus | ProtoMaml | Imaml
"""Methods that adapt by gradient steps from a meta-learned start."""
Comparing = Protonet | Matching | Relation | Ridge
"""Methods that compare embeddings, for any number of ways."""
Method = Descending | Comparing | Reptile | FineTune | Acting

# Training and testing


@dataclass(frozen=True)
class Training:
    """The outer loop. All numbers of steps but `halve_lr_every` are multiples of `steps_per_dispatch`."""

    num_steps: int
    tasks_per_step: int
    steps_per_dispatch: int
    """Meta-steps that run in one compiled call, between two lines of the log."""
    evaluate_every: int
    """Meta-steps between two evaluations on meta_valid, which choose the model (by all queries together, for a learner
    to which that makes a difference); also the longest way between two checkpoints."""
    checkpoint_every: int | None = None
    """Meta-steps between checkpoints; at every evaluation if not given."""
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    schedule: Literal["constant", "halved", "linear"] = "constant"
    """Rate of the meta-optimizer: as it is, halved every `halve_lr_every` steps, or going linearly to zero."""
    halve_lr_every: int = 2000
    clip_norm: float | None = None
    """Largest norm of a meta-gradient, beyond which it is scaled down."""
    batching: Literal["auto", "vmap", "scan"] | int = "auto"
    """Tasks of a meta-step at once: all (`vmap`), one (`scan`), this many, or (`auto`) all on accelerators and on a CPU
    as many as its caches hold."""
    num_valid_tasks: int = 200
    patience: int | None = None
    """Evaluations without a better score on meta_valid after which training stops; never if not given."""
    max_skipped_in_a_row: int = 20
    """Meta-steps in a row with a loss, gradient or result that is not finite, after which the run is given up; looked
    at after every dispatch."""
    keep_last: int = 3
    """Checkpoints kept beside the best."""
    seed: int = 0


@dataclass(frozen=True)
class Testing:
    """The tasks that a model is chosen by (of meta_valid) and judged by (of meta_test)."""

    num_ways: int = 5
    num_shots: int = 1
    num_tasks: int | None = None
    """Tasks of meta_test; the protocol's number, or else 1000, if not given."""
    tasks_at_once: int = 4
    """A matter of speed and memory only."""


class Recipe(Protocol):
    """What every recipe has; its own class says which data, model and method these are."""

    @property
    def data(self) -> Data: ...
    @property
    def model(self) -> Network: ...
    @property
    def method(self) -> Method: ...
    @property
    def training(self) -> Training: ...
    @property
    def testing(self) -> Testing: ...
