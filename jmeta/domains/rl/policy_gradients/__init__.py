"""Policy gradients: from what happened in an episode to a task to learn from, and the losses that learn from it.

`collect_episode` acts with the present policy and turns what happened into a `jmeta.Task`: nothing yet experienced as
its support, the whole episode as its query. A2C's and PPO's losses are then ordinary `loss_fn`s of `jmeta.episode`.
Methods that adapt by policy gradients of their own `roll_out` separate rollouts and descend a surrogate.
"""

from .baseline import linear_baseline as linear_baseline
from .collecting import Acted as Acted
from .collecting import Collect as Collect
from .collecting import acting_episode as acting_episode
from .collecting import collect_episode as collect_episode
from .collecting import judged as judged
from .collecting import with_normalized_advantages as with_normalized_advantages
from .losses import a2c_loss as a2c_loss
from .losses import ppo_loss as ppo_loss
from .losses import with_fading_entropy as with_fading_entropy
from .separate_rollouts import RollOut as RollOut
from .separate_rollouts import roll_out as roll_out
from .surrogates import dice as dice
from .surrogates import likelihood_ratio as likelihood_ratio
from .surrogates import reinforce as reinforce
