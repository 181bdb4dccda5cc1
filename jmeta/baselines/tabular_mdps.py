"""Policies for random tabular MDPs: what people have designed, to judge by it what was meta-learned.

They know the distribution that `environments.tabular_mdp` draws from, and keep its posterior. At the start of a rollout
they make a plan for it from what is known so far, and follow it to its end; where actions are equally good, any of them
is as likely.

Reference: Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel, "RL²: Fast Reinforcement Learning via Slow Reinforcement
Learning", 2016, arXiv:1611.02779, section 3.2, which compares itself with these.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..policies import Decision, Policy, StepInput
from ..tasks.class_arrays import check_positive
from ..types import RandomKey
from .acting import check_epsilon, choice, mixed_with_uniform, uniform_over_best, untrained
from .mdp_posterior import MDPCounts, experienced, no_experience, posterior_mean, posterior_sample
from .value_iteration import Plan, expected, optimistic_transitions, planned_backwards, value_iteration

MakePlan = Callable[[MDPCounts, RandomKey], Plan]
"""`(counts, key) -> plan`: scores of actions for the next rollout, from what was experienced."""


class PlannerMemory(NamedTuple):
    """What the policies remember.

    Attributes:
      counts: what was experienced in the MDP.
      state: the one observed last.
      time: steps since the rollout's start.
      plan: for this rollout.
    """

    counts: MDPCounts
    state: Int[Array, ""]
    time: Int[Array, ""]
    plan: Float[Array, "horizon states actions"]


def planning_policy(
    make_plan: MakePlan, *, num_states: int, num_actions: int, horizon: int, epsilon: float = 0.0
) -> Policy:
    """Make a plan at the start of every rollout, and follow it.

    Args:
      make_plan: `(counts, key) -> plan`.
      num_states: observations are their numbers.
      num_actions: in every state.
      horizon: steps for which a plan is made; in a longer rollout its last step is repeated.
      epsilon: the probability of any action in place of the plan's.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> import jax
      >>> from jmeta import rollouts
      >>> from jmeta.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> as_if_certain = lambda counts, key: value_iteration(posterior_mean(counts), 10)
      >>> policy = planning_policy(as_if_certain, num_states=10, num_actions=5, horizon=10)
      >>> run = rollouts.run_episode(mdp, policy, num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).is_over.sum().tolist()
      2
    """
    check_positive({"num_states": num_states, "num_actions": num_actions, "horizon": horizon})
    check_epsilon(epsilon)

    def start() -> PlannerMemory:
        zero = jnp.zeros((), jnp.int32)
        no_plan = jnp.zeros((horizon, num_states, num_actions), jnp.float32)
        return PlannerMemory(no_experience(num_states, num_actions), zero, zero, no_plan)

    def decide(memory: PlannerMemory, inputs: StepInput, key: RandomKey) -> tuple[PlannerMemory, Decision]:
        state = inputs.observation.astype(jnp.int32)
        counts = experienced(memory.counts, memory.state, inputs.action, inputs.reward, state, inputs.is_over)
        is_start = inputs.is_over | (inputs.action < 0)
        time = jnp.where(is_start, 0, memory.time + 1)
        plan = _made_if(is_start, lambda key: make_plan(counts, key), memory.plan, key)
        logits = uniform_over_best(plan[jnp.minimum(time, horizon - 1), state])
        if epsilon > 0:
            logits = mixed_with_uniform(logits, epsilon)
        return PlannerMemory(counts, state, time, plan), choice(logits)

    return untrained(start, decide)


def _made_if(is_due: Bool[Array, ""], make: Callable[[RandomKey], Plan], old: Plan, key: RandomKey) -> Plan:
    """`make(key)` where it is due, and else the old one.

    A loop of one round or none: under `vmap` over tasks a `cond` would make all plans at every step, while a loop makes
    none where none is due, and tasks whose rollouts are of one length are due together.
    """

    def round_(carry: tuple[Array, Plan, RandomKey]) -> tuple[Array, Plan, RandomKey]:
        _, _, key = carry
        key, key_plan = jax.random.split(key)
        return jnp.array(False), make(key_plan), key

    return jax.lax.while_loop(lambda carry: carry[0], round_, (is_due, old, key))[1]


def epsilon_greedy_planning(
    *, epsilon: float, num_states: int = 10, num_actions: int = 5, horizon: int = 10
) -> Policy:
    """Act as is best in the MDP of posterior means with probability 1 − ε, and else at random.

    Args:
      epsilon: ε, in [0, 1]; with 0 it is greedy.
      num_states, num_actions, horizon: of the MDPs.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> import jax
      >>> from jmeta import rollouts
      >>> from jmeta.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> run = rollouts.run_episode(mdp, epsilon_greedy_planning(epsilon=0.1), num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (20,)
    """

    def make_plan(counts: MDPCounts, key: RandomKey) -> Plan:
        del key
        return value_iteration(posterior_mean(counts), horizon)

    return planning_policy(
        make_plan, num_states=num_states, num_actions=num_actions, horizon=horizon, epsilon=epsilon
    )


def psrl(*, num_states: int = 10, num_actions: int = 5, horizon: int = 10) -> Policy:
    """Act as is best in one MDP drawn from the posterior: posterior sampling for reinforcement learning.

    Args:
      num_states, num_actions, horizon: of the MDPs.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax
      >>> from jmeta import rollouts
      >>> from jmeta.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> run = rollouts.run_episode(mdp, psrl(), num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (20,)

    Reference:
      Osband, Russo, Van Roy, "(More) Efficient Reinforcement Learning via Posterior Sampling", 2013, arXiv:1306.0940,
      algorithm 1; Strens, "A Bayesian Framework for Reinforcement Learning", 2000.
    """

    def make_plan(counts: MDPCounts, key: RandomKey) -> Plan:
        return value_iteration(posterior_sample(counts, key), horizon)

    return planning_policy(make_plan, num_states=num_states, num_actions=num_actions, horizon=horizon)


def optimistic_psrl(
    *, num_samples: int, num_states: int = 10, num_actions: int = 5, horizon: int = 10
) -> Policy:
    """Act as is best if every action were as good as the most promising of several MDPs drawn from the posterior says.

    Qₕ(s, a) = maxₖ [rₖ(s, a) + Σ pₖ(s′ | s, a) maxₐ′ Qₕ₋₁(s′, a′)]: the maximum over the samples k is taken anew for
    each state, action and time. With one sample it is `psrl`.

    Args:
      num_samples: MDPs that are drawn for each rollout.
      num_states, num_actions, horizon: of the MDPs.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> import jax
      >>> from jmeta import rollouts
      >>> from jmeta.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> run = rollouts.run_episode(mdp, optimistic_psrl(num_samples=2), num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (20,)

    Reference:
      Osband, Van Roy, "Why is Posterior Sampling Better than Optimism for Reinforcement Learning?", 2017,
      arXiv:1607.00215, names optimistic variants; this one, with a maximum in every backup, is that of Tiapkin et al.,
      "Optimistic Posterior Sampling for Reinforcement Learning with Few Samples and Tight Guarantees", 2022,
      arXiv:2209.14414, with rewards that are drawn too and a prior that is the true one.
    """
    check_positive({"num_samples": num_samples})

    def make_plan(counts: MDPCounts, key: RandomKey) -> Plan:
        drawn = jax.vmap(lambda key: posterior_sample(counts, key))(jax.random.split(key, num_samples))
        backups = jax.vmap(lambda params, values: params.rewards + expected(params.transitions, values), (0, None))
        return planned_backwards(lambda values: backups(drawn, values).max(0), num_states=num_states, horizon=horizon)

    return planning_policy(make_plan, num_states=num_states, num_actions=num_actions, horizon=horizon)


def ucrl2(
    *,
    reward_scale: float = 1.0,
    transition_scale: float = 1.0,
    confidence: float = 0.05,
    num_states: int = 10,
    num_actions: int = 5,
    horizon: int = 10,
) -> Policy:
    """Act as is best in the most favourable MDP within confidence bounds.

    After t steps, n of them with this action in this state, mean rewards may be as high as r̂ + c √(7 ln(2SAt/δ) / 2n)
    and next states' probabilities as far from p̂ as ‖p − p̂‖₁ ≤ d √(14 S ln(2At/δ) / n).

    Args:
      reward_scale: c, at least 0; the paper's bound is 1, which explores for far longer than episodes here last.
      transition_scale: d, likewise.
      confidence: δ, in (0, 1].
      num_states, num_actions, horizon: of the MDPs.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> import jax
      >>> from jmeta import rollouts
      >>> from jmeta.environments.tabular_mdp import tabular_mdp
      >>> mdp, sample = tabular_mdp()
      >>> run = rollouts.run_episode(mdp, ucrl2(reward_scale=0.1, transition_scale=0.01), num_steps=20)
      >>> run({}, sample(jax.random.key(0)), jax.random.key(1)).reward.shape
      (20,)

    Reference:
      Jaksch, Ortner, Auer, "Near-optimal Regret Bounds for Reinforcement Learning", 2010, figures 1 and 2. Differs from
      the paper: the horizon is finite and plans are made for each rollout; c and d; r̂ and p̂ are posterior means, and n
      counts the prior as one step more.
    """
    if not (reward_scale >= 0 and transition_scale >= 0):
        raise ValueError(f"{reward_scale=} and {transition_scale=}; expected numbers of at least 0")
    if not 0 < confidence <= 1:
        raise ValueError(f"confidence={confidence}; expected a probability, in (0, 1]")

    def make_plan(counts: MDPCounts, key: RandomKey) -> Plan:
        del key
        mean, visits = posterior_mean(counts), 1 + counts.visits
        log_time = jnp.log(2 * num_actions * jnp.maximum(counts.visits.sum(), 1) / confidence)
        rewards = mean.rewards + reward_scale * jnp.sqrt(3.5 * (log_time + jnp.log(float(num_states))) / visits)
        radius = transition_scale * jnp.sqrt(14 * num_states * log_time / visits)
        backup = lambda values: rewards + optimistic_transitions(mean.transitions, radius, values)
        return planned_backwards(backup, num_states=num_states, horizon=horizon)

    return planning_policy(make_plan, num_states=num_states, num_actions=num_actions, horizon=horizon)
