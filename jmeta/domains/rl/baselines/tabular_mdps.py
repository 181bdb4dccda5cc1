"""Hand-designed policies for random tabular MDPs, as a yardstick for meta-learned ones.

They know the distribution that `environments.tabular_mdp` draws from, and keep its posterior. At the start of a rollout
they make a plan for it from the current posterior, and follow it to the end; they choose among equally good actions
uniformly.

Reference: Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel, "RL²: Fast Reinforcement Learning via Slow Reinforcement
Learning", 2016, arXiv:1611.02779, section 3.2, which compares itself with these.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jmeta.tasks.class_arrays import check_positive
from jmeta.types import RandomKey

from ..policies import Policy, PolicyInput, PolicyOutput
from .acting import Scalar, check_range, choice, mixed_with_uniform, uniform_over_best, untrained
from .mdp_posterior import MDPPosterior, experienced, posterior_mean, posterior_sample, prior
from .value_iteration import Plan, optimistic_expected, planned_backwards, value_iteration

__all__ = [
    "MakePlan",
    "PlannerMemory",
    "planning_policy",
    "epsilon_greedy_planning",
    "psrl",
    "optimistic_psrl",
    "ucrl2",
]

MakePlan = Callable[[MDPPosterior, RandomKey], Plan]
"""`(posterior, key) -> plan`: scores of actions for the next rollout, from the posterior."""


class PlannerMemory(NamedTuple):
    """The memory of the policies.

    Attributes:
      posterior: the posterior of the MDP.
      state: the last observed state.
      time: steps since the rollout's start.
      plan: plan for this rollout.
    """

    posterior: MDPPosterior
    state: Int[Array, ""]
    time: Int[Array, ""]
    plan: Float[Array, "horizon states actions"]


def planning_policy(
    make_plan: MakePlan,
    *,
    num_states: int,
    num_actions: int,
    horizon: int,
    epsilon: Scalar = 0.0,
    reward_mean: Scalar = 1.0,
) -> Policy:
    """Build a policy that makes a plan at the start of every rollout, and follows it.

    Args:
      make_plan: `(posterior, key) -> plan`.
      num_states: number of states; observations are their indices.
      num_actions: number of actions in every state.
      horizon: steps of a plan; in a longer rollout its last step is repeated.
      epsilon: the probability of a uniformly random action instead of the plan's.
      reward_mean: mean reward of the prior; see `prior`.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import rollouts
      >>> from jmeta.domains.rl.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> as_if_certain = lambda posterior, key: value_iteration(posterior_mean(posterior), 10)
      >>> policy = planning_policy(as_if_certain, num_states=10, num_actions=5, horizon=10)
      >>> run = rollouts.run_episode(mdp, policy, num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).is_over.sum().tolist()
      2
    """
    check_positive({"num_states": num_states, "num_actions": num_actions, "horizon": horizon})
    check_range("epsilon", epsilon, 0.0, 1.0)

    def start() -> PlannerMemory:
        zero = jnp.zeros((), jnp.int32)
        no_plan = jnp.zeros((horizon, num_states, num_actions), jnp.float32)
        return PlannerMemory(prior(num_states, num_actions, reward_mean=reward_mean), zero, zero, no_plan)

    def decide(memory: PlannerMemory, inputs: PolicyInput, key: RandomKey) -> tuple[PlannerMemory, PolicyOutput]:
        state = inputs.observation.astype(jnp.int32)
        posterior = experienced(memory.posterior, memory.state, inputs.action, inputs.reward, state, inputs.is_over)
        is_start = inputs.is_over | (inputs.action < 0)
        time = jnp.where(is_start, 0, memory.time + 1)
        plan = _made_if(is_start, lambda key: make_plan(posterior, key), memory.plan, key)
        logits = mixed_with_uniform(uniform_over_best(plan[jnp.minimum(time, horizon - 1), state]), epsilon)
        return PlannerMemory(posterior, state, time, plan), choice(logits)

    return untrained(start, decide)


def _made_if(is_due: Bool[Array, ""], make: Callable[[RandomKey], Plan], old: Plan, key: RandomKey) -> Plan:
    """Return `make(key)` where a new plan is due, and else the old one.

    This is a loop of one round or none: under `vmap` over tasks a `cond` would make all plans at every step. The loop
    makes none where none is due, and tasks whose rollouts have one length are due together.
    """

    def round_(carry: tuple[Array, Plan, RandomKey]) -> tuple[Array, Plan, RandomKey]:
        _, _, key = carry
        key, key_plan = jax.random.split(key)
        return jnp.array(False), make(key_plan), key

    return jax.lax.while_loop(lambda carry: carry[0], round_, (is_due, old, key))[1]


def epsilon_greedy_planning(
    *, epsilon: Scalar, num_states: int = 10, num_actions: int = 5, horizon: int = 10, reward_mean: Scalar = 1.0
) -> Policy:
    """Act optimally in the MDP of posterior means with probability 1 − ε, and else at random.

    Args:
      epsilon: ε, in [0, 1]; with 0 it is greedy.
      num_states, num_actions, horizon: sizes of the MDPs, and steps of a rollout.
      reward_mean: mean reward of the prior; see `prior`.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import rollouts
      >>> from jmeta.domains.rl.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> run = rollouts.run_episode(mdp, epsilon_greedy_planning(epsilon=0.1), num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (20,)
    """

    def make_plan(posterior: MDPPosterior, key: RandomKey) -> Plan:
        del key
        return value_iteration(posterior_mean(posterior), horizon)

    return planning_policy(
        make_plan,
        num_states=num_states,
        num_actions=num_actions,
        horizon=horizon,
        epsilon=epsilon,
        reward_mean=reward_mean,
    )


def psrl(*, num_states: int = 10, num_actions: int = 5, horizon: int = 10, reward_mean: Scalar = 1.0) -> Policy:
    """Act optimally in one MDP drawn from the posterior: posterior sampling for reinforcement learning.

    Args:
      num_states, num_actions, horizon: sizes of the MDPs, and steps of a rollout.
      reward_mean: mean reward of the prior; see `prior`.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import rollouts
      >>> from jmeta.domains.rl.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> run = rollouts.run_episode(mdp, psrl(), num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (20,)

    Reference:
      Osband, Russo, Van Roy, "(More) Efficient Reinforcement Learning via Posterior Sampling", 2013, arXiv:1306.0940,
      algorithm 1; Strens, "A Bayesian Framework for Reinforcement Learning", 2000.
    """

    def make_plan(posterior: MDPPosterior, key: RandomKey) -> Plan:
        return value_iteration(posterior_sample(posterior, key), horizon)

    return planning_policy(
        make_plan, num_states=num_states, num_actions=num_actions, horizon=horizon, reward_mean=reward_mean
    )


def optimistic_psrl(
    *, num_samples: int, num_states: int = 10, num_actions: int = 5, horizon: int = 10, reward_mean: Scalar = 1.0
) -> Policy:
    """Act by the highest score of an action in the optimal plans of several MDPs drawn from the posterior.

    Q(s, a) = maxₖ Qₖ(s, a), Qₖ being the optimal plan of sample k. With one sample it is `psrl`.

    Args:
      num_samples: number of MDPs drawn for each rollout.
      num_states, num_actions, horizon: sizes of the MDPs, and steps of a rollout.
      reward_mean: mean reward of the prior; see `prior`.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import rollouts
      >>> from jmeta.domains.rl.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> run = rollouts.run_episode(mdp, optimistic_psrl(num_samples=2), num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (20,)

    Reference:
      Osband, Van Roy, "Why is Posterior Sampling Better than Optimism for Reinforcement Learning?", 2017,
      arXiv:1607.00215, whose experiments include it as an envelope over samples.
    """
    check_positive({"num_samples": num_samples})

    def make_plan(posterior: MDPPosterior, key: RandomKey) -> Plan:
        def plan_of_sample(key: RandomKey) -> Plan:
            return value_iteration(posterior_sample(posterior, key), horizon)

        return jax.lax.map(plan_of_sample, jax.random.split(key, num_samples)).max(0)

    return planning_policy(
        make_plan, num_states=num_states, num_actions=num_actions, horizon=horizon, reward_mean=reward_mean
    )


def ucrl2(
    *,
    reward_scale: Scalar = 1.0,
    transition_scale: Scalar = 1.0,
    confidence: float = 0.05,
    num_states: int = 10,
    num_actions: int = 5,
    horizon: int = 10,
    reward_mean: Scalar = 1.0,
) -> Policy:
    """Act optimally in the most favourable MDP within confidence bounds.

    After t steps, n of them with this action in this state, mean rewards may be as high as r̂ + c √(7 ln(2SAt/δ) / 2n)
    and next states' probabilities as far from p̂ as ‖p − p̂‖₁ ≤ d √(14 S ln(2At/δ) / n).

    Args:
      reward_scale: c, at least 0; the paper's bound is 1, which explores for much longer than the episodes here.
      transition_scale: d, at least 0; the paper's bound is 1.
      confidence: δ, in (0, 1].
      num_states, num_actions, horizon: sizes of the MDPs, and steps of a rollout.
      reward_mean: mean reward of the prior; see `prior`.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import rollouts
      >>> from jmeta.domains.rl.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> run = rollouts.run_episode(mdp, ucrl2(reward_scale=0.1, transition_scale=0.01), num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (20,)

    Reference:
      Jaksch, Ortner, Auer, "Near-optimal Regret Bounds for Reinforcement Learning", 2010, figures 1 and 2. Differs from
      the paper: the horizon is finite and plans are made for each rollout; c and d; r̂ and p̂ are posterior means, and
      n counts the prior as one more step.
    """
    check_range("reward_scale", reward_scale, 0.0, math.inf)
    check_range("transition_scale", transition_scale, 0.0, math.inf)
    if not 0 < confidence <= 1:
        raise ValueError(f"confidence={confidence}; expected a probability, in (0, 1]")

    def make_plan(posterior: MDPPosterior, key: RandomKey) -> Plan:
        del key
        mean, visits = posterior_mean(posterior), posterior.precision
        num_steps = visits.sum() - num_states * num_actions
        log_time = jnp.log(2 * num_actions * jnp.maximum(num_steps, 1) / confidence)
        rewards = mean.rewards + reward_scale * jnp.sqrt(3.5 * (log_time + math.log(num_states)) / visits)
        radius = transition_scale * jnp.sqrt(14 * num_states * log_time / visits)

        def backup(values: Float[Array, "states"]) -> Float[Array, "states actions"]:
            return rewards + optimistic_expected(mean.transitions, radius, values)

        return planned_backwards(backup, jnp.zeros_like(rewards[:, 0]), horizon=horizon)

    return planning_policy(
        make_plan, num_states=num_states, num_actions=num_actions, horizon=horizon, reward_mean=reward_mean
    )
