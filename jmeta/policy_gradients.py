"""Policy gradients: from what happened in an episode to a task to learn from, and the losses that learn from it.

`collect` acts with the present policy and turns what happened into a `jmeta.Task`: nothing yet experienced as its
support, the whole episode as its query. A2C's and PPO's losses are then ordinary `loss_fn`s of `jmeta.episode`.

This module is imported by name, since it brings rlax with it: `from jmeta import policy_gradients`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import rlax
from jaxtyping import Array, Float

from .losses import masked_mean
from .policies import Decision
from .rollouts import Experience, RunEpisode
from .types import Aux, Batch, LossFn, PyTree, RandomKey, Task


class Acted(NamedTuple):
    """What was done at each step, and how good it turned out to be: the targets `y` of a batch of steps.

    Attributes:
      action: done.
      log_prob: of the action then, in nats.
      advantage: by how much it was better than the policy's guess.
      target: what the guess should have been.
      reward: what the action got.
    """

    action: Array
    log_prob: Float[Array, " steps"]
    advantage: Float[Array, " steps"]
    target: Float[Array, " steps"]
    reward: Float[Array, " steps"]


Collect = Callable[[PyTree, PyTree, RandomKey], Task]
"""`(meta_params, env_params, key) -> Task`: what happened in one episode of the present policy, to learn from."""


def collect_episode(run: RunEpisode, *, discount: float, gae_lambda: float) -> Collect:
    """Act for one episode, and judge each action by what followed.

    Advantages are Âₜ = Σₖ (γλ)ᵏ δₜ₊ₖ with δₜ = rₜ + γ V(sₜ₊₁) − V(sₜ). They reach over the ends of rollouts, since
    what is learned in one pays in the next, and end with the episode.

    Args:
      run: as returned by `rollouts.run_episode`.
      discount: γ, in [0, 1].
      gae_lambda: λ, in [0, 1]; 1 trusts rewards alone, 0 the guesses.

    Returns:
      `(meta_params, env_params, key) -> Task`: an empty support, and as its query the steps of the episode, `x` what
      the policy was told and `y` an `Acted`. No gradient flows into it.

    Raises:
      ValueError: if a number is not in [0, 1].

    Example:
      >>> import jax
      >>> from jmeta import environments, models, policies, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = policies.actor_critic(models.gru(16), bandit)
      >>> collect = collect_episode(rollouts.run_episode(bandit, policy, num_steps=10), discount=0.99, gae_lambda=0.3)
      >>> params = rollouts.init_policy(bandit, policy)(jax.random.key(0))
      >>> task = collect(params, sample(jax.random.key(1)), jax.random.key(2))
      >>> task.support.x.reward.shape, task.query.y.advantage.shape
      ((0,), (10,))

    Reference:
      Schulman, Moritz, Levine, Jordan, Abbeel, "High-Dimensional Continuous Control Using Generalized Advantage
      Estimation", 2015, arXiv:1506.02438, eq. 16.
    """
    for name, number in {"discount": discount, "gae_lambda": gae_lambda}.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{name}={number}; expected a number in [0, 1]")

    def collect(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> Task:
        experience = run(meta_params, env_params, key)
        return jax.lax.stop_gradient(judged(experience, discount=discount, gae_lambda=gae_lambda))

    return collect


def judged(experience: Experience, *, discount: float, gae_lambda: float) -> Task:
    """An episode as a task; see `collect_episode`."""
    values = jnp.append(experience.decisions.value, 0.0)  # nothing comes after the episode
    discounts = jnp.full(experience.reward.shape, discount, values.dtype)
    advantages = rlax.truncated_generalized_advantage_estimation(experience.reward, discounts, gae_lambda, values)
    acted = Acted(
        experience.action, experience.log_prob, advantages, advantages + experience.decisions.value, experience.reward
    )
    nothing = jax.tree.map(lambda leaf: leaf[:0], Batch(experience.inputs, acted))
    return Task(nothing, Batch(experience.inputs, acted))


def a2c_loss(*, value_weight: float = 0.5, entropy_weight: float = 0.0) -> LossFn:
    """−Â log π(a) + w_v ½(V − target)² − w_e H(π), averaged over steps; an advantage actor-critic.

    Args:
      value_weight: w_v.
      entropy_weight: w_e.

    Returns:
      `(decisions, batch) -> (loss, aux)` for batches whose `y` is an `Acted`.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> from jmeta.policies import Categorical, Decision
      >>> zero, one = jnp.zeros(2), jnp.ones(2)
      >>> acted = Acted(jnp.array([0, 1]), zero, one, zero, one)
      >>> decisions = Decision(Categorical(jnp.zeros((2, 2))), zero)
      >>> loss, aux = a2c_loss()(decisions, jmeta.Batch(zero, acted))
      >>> round(float(loss), 4)
      0.6931

    Reference:
      Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016, arXiv:1602.01783, section 4.
    """

    def loss_fn(decisions: Decision, batch: Batch) -> tuple[Array, Aux]:
        acted: Acted = batch.y
        actor = -decisions.distribution.log_prob(acted.action) * acted.advantage
        return _with_value_and_entropy(actor, decisions, batch, value_weight, entropy_weight)

    return loss_fn


def ppo_loss(*, clip: float = 0.2, value_weight: float = 0.5, entropy_weight: float = 0.0) -> LossFn:
    """PPO's clipped surrogate −min(ρ Â, clip(ρ, 1−ε, 1+ε) Â), with ρ = π(a) / π_old(a); value and entropy as for A2C.

    Args:
      clip: ε, positive.
      value_weight, entropy_weight: as for `a2c_loss`.

    Returns:
      `(decisions, batch) -> (loss, aux)` for batches whose `y` is an `Acted`.

    Raises:
      ValueError: if `clip` is not positive.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> from jmeta.policies import Categorical, Decision
      >>> zero, one = jnp.zeros(2), jnp.ones(2)
      >>> acted = Acted(jnp.array([0, 1]), jnp.full(2, -10.0), one, zero, one)  # far likelier now than then
      >>> decisions = Decision(Categorical(jnp.zeros((2, 2))), zero)
      >>> loss, aux = ppo_loss(clip=0.2)(decisions, jmeta.Batch(zero, acted))
      >>> round(float(loss), 4)
      -1.2

    Reference:
      Schulman, Wolski, Dhariwal, Radford, Klimov, "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347,
      eq. 7 and 9.
    """
    if not clip > 0:
        raise ValueError(f"clip={clip}; expected a positive number")
    one_step = jax.vmap(lambda ratio, advantage: rlax.clipped_surrogate_pg_loss(ratio[None], advantage[None], clip))

    def loss_fn(decisions: Decision, batch: Batch) -> tuple[Array, Aux]:
        acted: Acted = batch.y
        ratio = jnp.exp(decisions.distribution.log_prob(acted.action) - acted.log_prob)
        actor = one_step(ratio, acted.advantage)
        return _with_value_and_entropy(actor, decisions, batch, value_weight, entropy_weight)

    return loss_fn


def _with_value_and_entropy(
    actor: Float[Array, " steps"], decisions: Decision, batch: Batch, value_weight: float, entropy_weight: float
) -> tuple[Array, Aux]:
    acted: Acted = batch.y
    actor_loss = masked_mean(actor, batch)
    value_loss = masked_mean(0.5 * (decisions.value - acted.target) ** 2, batch)
    entropy = masked_mean(decisions.distribution.entropy(), batch)
    loss = actor_loss + value_weight * value_loss - entropy_weight * entropy
    return loss, {"return": acted.reward.sum(), "value_loss": value_loss, "entropy": entropy}
