"""Environments of meta-reinforcement learning: pure functions, batched by `vmap`, whose parameters are the task.

Each factory returns `(environment, sample)`: the environment, under gymnax's names, and a sampler of its parameters.
"""

from .bandits import BanditParams, bernoulli_bandit, gaussian_bandit
from .environment import Environment, environment
from .from_brax import from_brax
from .from_navix import from_navix
from .from_xland_minigrid import from_xland_minigrid, hidden_goal_benchmark
from .meta_maze import meta_maze
from .point_navigation import point_navigation, sparse_point_navigation
from .previous_observation import with_previous_observation
from .scaled_actions import scaled_actions
from .source import source
from .spaces import Box, Discrete, as_numbers, as_vector, num_features
from .tabular_mdp import tabular_mdp

__all__ = [
    "BanditParams",
    "bernoulli_bandit",
    "gaussian_bandit",
    "Environment",
    "environment",
    "from_brax",
    "from_navix",
    "from_xland_minigrid",
    "hidden_goal_benchmark",
    "meta_maze",
    "point_navigation",
    "sparse_point_navigation",
    "with_previous_observation",
    "scaled_actions",
    "source",
    "Box",
    "Discrete",
    "as_numbers",
    "as_vector",
    "num_features",
    "tabular_mdp",
]
