"""Environments of meta-reinforcement learning: pure functions, batched by `vmap`, whose parameters are the task.

Each factory returns `(environment, sample)`: the environment, under gymnax's names, and a sampler of its parameters.
"""

from .bandits import BanditParams as BanditParams
from .bandits import bernoulli_bandit as bernoulli_bandit
from .bandits import gaussian_bandit as gaussian_bandit
from .environment import Environment as Environment
from .environment import environment as environment
from .from_brax import from_brax as from_brax
from .from_navix import from_navix as from_navix
from .from_xland_minigrid import from_xland_minigrid as from_xland_minigrid
from .from_xland_minigrid import hidden_goal_benchmark as hidden_goal_benchmark
from .meta_maze import meta_maze as meta_maze
from .point_navigation import point_navigation as point_navigation
from .point_navigation import sparse_point_navigation as sparse_point_navigation
from .previous_observation import with_previous_observation as with_previous_observation
from .scaled_actions import scaled_actions as scaled_actions
from .source import source as source
from .spaces import Box as Box
from .spaces import Discrete as Discrete
from .spaces import as_numbers as as_numbers
from .spaces import as_vector as as_vector
from .spaces import num_features as num_features
from .tabular_mdp import tabular_mdp as tabular_mdp
