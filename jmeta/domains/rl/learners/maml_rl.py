"""MAML for reinforcement learning: a policy from which a few policy-gradient steps suffice.

A task is learned by rolling out and descending a surrogate, φᵢ₊₁ = φᵢ − α ∇L(φᵢ; rollouts of φᵢ), and θ = φ₀ is trained
so that the last policy's return is high. Rollouts happen inside `adapt`, or are stored, for trainers that take several
steps on the same rollouts (ProMP, TRPO). The surrogate decides how the meta-gradient accounts for the sampling of
actions; see `policy_gradients.surrogates`.

References: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400, algorithm 3; Rothfuss et al.,
"ProMP: Proximal Meta-Policy Search", 2019, arXiv:1810.06784; Stadie et al., "Some Considerations on Learning to
Explore via Meta-Reinforcement Learning", 2018, arXiv:1803.01118 (E-MAML).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jmeta import adjoints
from jmeta.adaptation import descend
from jmeta.adjoints import Adjoint, InnerLoop
from jmeta.bounds import is_real, is_whole
from jmeta.episodes import plain_episode
from jmeta.losses import checked_loss, masked_mean
from jmeta.types import Aux, Batch, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task

from ..policies import Policy, PolicyInput, PolicyOutput

__all__ = ["RollOut", "maml_rl", "collect_adaptation"]

RollOut = Any  # `(params, env_params, key) -> Batch`; policy_gradients.RollOut, which needs an extra


def maml_rl(
    policy: Policy,
    surrogate: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    roll_out: RollOut | None = None,
    kl_weight: float = 0.0,
    exploration_weight: float = 0.0,
    adjoint: Adjoint = adjoints.unrolled(),
) -> Learner:
    """Learn an initial policy; adapt by policy gradients.

    It is trained by an outer loss of the decisions on the query, such as `policy_gradients.ppo_loss()` or
    `likelihood_ratio`, on the tasks of `collect_adaptation`: adapt on stored rollouts, and evaluate on those of the
    adapted policy. Two methods add a term to that plain episode. ProMP adds η · KL(π_old ‖ π) at the rollouts of every
    inner step, so that they remain valid while θ moves; here by its usual estimator from the actions, the mean of ρ − 1
    − log ρ with ρ = π(a) / π_old(a). E-MAML accounts for the effect of θ on the rollouts that are adapted to: −w J Σ
    log π(a) over all their actions, with J the adapted policy's mean reward per step. Without it (w = 0) the
    meta-gradient treats the support's rollouts as given, with it (w = 1) it is an unbiased estimate of the gradient of
    the expected reward after adaptation.

    Args:
      policy: a policy without memory.
      surrogate: `(decisions, batch) -> (loss, aux)`, descended in each inner step: `policy_gradients.reinforce`,
        `likelihood_ratio` or `dice(...)`.
      inner_optimizer: any optax transformation; `optax.sgd(0.1)` is the paper's.
      num_steps: inner steps, at least 0.
      roll_out: `(params, env_params, key) -> Batch`, as from `policy_gradients.roll_out`, called in each inner step; a
        support's `x` then holds the environment's parameters. `None` for stored rollouts: every leaf of a support then
        has the inner steps on an axis before the examples, and step i descends on the i-th.
      kl_weight: η, for training on stored rollouts; the sum of KLs is the `inner_kl` in `aux`.
      exploration_weight: w, for training on stored rollouts.
      adjoint: how the inner loop is differentiated.

    Returns:
      A learner whose meta-parameters and adapted state are both parameters of the policy, and whose predictions are its
      `PolicyOutput`s.

    Raises:
      ValueError: if `num_steps` or a weight is negative, or a weight is given with `roll_out`; at trace time if a
        support has stored rollouts for fewer steps.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, models
      >>> from jmeta.domains.rl import policies, policy_gradients, rollouts
      >>> from jmeta.domains.rl.environments.point_navigation import point_navigation
      >>> from jmeta.domains import rl
      >>> navigation, sample = point_navigation()
      >>> policy = policies.memoryless(models.mlp([16, 2]), navigation)
      >>> roll_out = policy_gradients.roll_out(navigation, policy, num_rollouts=2, num_steps=10)
      >>> learner = rl.learners.maml_rl(
      ...     policy, policy_gradients.reinforce, optax.sgd(0.1), num_steps=1, roll_out=roll_out)
      >>> meta_params = rollouts.init_policy(navigation, policy)(jax.random.key(0))
      >>> support = jmeta.Batch(sample(jax.random.key(1)), ())
      >>> adapted = jax.jit(learner.adapt)(meta_params, support, jax.random.key(2))
      >>> jax.tree.structure(adapted) == jax.tree.structure(meta_params)
      True
      >>> promp = rl.learners.maml_rl(
      ...     policy, policy_gradients.likelihood_ratio, optax.sgd(0.1), num_steps=1, kl_weight=5e-4)
      >>> episode_fn = jmeta.episode(promp, policy_gradients.ppo_loss(clip=0.3))  # of what was collected

    References:
      Finn et al., 2017, arXiv:1703.03400, algorithm 3; Rothfuss et al., 2019, arXiv:1810.06784, eq. 14-15 (KL estimated
      from actions here); Stadie et al., 2018, arXiv:1803.01118, section 3.1.
    """
    if not (is_real(kl_weight, least=0) and is_real(exploration_weight, least=0)):
        raise ValueError(f"kl_weight={kl_weight} and exploration_weight={exploration_weight}; expected at least 0")
    has_terms = bool(kl_weight or exploration_weight)
    if has_terms and roll_out is not None:
        raise ValueError(
            "kl_weight and exploration_weight belong to training on stored rollouts; leave out roll_out, and train on "
            "the tasks that collect_adaptation makes"
        )
    inner_loop = _inner_loop(policy, surrogate, inner_optimizer, num_steps, roll_out, adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        return policy.init(key, task.query.x)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        if num_steps == 0:
            return meta_params  # there may be no stored rollout for tracing a step
        adapted, _ = inner_loop(meta_params, support, key)
        return adapted

    def predict(meta_params: PyTree, adapted: PyTree, x: PolicyInput, key: RandomKey | None) -> PolicyOutput:
        del meta_params
        return policy.unroll(adapted, (), x, key)[1]  # pyright: ignore[reportArgumentType]  (no key, no dropout)

    learner = Learner(init, adapt, predict)
    if not has_terms:
        return learner
    prefixes = [maml_rl(policy, surrogate, inner_optimizer, num_steps=i, adjoint=adjoint) for i in range(num_steps)]

    def episode(outer_loss: LossFn) -> EpisodeFn:
        plain = plain_episode(learner, outer_loss)

        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[jax.Array, Aux]:
            key_plain, *keys = jax.random.split(key, 1 + num_steps)
            loss, aux = plain(meta_params, task, key_plain)
            acted = _log_probs_of_support(policy, prefixes, meta_params, task.support, keys)
            if kl_weight:
                kls = [_kl_estimate(log_prob, batch) for log_prob, batch in acted]
                loss, aux = loss + kl_weight * sum(kls), {**aux, "inner_kl": sum(kls)}
            if exploration_weight:
                score = sum(jnp.where(_mask(batch), log_prob, 0).sum() for log_prob, batch in acted)
                reward = masked_mean(task.query.y.reward, task.query)
                loss = loss - exploration_weight * reward * (score - jax.lax.stop_gradient(score))  # a gradient alone
            return loss, aux

        return episode_fn

    return learner._replace(episode=episode)


def collect_adaptation(
    policy: Policy,
    surrogate: LossFn,
    inner_optimizer: optax.GradientTransformation,
    roll_out: RollOut,
    *,
    num_steps: int,
) -> Any:
    """Adapt to a task by rolling out, and keep the rollouts of every inner step and of the adapted policy.

    Args:
      policy, surrogate, inner_optimizer, roll_out, num_steps: as for `maml_rl`.

    Returns:
      `(meta_params, env_params, key) -> Task`: the support has the rollouts of each inner step on its first axis, for
      `maml_rl` without `roll_out`; the query those of the adapted policy. No gradient flows into it.

    Raises:
      ValueError: if `num_steps` is negative.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import policies, policy_gradients, rollouts
      >>> from jmeta.domains.rl.environments.point_navigation import point_navigation
      >>> navigation, sample = point_navigation()
      >>> policy = policies.memoryless(models.mlp([16, 2]), navigation)
      >>> roll_out = policy_gradients.roll_out(navigation, policy, num_rollouts=2, num_steps=10)
      >>> collect = collect_adaptation(policy, policy_gradients.reinforce, optax.sgd(0.1), roll_out, num_steps=1)
      >>> params = rollouts.init_policy(navigation, policy)(jax.random.key(0))
      >>> task = jax.jit(collect)(params, sample(jax.random.key(1)), jax.random.key(2))
      >>> task.support.y.reward.shape, task.query.y.reward.shape
      ((1, 20), (20,))
    """
    value_and_grad = jax.value_and_grad(_loss_of(policy, surrogate), has_aux=True)
    optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    if not is_whole(num_steps, least=0):
        raise ValueError(f"num_steps={num_steps}; expected at least 0")

    def collect(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> Task:
        *keys, key_query = jax.random.split(key, num_steps + 1)

        def one_step(carry: tuple[PyTree, PyTree], key: RandomKey) -> tuple[tuple[PyTree, PyTree], Batch]:
            params, optimizer_state = carry
            batch = roll_out(params, env_params, key)
            (loss, _), grads = value_and_grad(params, batch, key)
            updates, optimizer_state = optimizer.update(grads, optimizer_state, params, value=loss)
            return (optax.apply_updates(params, updates), optimizer_state), batch

        carry, stored = (meta_params, optimizer.init(meta_params)), []
        for each in keys:
            carry, batch = one_step(carry, each)
            stored.append(batch)
        query = roll_out(carry[0], env_params, key_query)
        support = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stored) if stored else _none_of(query)
        return jax.lax.stop_gradient(Task(support, query))

    return collect


def _log_probs_of_support(
    policy: Policy, prefixes: list[Learner], meta_params: PyTree, support: Batch, keys: list[RandomKey]
) -> list[tuple[jax.Array, Batch]]:
    """Return, for each inner step, the log-probabilities of its actions as a function of θ.

    `prefixes`: for each inner step, the learner that takes the steps before it.
    """

    def of_step(index: int, key: RandomKey) -> tuple[jax.Array, Batch]:
        key_adapt, key_unroll = jax.random.split(key)
        batch = jax.tree.map(lambda leaf: leaf[index], support)
        adapted = prefixes[index].adapt(meta_params, support, key_adapt)
        _, decisions = policy.unroll(adapted, (), batch.x, key_unroll)
        return decisions.distribution.log_prob(batch.y.action), batch

    return [of_step(index, key) for index, key in enumerate(keys)]


def _loss_of(policy: Policy, surrogate: LossFn) -> Any:
    def loss(params: PyTree, batch: Batch, key: RandomKey) -> tuple[Any, Aux]:
        _, decisions = policy.unroll(params, (), batch.x, key)
        return checked_loss(surrogate(decisions, batch), "what a surrogate returns")

    return loss


def _inner_loop(
    policy: Policy,
    surrogate: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    roll_out: RollOut | None,
    adjoint: Adjoint,
) -> InnerLoop:
    loss_of = _loss_of(policy, surrogate)

    def on_fresh(params: PyTree, support: Batch, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        batch = jax.lax.stop_gradient(roll_out(jax.lax.stop_gradient(params), support.x, key))  # pyright: ignore[reportOptionalCall]
        return loss_of(params, batch, key)

    def on_stored(params: PyTree, support: Batch, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        if (stored := support.y.reward.shape[0]) < num_steps:
            raise ValueError(f"num_steps={num_steps}, but the support has rollouts of {stored} inner steps")
        return loss_of(params, jax.tree.map(lambda leaf: leaf[step], support), key)

    objective = on_stored if roll_out is None else on_fresh
    return descend(objective, optimizer, num_steps=num_steps, adjoint=adjoint)


def _mask(batch: Batch) -> jax.Array:
    return jnp.ones(batch.y.reward.shape, bool) if batch.mask is None else batch.mask


def _kl_estimate(log_prob: jax.Array, batch: Batch) -> jax.Array:
    """Estimate KL(π_old ‖ π) from actions of π_old: the mean of ρ − 1 − log ρ, never negative."""
    log_ratio = log_prob - batch.y.log_prob
    return masked_mean(jnp.exp(log_ratio) - 1 - log_ratio, batch)


def _none_of(query: Batch) -> Batch:
    return jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), query)
