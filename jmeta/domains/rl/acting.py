"""Methods that act, ready to be trained and tested: the building blocks of reinforcement-learning experiments.

    policy, episode ──► with_memory: collect an episode, then update on it          (RL², VariBAD, no adaptation)
    adapting ──► maml_with_ppo, maml_with_trpo: collect an adaptation, then update  (MAML by policy gradients)

Each returns an `Acting`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import jmeta
from jmeta import losses
from jmeta.batching import chunk_size, count_tasks
from jmeta.types import Aux, EpisodeFn, Learner, LossFn, MetaTrainer, PyTree, RandomKey, Task

from .environments import Environment
from .learners import collect_adaptation, maml_rl
from .on_policy import on_policy_trainer
from .policies import Policy
from .policy_gradients import (
    Collect,
    RollOut,
    collect_episode,
    likelihood_ratio,
    ppo_loss,
    roll_out,
    with_normalized_advantages,
)
from .rollouts import init_policy, return_episode, run_episode
from .trust_region import trust_region_trainer

__all__ = ["Acting", "with_memory", "Adapting", "adapting", "maml_with_ppo", "maml_with_trpo", "returns_after"]


class Acting(NamedTuple):
    """A method that acts, ready to be trained and tested.

    Attributes:
      init: `key -> meta_params`.
      trainer: its meta-steps take stacked parameters of environments.
      episode_fn: collects in one task and learns from it, as at the beginning of training; for the examination of
        single tasks.
      tested: the test episode: its `aux` has the `return`.
    """

    init: Callable[[RandomKey], PyTree]
    trainer: MetaTrainer
    episode_fn: EpisodeFn
    tested: EpisodeFn


def with_memory(
    environment: Environment,
    policy: Policy,
    episode_fn: EpisodeFn,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    discount: float,
    gae_lambda: float,
    reward_scale: float = 1.0,
    bootstraps: bool = False,
    num_epochs: int = 1,
    num_minibatches: int = 1,
    num_total_steps: int | None = None,
    batching: str | int = "auto",
    num_rollouts: int = 0,
    is_greedy: bool = True,
) -> Acting:
    """Act for one episode in every task, and update on the experience, with advantages normalised over all tasks.

    Args:
      environment: the environment, whose parameters are the task.
      policy: the acting policy, such as `policies.actor_critic(models.gru(64), environment)`.
      episode_fn: `(meta_params, task, key) -> (loss, aux)` on the collected experience, such as `jmeta.episode(
        rl.learners.rl2(policy), policy_gradients.ppo_loss())`.
      optimizer: optimizer of the meta-parameters; its schedule counts updates, `num_epochs * num_minibatches` per
        meta-step.
      num_steps: steps of an episode, over all its rollouts.
      discount, gae_lambda, reward_scale, bootstraps: define the advantages, as for `policy_gradients.collect_episode`.
      num_epochs, num_minibatches, num_total_steps: as for `on_policy_trainer`.
      batching: tasks of an update at once, as for `jmeta.over_tasks`; `"auto"` is all, since they share one product per
        step.
      num_rollouts: number of rollouts, from the first on, whose returns are reported separately at test.
      is_greedy: whether the policy takes its most probable actions at test.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import models
      >>> from jmeta.domains import rl
      >>> bandit, sample = rl.environments.bernoulli_bandit(2)
      >>> policy = rl.policies.actor_critic(models.gru(8), bandit)
      >>> episode_fn = jmeta.episode(rl.learners.rl2(policy), rl.policy_gradients.ppo_loss())
      >>> acting = with_memory(bandit, policy, episode_fn, optax.adam(1e-3), num_steps=5, discount=0.99, gae_lambda=0.3)
      >>> trainer = acting.trainer
      >>> state = trainer.init(acting.init(jax.random.key(0)))
      >>> env_params = jax.vmap(sample)(jax.random.split(jax.random.key(1), 4))
      >>> state, aux = jax.jit(trainer.update)(state, env_params, jax.random.key(2))
      >>> loss, aux = jax.jit(acting.tested)(state.meta_params, sample(jax.random.key(3)), jax.random.key(4))
      >>> float(aux["return"]) == -float(loss)
      True
    """
    run = run_episode(environment, policy, num_steps=num_steps, with_final_values=bootstraps)
    numbers = {"discount": discount, "gae_lambda": gae_lambda, "reward_scale": reward_scale}
    collect = collect_episode(run, **numbers, bootstraps=bootstraps)
    tested = run_episode(environment, policy, num_steps=num_steps, is_greedy=is_greedy)
    # the gradient of the mean over tasks, not the mean of their gradients: one product for all
    mean_episode = jmeta.over_tasks(episode_fn, "vmap" if batching == "auto" else batching)
    trainer = on_policy_trainer(
        jmeta.meta_trainer(jax.value_and_grad(mean_episode, has_aux=True), optimizer),
        collect,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        prepare=with_normalized_advantages,
        num_total_steps=num_total_steps,
    )
    return Acting(
        init_policy(environment, policy),
        trainer,
        _collected_first(collect, episode_fn),
        return_episode(tested, num_rollouts=num_rollouts),
    )


class Adapting(NamedTuple):
    """A policy without memory, and the inner step that changes it.

    Attributes:
      environment: the environment that it acts in.
      policy: the acting policy.
      surrogate: the loss that an inner step descends.
      optimizer: the inner optimizer.
      roll_out: produces the rollouts that an inner step learns from.
      num_rollouts: number of these rollouts.
    """

    environment: Environment
    policy: Policy
    surrogate: LossFn
    optimizer: optax.GradientTransformation
    roll_out: RollOut
    num_rollouts: int


def adapting(
    environment: Environment,
    policy: Policy,
    surrogate: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    num_rollouts: int,
    horizon: int,
    discount: float = 0.99,
    gae_lambda: float = 1.0,
    bootstraps: bool = False,
) -> Adapting:
    """Join a policy and its inner steps, for `maml_with_ppo` and `maml_with_trpo`.

    Args:
      environment: the environment, whose parameters are the task.
      policy: a policy without memory, such as `policies.memoryless(models.mlp([100, 100, 2]), environment)`.
      surrogate: the loss of each inner step: `policy_gradients.reinforce`, `likelihood_ratio` or `dice(...)`.
      optimizer: the inner optimizer, such as `optax.sgd(0.1)`.
      num_rollouts: rollouts of each inner step, and of the adapted policy.
      horizon: steps of a rollout, at most.
      discount, gae_lambda, bootstraps: define the advantages, as for `policy_gradients.roll_out`.

    Raises:
      ValueError: if a number is out of range.
    """
    rolls = roll_out(
        environment,
        policy,
        num_rollouts=num_rollouts,
        num_steps=horizon,
        discount=discount,
        gae_lambda=gae_lambda,
        bootstraps=bootstraps,
    )
    return Adapting(environment, policy, surrogate, optimizer, rolls, num_rollouts)


def maml_with_ppo(
    inner: Adapting,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    clip: float = 0.3,
    num_epochs: int = 5,
    kl_weight: float = 0.0,
    exploration_weight: float = 0.0,
    batching: str | int = "auto",
) -> Acting:
    """Build MAML by policy gradients with PPO as its meta-optimizer: several updates on the rollouts of each meta-step.

    Args:
      inner: as returned by `adapting`.
      optimizer: optimizer of the meta-parameters; its schedule counts updates, `num_epochs` in a meta-step.
      num_steps: number of inner steps, in training and in `tested`.
      clip: clipping range of PPO.
      num_epochs: updates on the same rollouts.
      kl_weight, exploration_weight: the terms of ProMP and E-MAML, as for `rl.learners.maml_rl`.
      batching: tasks at once, as for `jmeta.over_tasks`.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, optax
      >>> from jmeta import models
      >>> from jmeta.domains import rl
      >>> navigation, sample = rl.environments.point_navigation(num_steps=10)
      >>> policy = rl.policies.memoryless(models.mlp([8, 2]), navigation)
      >>> descent = rl.policy_gradients.likelihood_ratio
      >>> inner = adapting(navigation, policy, descent, optax.sgd(0.1), num_rollouts=2, horizon=10)
      >>> promp = maml_with_ppo(inner, optax.adam(1e-3), num_steps=1, kl_weight=5e-4)
      >>> trainer = promp.trainer
      >>> state = trainer.init(promp.init(jax.random.key(0)))
      >>> env_params = jax.vmap(sample)(jax.random.split(jax.random.key(1), 2))
      >>> state, aux = jax.jit(trainer.update)(state, env_params, jax.random.key(2))
      >>> "inner_kl" in aux
      True
    """
    learner, collect = _learner_and_collect(inner, num_steps, kl_weight, exploration_weight)
    episode_fn = jmeta.episode(learner, ppo_loss(clip=clip, value_weight=0.0))
    mean_grad = jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True), batching)
    trainer = on_policy_trainer(jmeta.meta_trainer(mean_grad, optimizer), collect, num_epochs=num_epochs)
    init = init_policy(inner.environment, inner.policy)
    return Acting(init, trainer, _collected_first(collect, episode_fn), returns_after(inner, num_steps))


def maml_with_trpo(
    inner: Adapting,
    *,
    num_steps: int,
    max_divergence: float = 0.01,
    kl_weight: float = 0.0,
    exploration_weight: float = 0.0,
    batching: str | int = "auto",
) -> Acting:
    """Build MAML by policy gradients with TRPO as its meta-optimizer, as in the paper; on one device.

    Devices cannot share the tasks of its `trainer`: it has no `share`.

    Args:
      inner, num_steps, kl_weight, exploration_weight, batching: as for `maml_with_ppo`.
      max_divergence: bound on the mean KL divergence of the adapted policies from those before the meta-step.

    Raises:
      ValueError: if a number is out of range.
    """
    learner, collect = _learner_and_collect(inner, num_steps, kl_weight, exploration_weight)
    episode_fn = jmeta.episode(learner, likelihood_ratio)

    def decide(meta_params: PyTree, tasks: Task, key: RandomKey) -> PyTree:
        """Return the adapted policies' distributions of actions at the steps of their queries."""

        def of_one(task: Task) -> PyTree:
            adapted = learner.adapt(meta_params, task.support, key)
            return learner.predict(meta_params, adapted, task.query.x, None).distribution

        num_tasks = count_tasks(tasks)
        at_once = chunk_size(batching, of_one, (tasks,), num_tasks)
        return jax.vmap(of_one)(tasks) if at_once == num_tasks else jax.lax.map(of_one, tasks, batch_size=at_once)

    def divergence(old: PyTree, new: PyTree, tasks: Task) -> jax.Array:
        return jax.vmap(losses.masked_mean)(old.kl(new), tasks.query).mean()

    mean_episode = jmeta.over_tasks(episode_fn, batching)
    steps = trust_region_trainer(mean_episode, decide, divergence, max_divergence=max_divergence)
    trainer = on_policy_trainer(steps, collect)
    init = init_policy(inner.environment, inner.policy)
    return Acting(init, trainer, _collected_first(collect, episode_fn), returns_after(inner, num_steps))


