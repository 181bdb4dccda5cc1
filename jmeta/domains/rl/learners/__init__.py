"""Learners that act: RL², MAML by policy gradients, VariBAD; one method per file, each a factory of a `Learner`."""

from .maml_rl import collect_adaptation, maml_rl
from .rl2 import rl2
from .varibad import task_inference, varibad, varibad_policy

__all__ = ["maml_rl", "collect_adaptation", "rl2", "task_inference", "varibad", "varibad_policy"]
