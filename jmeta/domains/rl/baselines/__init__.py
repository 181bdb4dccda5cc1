"""Baselines without meta-learning: policies that people have designed, and optima where they can be computed.

All policies are `rl.policies.Policy`s, whose parameters are `{}`, and run as any other does. Those for bandits know the
prior of `environments.bernoulli_bandit`, and those for MDPs that of `tabular_mdp`.
"""

from .acting import uniformly_random as uniformly_random
from .bandits import epsilon_greedy as epsilon_greedy
from .bandits import finite_horizon_gittins as finite_horizon_gittins
from .bandits import gittins as gittins
from .bandits import greedy as greedy
from .bandits import index_policy as index_policy
from .bandits import optimistic_thompson_sampling as optimistic_thompson_sampling
from .bandits import tabled as tabled
from .bandits import thompson_sampling as thompson_sampling
from .bandits import ucb1 as ucb1
from .bayes_optimal import bayes_optimal as bayes_optimal
from .bayes_optimal import bayes_optimal_value as bayes_optimal_value
from .gittins import finite_horizon_indices as finite_horizon_indices
from .gittins import gittins_indices as gittins_indices
from .tabular_mdps import epsilon_greedy_planning as epsilon_greedy_planning
from .tabular_mdps import optimistic_psrl as optimistic_psrl
from .tabular_mdps import planning_policy as planning_policy
from .tabular_mdps import psrl as psrl
from .tabular_mdps import ucrl2 as ucrl2
from .value_iteration import optimal_value as optimal_value
from .value_iteration import value_iteration as value_iteration