def returns_after(inner: Adapting, num_steps: int) -> EpisodeFn:
    """Build the test episode with this number of inner steps: the mean return of `inner.num_rollouts` rollouts.

    Args:
      inner: as returned by `adapting`.
      num_steps: inner steps, at least 0.
    """
    collect = collect_adaptation(inner.policy, inner.surrogate, inner.optimizer, inner.roll_out, num_steps=num_steps)

    def tested(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> tuple[jax.Array, Aux]:
        query = collect(meta_params, env_params, key).query
        return_ = query.y.reward.sum() / inner.num_rollouts
        return -return_, {"return": return_}

    return tested


def _learner_and_collect(
    inner: Adapting, num_steps: int, kl_weight: float, exploration_weight: float
) -> tuple[Learner, Collect]:
    """Return the learner that adapts again on stored rollouts, and the function that collects them."""
    steps = (inner.policy, inner.surrogate, inner.optimizer)
    learner = maml_rl(*steps, num_steps=num_steps, kl_weight=kl_weight, exploration_weight=exploration_weight)
    return learner, collect_adaptation(*steps, inner.roll_out, num_steps=num_steps)


def _collected_first(collect: Collect, episode_fn: EpisodeFn) -> EpisodeFn:
    """Build an episode that first collects the task it learns from, as at the beginning of training."""

    def collected(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> tuple[jax.Array, Aux]:
        key_collect, key_episode = jax.random.split(key)
        task = collect(meta_params, env_params, key_collect)._replace(progress=jnp.zeros((), jnp.float32))
        return episode_fn(meta_params, task, key_episode)

    return collected
