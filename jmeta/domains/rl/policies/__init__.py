"""Policies: functions of everything they have seen, as `rl.policies.Policy`, and their distributions of actions."""

from .actor_critic import actor_critic
from .distributions import Categorical, Distribution, Normal
from .heads import ActionMask
from .memoryless import memoryless
from .policy import Policy, PolicyInput, PolicyOutput, features, first_input

__all__ = [
    "actor_critic",
    "Categorical",
    "Distribution",
    "Normal",
    "ActionMask",
    "memoryless",
    "Policy",
    "PolicyInput",
    "PolicyOutput",
    "features",
    "first_input",
]
