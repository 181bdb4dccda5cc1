"""Losses of a policy on its experience: actor-critic and PPO, as `(outputs, batch) -> (loss, aux)`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.bounds import is_real
from jmeta.losses import masked_mean
from jmeta.types import Aux, Batch, EpisodeFn, LossFn, PyTree, RandomKey, Task

from ..policies import PolicyOutput
from .collecting import Acted

__all__ = ["a2c_loss", "ppo_loss", "with_fading_entropy"]


def a2c_loss(*, value_weight: float = 0.5, entropy_weight: float = 0.0) -> LossFn:
    """Build the loss −Â log π(a) + w_v ½(V − target)² − w_e H(π), averaged over steps; an advantage actor-critic.

    Args:
      value_weight: w_v.
      entropy_weight: w_e.

    Returns:
      `(outputs, batch) -> (loss, aux)` for batches whose `y` is an `Acted`; `aux` has the mean `reward` of a step,
      the `value_loss` and the `entropy`.

    Raises:
      ValueError: if a weight is negative.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> from jmeta.domains.rl.policies import Categorical, PolicyOutput
      >>> from jmeta.domains.rl.policy_gradients import Acted
      >>> zero, one = jnp.zeros(2), jnp.ones(2)
      >>> acted = Acted(jnp.array([0, 1]), zero, one, zero, one)
      >>> outputs = PolicyOutput(Categorical(jnp.zeros((2, 2))), zero)
      >>> loss, aux = a2c_loss()(outputs, jmeta.Batch(zero, acted))
      >>> round(float(loss), 4)
      0.6931

    Reference:
      Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016, arXiv:1602.01783, section 4.
    """
    _check_weights(value_weight, entropy_weight)

    def loss_fn(outputs: PolicyOutput, batch: Batch) -> tuple[Array, Aux]:
        acted: Acted = batch.y
        actor = -outputs.distribution.log_prob(acted.action) * acted.advantage
        return _with_value_and_entropy(actor, outputs, batch, value_weight, entropy_weight)

    return loss_fn


def ppo_loss(
    *, clip: float = 0.2, value_weight: float = 0.5, entropy_weight: float = 0.0, value_clip: float | None = None
) -> LossFn:
    """Build PPO's clipped surrogate −min(ρ Â, clip(ρ, 1−ε, 1+ε) Â), ρ = π(a) / π_old(a); value and entropy as in A2C.

    The paper's value loss is not clipped. The authors' code clips it: ½ max((V − target)², (V_old + clip(V − V_old, −c,
    c) − target)²), so that a guess that has moved by more than c towards its target is not moved further.

    Args:
      clip: ε, positive.
      value_weight, entropy_weight: as for `a2c_loss`.
      value_clip: c, in units of returns, positive; `None` for the value loss of A2C. It needs `Acted.value`, which
        `collect_episode` stores.

    Returns:
      `(outputs, batch) -> (loss, aux)` for batches whose `y` is an `Acted`.

    Raises:
      ValueError: if `clip` or `value_clip` is not positive; at trace time if `value_clip` without values.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> from jmeta.domains.rl.policies import Categorical, PolicyOutput
      >>> from jmeta.domains.rl.policy_gradients import Acted
      >>> zero, one = jnp.zeros(2), jnp.ones(2)
      >>> acted = Acted(jnp.array([0, 1]), jnp.full(2, -10.0), one, zero, one)  # far likelier now than then
      >>> outputs = PolicyOutput(Categorical(jnp.zeros((2, 2))), zero)
      >>> loss, aux = ppo_loss(clip=0.2)(outputs, jmeta.Batch(zero, acted))
      >>> round(float(loss), 4)
      -1.2

    Reference:
      Schulman, Wolski, Dhariwal, Radford, Klimov, "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347,
      eq. 7 and 9.
    """
    for name, number in {"clip": clip, "value_clip": 1.0 if value_clip is None else value_clip}.items():
        if not is_real(number, above=0):
            raise ValueError(f"{name}={number}; expected a positive number")

    _check_weights(value_weight, entropy_weight)

    def loss_fn(outputs: PolicyOutput, batch: Batch) -> tuple[Array, Aux]:
        acted: Acted = batch.y
        ratio = jnp.exp(outputs.distribution.log_prob(acted.action) - acted.log_prob)
        advantage = jax.lax.stop_gradient(acted.advantage)
        # among equal ones the second, so that the gradient at a ratio of 1 is whole
        actor = -jnp.fmin(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
        return _with_value_and_entropy(actor, outputs, batch, value_weight, entropy_weight, value_clip)

    return loss_fn


def with_fading_entropy(episode_fn: EpisodeFn, weight: float) -> EpisodeFn:
    """Build an episode whose loss rewards entropy less and less: w (1 − progress) in place of a constant weight.

    Random actions teach a policy with memory about actions that it would not take. At the end of training, when it
    hardly explores beyond what pays off in the episode itself, it learns to act greedily.

    Args:
      episode_fn: `(meta_params, task, key) -> (loss, aux)`, with the `entropy` in `aux`, such as an episode with
        `ppo_loss()`; its tasks have a `progress`, which `on_policy_trainer(num_total_steps=...)` gives them.
      weight: initial weight w.

    Raises:
      ValueError: at trace time, if the tasks have no `progress`, or `aux` has no `entropy`.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> episode_fn = lambda params, task, key: (jnp.array(0.0), {"entropy": jnp.array(2.0)})
      >>> task = jmeta.Task(None, None, progress=jnp.array(0.75))
      >>> loss, _ = with_fading_entropy(episode_fn, 0.1)(None, task, jax.random.key(0))
      >>> round(float(loss), 4)
      -0.05
    """

    def fading(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
        if task.progress is None:
            raise ValueError("a fading entropy needs task.progress; pass num_total_steps to on_policy_trainer")
        loss, aux = episode_fn(meta_params, task, key)
        if "entropy" not in aux:
            raise ValueError(f"a fading entropy needs aux['entropy'], as of ppo_loss(), but aux has {sorted(aux)}")
        return loss - weight * (1 - task.progress) * aux["entropy"], aux

    return fading


def _check_weights(value_weight: float, entropy_weight: float) -> None:
    for name, number in {"value_weight": value_weight, "entropy_weight": entropy_weight}.items():
        if not is_real(number, least=0):
            raise ValueError(f"{name}={number}; expected a number of at least 0")


def _with_value_and_entropy(
    actor: Float[Array, " steps"],
    outputs: PolicyOutput,
    batch: Batch,
    value_weight: float,
    entropy_weight: float,
    value_clip: float | None = None,
) -> tuple[Array, Aux]:
    acted: Acted = batch.y
    actor_loss = masked_mean(actor, batch)
    error = (outputs.value - acted.target) ** 2
    if value_clip is not None:
        if acted.value is None:
            raise ValueError(f"value_clip={value_clip} needs the guesses of the policy that acted, as `Acted.value`")
        near = acted.value + jnp.clip(outputs.value - acted.value, -value_clip, value_clip)
        error = jnp.maximum(error, (near - acted.target) ** 2)
    value_loss = masked_mean(0.5 * error, batch)
    entropy = masked_mean(outputs.distribution.entropy(), batch)
    loss = actor_loss + value_weight * value_loss - entropy_weight * entropy
    return loss, {"reward": masked_mean(acted.reward, batch), "value_loss": value_loss, "entropy": entropy}
