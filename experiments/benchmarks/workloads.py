"""The workloads on which jmeta and others are measured: sizes, parameters and tasks as plain arrays.

    W1   second-order MAML, conv4-64 with batch norm and max pooling, 28x28, 5-way 1-shot, 75 queries
    W2   second-order MAML, sinusoids, network 1-40-40-1, 10 examples and 10 queries
    W3   a training step of prototypical networks, conv4-64, 20-way 5-shot, 15 queries
    W4   RL² on Bernoulli bandits with 5 arms, GRU of 256, by A2C or PPO: acting and learning

Every contender starts from the same parameters and sees the same tasks, so that all have the same loss and gradient,
which is checked before anything is timed. A meta-step is a meta-gradient and a step of Adam. In W4 contenders draw
bandits and actions from their own random numbers, and loss and gradient are those of recorded pulls; PPO makes two
passes over the collected data, in four minibatches.
"""

from dataclasses import dataclass

import numpy as np

FILTERS, IMAGE, WAYS_IMAGES = 64, 28, 5
META_LR = 1e-4
EPSILON = 1e-3
"""Epsilon of batch norm."""


@dataclass(frozen=True)
class Workload:
    """Sizes of a workload.

    Attributes:
      kind: `"W1"`, `"W2"`, `"W3"`, `"W4-A2C"` or `"W4-PPO"`.
      tasks: number of tasks in a meta-step.
      steps: number of inner steps, or of pulls of an episode; 0 for W3.
      dispatched: meta-steps in one call, for contenders that can make many; by the workload's size if not given.
    """

    kind: str
    tasks: int = 1
    steps: int = 0
    dispatched: int | None = None

    @property
    def name(self) -> str:
        return "W3" if self.kind == "W3" else f"{self.kind} T={self.tasks} S={self.steps}"

    @property
    def acts(self) -> bool:
        """Whether this is reinforcement learning, whose contenders get `Pulls`, not `Arrays`."""
        return self.kind.startswith("W4")

    @property
    def inner_lr(self) -> float:
        return 0.1 if self.kind == "W1" else 0.01

    @property
    def ways(self) -> int:
        return {"W1": WAYS_IMAGES, "W2": 1, "W3": 20}[self.kind]

    @property
    def num_examples(self) -> tuple[int, int]:
        """Numbers of examples in a task's support and in its query."""
        return {"W1": (5, 75), "W2": (10, 10), "W3": (100, 300)}[self.kind]

    @property
    def useful_flops(self) -> float:
        """FLOP of a meta-step of W1 or W3: convolutions alone, each product once forward and twice in a gradient.

        An inner step takes 3 passes for the loss and its gradient, and 6 more for differentiating them.
        """
        if self.kind not in ("W1", "W3"):
            raise ValueError(f"{self.kind} is bound by memory and overhead, not by arithmetic")
        sizes, channels = (28, 14, 7, 3), (1, FILTERS, FILTERS, FILTERS)
        forward = sum(2 * size**2 * 9 * inputs * FILTERS for size, inputs in zip(sizes, channels, strict=True))
        support, query = self.num_examples
        passes = 3 * (support + query) if self.kind == "W3" else 9 * self.steps * support + 3 * query
        return float(self.tasks * passes * forward)

    @property
    def steps_per_dispatch(self) -> int:
        """Meta-steps in one call, for contenders that can make many."""
        if self.dispatched is not None:
            return self.dispatched
        return max(1, 5000 // (self.tasks * self.steps)) if self.kind == "W2" else 1


@dataclass(frozen=True)
class Arrays:
    """A network's initial parameters, by name, and stacked tasks `[tasks, examples, ...]`."""

    params: dict[str, np.ndarray]
    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray


@dataclass(frozen=True)
class Pulls:
    """The initial parameters of a GRU and two heads, by name, and recorded pulls of some bandits.

    Attributes:
      params: parameters by name; gates are in the order reset, keep, content.
      action: `[tasks, pulls]`, the pulled arms.
      reward: `[tasks, pulls]`, their rewards.
    """

    params: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray


ARMS, WIDTH = 5, 256
FEATURES = 1 + ARMS + 2
"""Features of a policy's input: the observation, which is 0, the last pull, its reward, and whether a rollout ended."""
NUM_EPOCHS, NUM_MINIBATCHES, CLIP = 2, 4, 0.2
DISCOUNT, GAE_LAMBDA, REWARD_SCALE = 0.99, 0.3, 0.1
VALUE_WEIGHT, ENTROPY_WEIGHT, CLIP_NORM, ACTING_LR = 0.5, 0.05, 1.0, 1e-3


def pulls(workload: Workload) -> Pulls:
    """Draw the parameters and recorded pulls, which are the same for every contender that acts."""
    rng = np.random.default_rng(0)
    params = {
        "memory/input_kernel": _glorot(rng, FEATURES, 3 * WIDTH),
        "memory/recurrent_kernel": _glorot(rng, WIDTH, 3 * WIDTH),
        "memory/bias": rng.normal(size=3 * WIDTH).astype(np.float32),
        "memory/content_bias": rng.normal(size=WIDTH).astype(np.float32),
        "actor/kernel": _glorot(rng, WIDTH, ARMS),
        "actor/bias": np.zeros(ARMS, np.float32),
        "critic/kernel": _glorot(rng, WIDTH, 1),
        "critic/bias": np.zeros(1, np.float32),
    }
    shape = (workload.tasks, workload.steps)
    return Pulls(params, rng.integers(0, ARMS, shape, np.int32), rng.integers(0, 2, shape).astype(np.float32))


def arrays(workload: Workload) -> Arrays:
    """Draw the parameters and tasks, which are the same for every contender."""
    rng = np.random.default_rng(0)
    params = _mlp(rng) if workload.kind == "W2" else _conv4(rng, workload.ways if workload.kind == "W1" else None)
    batches = [_batch(workload, rng, count) for count in workload.num_examples]
    return Arrays(params, *batches[0], *batches[1])


def _batch(workload: Workload, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (workload.tasks, count)
    if workload.kind == "W2":
        amplitude, phase = rng.uniform(0.1, 5.0, (shape[0], 1, 1)), rng.uniform(0.0, np.pi, (shape[0], 1, 1))
        x = rng.uniform(-5.0, 5.0, (*shape, 1))
        return x.astype(np.float32), (amplitude * np.sin(x - phase)).astype(np.float32)
    labels = np.tile(np.arange(count, dtype=np.int32) % workload.ways, (workload.tasks, 1))
    patterns = rng.uniform(0.0, 1.0, (workload.tasks, workload.ways, IMAGE, IMAGE, 1))
    x = np.take_along_axis(patterns, labels[:, :, None, None, None], axis=1) + 0.3 * rng.normal(
        size=(*shape, IMAGE, IMAGE, 1)
    )
    return x.astype(np.float32), labels


def _glorot(rng: np.random.Generator, *shape: int) -> np.ndarray:
    receptive = int(np.prod(shape[:-2]))
    limit = np.sqrt(6 / (receptive * (shape[-2] + shape[-1])))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def _mlp(rng: np.random.Generator) -> dict[str, np.ndarray]:
    params, widths = {}, (1, 40, 40, 1)
    for name, i in (("hidden_0", 0), ("hidden_1", 1), ("head", 2)):
        params[f"params/{name}/kernel"] = _glorot(rng, widths[i], widths[i + 1])
        params[f"params/{name}/bias"] = np.zeros(widths[i + 1], np.float32)
    return params


def _conv4(rng: np.random.Generator, num_outputs: int | None) -> dict[str, np.ndarray]:
    params = {}
    for i in range(4):
        params[f"params/conv_{i}/kernel"] = _glorot(rng, 3, 3, 1 if i == 0 else FILTERS, FILTERS)
        params[f"params/norm_{i}/scale"] = np.ones(FILTERS, np.float32)
        params[f"params/norm_{i}/bias"] = np.zeros(FILTERS, np.float32)
    if num_outputs is not None:
        params["params/head/kernel"] = _glorot(rng, FILTERS, num_outputs)
        params["params/head/bias"] = np.zeros(num_outputs, np.float32)
    return params
