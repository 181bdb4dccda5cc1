"""Policy gradients: from an episode's experience to a task, and the losses that learn from it.

`collect_episode` acts with the current policy and turns the experience into a `jmeta.Task`: nothing as its support, the
whole episode as its query. A2C's and PPO's losses are then ordinary `loss_fn`s of `jmeta.episode`. Methods that adapt
by their own policy gradients `roll_out` separate rollouts and descend a surrogate.
"""

from .baseline import linear_baseline
from .collecting import Acted, Collect, acting_episode, collect_episode, judged, with_normalized_advantages
from .losses import a2c_loss, ppo_loss, with_fading_entropy
from .separate_rollouts import RollOut, roll_out
from .surrogates import dice, likelihood_ratio, reinforce

__all__ = [
    "linear_baseline",
    "Acted",
    "Collect",
    "acting_episode",
    "collect_episode",
    "judged",
    "with_normalized_advantages",
    "a2c_loss",
    "ppo_loss",
    "with_fading_entropy",
    "RollOut",
    "roll_out",
    "dice",
    "likelihood_ratio",
    "reinforce",
]
