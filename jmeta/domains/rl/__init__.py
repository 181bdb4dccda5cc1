"""Meta-reinforcement learning: environments whose parameters are the task, policies, and learners that act in them.

    environment, policy ──► rollouts ──► policy_gradients ──► learners ──► on_policy, trust_region ──► acting

`baselines` are hand-designed policies, and optima where they can be computed. `testing`, imported by name, has the
contracts of environments and policies.
"""

from . import acting, baselines, environments, learners, on_policy, policies, policy_gradients, rollouts, trust_region

__all__ = [
    "environments",
    "policies",
    "rollouts",
    "policy_gradients",
    "learners",
    "on_policy",
    "trust_region",
    "acting",
    "baselines",
]
