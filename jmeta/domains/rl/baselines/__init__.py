"""Baselines without meta-learning: hand-designed policies, and optima where they can be computed.

All policies are `rl.policies.Policy`s, whose parameters are `{}`, and run like any other policy. Policies for bandits
know the prior of `environments.bernoulli_bandit`, and those for MDPs that of `tabular_mdp`.
"""

from .acting import uniformly_random
from .bandits import (
    epsilon_greedy,
    finite_horizon_gittins,
    gittins,
    greedy,
    index_policy,
    optimistic_thompson_sampling,
    tabled,
    thompson_sampling,
    ucb1,
)
from .bayes_optimal import bayes_optimal, bayes_optimal_value
from .gittins import finite_horizon_indices, gittins_indices
from .tabular_mdps import epsilon_greedy_planning, optimistic_psrl, planning_policy, psrl, ucrl2
from .value_iteration import optimal_value, value_iteration

__all__ = [
    "uniformly_random",
    "epsilon_greedy",
    "finite_horizon_gittins",
    "gittins",
    "greedy",
    "index_policy",
    "optimistic_thompson_sampling",
    "tabled",
    "thompson_sampling",
    "ucb1",
    "bayes_optimal",
    "bayes_optimal_value",
    "finite_horizon_indices",
    "gittins_indices",
    "epsilon_greedy_planning",
    "optimistic_psrl",
    "planning_policy",
    "psrl",
    "ucrl2",
    "optimal_value",
    "value_iteration",
]
