"""Policies: functions of all that they have seen, as `rl.policies.Policy`, and their distributions of actions."""

from .actor_critic import actor_critic as actor_critic
from .distributions import Categorical as Categorical
from .distributions import Distribution as Distribution
from .distributions import Normal as Normal
from .heads import ActionMask as ActionMask
from .memoryless import memoryless as memoryless
from .policy import Policy as Policy
from .policy import PolicyInput as PolicyInput
from .policy import PolicyOutput as PolicyOutput
from .policy import features as features
from .policy import first_input as first_input
