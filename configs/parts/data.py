"""Which tasks to meta-train on."""

from dataclasses import dataclass
from typing import Literal


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
    """Images of classes, loaded, split, rotated and drawn as a protocol says (see `jmeta.domains.images.protocols`)."""

    protocol: ProtocolName
    train_ways: int | None = None
    """Classes in a training task, in place of the protocol's."""
    train_shots: int | None = None
    """Support examples of each class in training, in place of the protocol's."""
    train_queries: int | None = None
    """Queries of each class in training, in place of the protocol's."""


@dataclass(frozen=True)
class Folder:
    """Your own images, a folder for each class (see `jmeta.domains.images.datasets.folder`)."""

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
    """Observations come with the ones before them, so that one layer of attention sees whole transitions."""


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
