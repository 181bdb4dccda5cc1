"""From a trajectory to a task: each action is evaluated by the rewards that followed it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.bounds import is_real
from jmeta.losses import checked_loss
from jmeta.types import Aux, Batch, EpisodeFn, LossFn, PyTree, RandomKey, Task

from ..rollouts import RunEpisode, Trajectory
from .returns import generalized_advantages

__all__ = ["Acted", "Collect", "collect_episode", "acting_episode", "judged", "with_normalized_advantages"]


class Acted(NamedTuple):
    """The action of each step, and its evaluation: the targets `y` of a batch of steps.

    Attributes:
      action: action taken; numbers of any shape are one vector.
      log_prob: log-probability of the action at that time, in nats.
      advantage: by how much the action was better than the policy's value.
      target: target of the value: the return that followed, or its estimate.
      reward: reward of the action.
      value: the policy's value at that time, for a clipped value loss; `None` if the policy makes none.
    """

    action: Array
    log_prob: Float[Array, " steps"]
    advantage: Float[Array, " steps"]
    target: Float[Array, " steps"]
    reward: Float[Array, " steps"]
    value: Float[Array, " steps"] | None = None


Collect = Callable[[PyTree, PyTree, RandomKey], Task]
"""`(meta_params, env_params, key) -> Task`: one episode of the current policy, to learn from."""


def collect_episode(
    run: RunEpisode, *, discount: float, gae_lambda: float, reward_scale: float = 1.0, bootstraps: bool = False
) -> Collect:
    """Act for one episode, and evaluate each action by the rewards that followed.

    Advantages are Âₜ = Σₖ (γλ)ᵏ δₜ₊ₖ with δₜ = rₜ + γ V(sₜ₊₁) − V(sₜ). By default they reach over the ends of rollouts,
    since what a policy learns in one pays off in the next, and end with the episode, whose length is part of the
    problem: the value of the first of 10 steps of reward 1 is Σ γᵏ over these 10.

    In other problems a time limit is not part of the problem: a rollout that it cuts off would have continued. With
    `bootstraps` each rollout is evaluated separately. Nothing follows its last step if the rules ended it
    (`terminated`); γ V of the last observation follows if a time limit (`truncated`) or the end of the episode did:
    endless rewards of 1 are then worth 1 / (1 − γ), once the value is accurate.

    Args:
      run: as returned by `rollouts.run_episode`; for `bootstraps`, one `with_final_values`.
      discount: γ, in [0, 1].
      gae_lambda: λ, in [0, 1]; 1 trusts rewards alone, 0 the values.
      reward_scale: factor of rewards, positive. Values far from 1 let the critic's gradient dominate a shared network:
        with 100 rewards, a factor of 0.1 decided whether it learned.
      bootstraps: whether rollouts are evaluated separately, with values in place of what time limits cut off.

    Returns:
      `(meta_params, env_params, key) -> Task`: an empty support, and as its query the steps of the episode, `x` the
      policy's inputs and `y` an `Acted`. No gradient flows into it.

    Raises:
      ValueError: if a number is not in [0, 1]; at trace time if `bootstraps` without values to take.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = policies.actor_critic(models.gru(16), bandit)
      >>> collect = collect_episode(rollouts.run_episode(bandit, policy, num_steps=10), discount=0.99, gae_lambda=0.3)
      >>> params = rollouts.init_policy(bandit, policy)(jax.random.key(0))
      >>> task = collect(params, sample(jax.random.key(1)), jax.random.key(2))
      >>> task.support.x.reward.shape, task.query.y.advantage.shape
      ((0,), (10,))

    Reference:
      Schulman, Moritz, Levine, Jordan, Abbeel, "High-Dimensional Continuous Control Using Generalized Advantage
      Estimation", 2015, arXiv:1506.02438, eq. 16; Pardo, Tavakoli, Levdik, Kormushev, "Time Limits in Reinforcement
      Learning", 2018, arXiv:1712.00378, section 3 (`bootstraps`).
    """
    _check(discount, gae_lambda, reward_scale)
    judge = functools.partial(
        judged, discount=discount, gae_lambda=gae_lambda, reward_scale=reward_scale, bootstraps=bootstraps
    )

    def collect(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> Task:
        trajectory = run(meta_params, env_params, key)
        task = judge(trajectory)
        return jax.lax.stop_gradient(task)

    return collect


def acting_episode(
    run: RunEpisode,
    loss_fn: LossFn,
    *,
    discount: float,
    gae_lambda: float,
    reward_scale: float = 1.0,
    bootstraps: bool = False,
) -> EpisodeFn:
    """Build an episode that acts and computes its loss in one pass, for experience that is used once, as in A2C.

    Its gradient is that of `collect_episode` followed by `jmeta.episode(learners.rl2(policy), loss_fn)`. Decisions are
    computed once and not again, which for a GRU of 256 takes 0.8 of the time. The policy's memory is stored for every
    step: little for a recurrent network, much for one that remembers all steps.

    Args:
      run: as returned by `rollouts.run_episode`.
      loss_fn: loss of decisions, such as `a2c_loss()`.
      discount, gae_lambda, reward_scale, bootstraps: as for `collect_episode`.

    Returns:
      An episode function of parameters of environments. Averaged by `jmeta.over_tasks`, its gradient makes meta-steps
      of a plain `jmeta.meta_trainer`; advantages are not normalised over tasks.

    Raises:
      ValueError: as for `collect_episode`.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = policies.actor_critic(models.gru(16), bandit)
      >>> run = rollouts.run_episode(bandit, policy, num_steps=10)
      >>> loss_fn = lambda decisions, batch: ((decisions.value - batch.y.target).sum() ** 2, {})
      >>> episode_fn = acting_episode(run, loss_fn, discount=0.99, gae_lambda=0.3)
      >>> params = rollouts.init_policy(bandit, policy)(jax.random.key(0))
      >>> grads, aux = jax.grad(episode_fn, has_aux=True)(params, sample(jax.random.key(1)), jax.random.key(2))
      >>> sorted(grads)
      ['actor', 'critic', 'memory']
    """
    _check(discount, gae_lambda, reward_scale)
    judge = functools.partial(
        judged, discount=discount, gae_lambda=gae_lambda, reward_scale=reward_scale, bootstraps=bootstraps
    )

    def episode_fn(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> tuple[Array, Aux]:
        trajectory = run(meta_params, env_params, key)
        task = judge(trajectory)
        return checked_loss(loss_fn(trajectory.outputs, jax.lax.stop_gradient(task.query)), "what loss_fn returns")

    return episode_fn


def _check(discount: float, gae_lambda: float, reward_scale: float) -> None:
    for name, number in {"discount": discount, "gae_lambda": gae_lambda}.items():
        if not is_real(number, least=0, most=1):
            raise ValueError(f"{name}={number}; expected a number in [0, 1]")
    if not is_real(reward_scale, above=0):
        raise ValueError(f"reward_scale={reward_scale}; expected a positive number")


def judged(
    trajectory: Trajectory,
    *,
    discount: float,
    gae_lambda: float,
    reward_scale: float = 1.0,
    bootstraps: bool = False,
) -> Task:
    """Turn an episode into a task; see `collect_episode`."""
    values = jnp.append(trajectory.outputs.value, 0.0)  # nothing comes after the episode
    discounts = jnp.full(trajectory.reward.shape, discount, values.dtype)
    reward = reward_scale * trajectory.reward
    if bootstraps:
        if trajectory.final_value is None or trajectory.terminated is None:
            raise ValueError(
                "bootstraps=True needs the value of last observations; run_episode(with_final_values=True)"
            )
        is_last = trajectory.is_over.at[-1].set(True)
        is_cut = is_last & ~trajectory.terminated
        reward = reward + jnp.where(is_cut, discount * trajectory.final_value, 0)  # for all that would have followed
        discounts = jnp.where(is_last, 0, discounts)
    advantages = generalized_advantages(reward, discounts, values, gae_lambda)
    value = trajectory.outputs.value
    acted = Acted(trajectory.action, trajectory.log_prob, advantages, advantages + value, trajectory.reward, value)
    nothing = jax.tree.map(lambda leaf: leaf[:0], Batch(trajectory.inputs, acted))
    return Task(nothing, Batch(trajectory.inputs, acted))


def with_normalized_advantages(tasks: Task) -> Task:
    """Give collected tasks, all together, advantages of mean 0 and standard deviation 1 over all their steps.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> acted = Acted(*[jnp.arange(6.0).reshape(2, 3)] * 5)
      >>> batch = jmeta.Batch(jnp.zeros((2, 3)), acted)
      >>> tasks = with_normalized_advantages(jmeta.Task(batch, batch))
      >>> round(float(tasks.query.y.advantage.std()), 3)
      1.0
    """
    advantage = tasks.query.y.advantage
    where = None if tasks.query.mask is None else tasks.query.mask
    scaled = (advantage - advantage.mean(where=where)) / (advantage.std(where=where) + 1e-8)
    return tasks._replace(query=tasks.query._replace(y=tasks.query.y._replace(advantage=scaled)))
