"""How to act in a task and learn from it."""

from dataclasses import dataclass
from typing import Literal


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
