"""Surrogates of the return: functions whose gradient is a policy gradient, and their second derivatives.

An adaptation by policy gradient descends one of them; the meta-gradient goes through that gradient, so that second
derivatives count. All have the same gradient where the policy is the one that acted. They differ in the next order:

    reinforce          −log π(a) Â              its Hessian misses ∇log π ∇log πᵀ: biased
    likelihood_ratio   −π(a)/π_old(a) Â         has it for each step alone: low variance, exact for one step
    dice               −(□≤ₜ − □<ₜ) Â           has it for all earlier steps: unbiased of every order, high variance

with the magic box □≤ₜ = exp(Σₛ≤ₜ log π − ⊥Σₛ≤ₜ log π), which is 1 and differentiates like a likelihood.

References: Foerster et al., "DiCE: The Infinitely Differentiable Monte-Carlo Estimator", 2018, arXiv:1802.05098;
Farquhar, Whiteson, Foerster, "Loaded DiCE", 2019, arXiv:1909.10549 (DiCE with advantages, as here);
Rothfuss, Lee, Clavera, Asfour, Abbeel, "ProMP: Proximal Meta-Policy Search", 2019, arXiv:1810.06784, section 5.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.bounds import is_whole
from jmeta.estimators import magic_box
from jmeta.losses import masked_mean
from jmeta.types import Aux, Batch, LossFn

from ..policies import PolicyOutput
from .collecting import Acted

__all__ = ["reinforce", "likelihood_ratio", "dice"]


def reinforce(outputs: PolicyOutput, batch: Batch) -> tuple[Array, Aux]:
    """Compute −log π(a) Â, averaged over steps: Williams' estimator, MAML's own.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> from jmeta.domains.rl.policies import Categorical, PolicyOutput
      >>> from jmeta.domains.rl.policy_gradients import Acted
      >>> acted = Acted(jnp.array([0, 1]), jnp.zeros(2), jnp.ones(2), jnp.zeros(2), jnp.ones(2))
      >>> loss, aux = reinforce(PolicyOutput(Categorical(jnp.zeros((2, 2))), jnp.zeros(2)), jmeta.Batch(None, acted))
      >>> round(float(loss), 4)
      0.6931
    """
    acted: Acted = batch.y
    return masked_mean(-outputs.distribution.log_prob(acted.action) * acted.advantage, batch), {
        "reward": masked_mean(acted.reward, batch)
    }


def likelihood_ratio(outputs: PolicyOutput, batch: Batch) -> tuple[Array, Aux]:
    """Compute −π(a)/π_old(a) Â, averaged over steps: ProMP's low-variance surrogate, which also works off policy.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> from jmeta.domains.rl.policies import Categorical, PolicyOutput
      >>> from jmeta.domains.rl.policy_gradients import Acted
      >>> acted = Acted(jnp.array([0, 1]), jnp.log(jnp.full(2, 0.5)), jnp.ones(2), jnp.zeros(2), jnp.ones(2))
      >>> outputs = PolicyOutput(Categorical(jnp.zeros((2, 2))), jnp.zeros(2))
      >>> loss, aux = likelihood_ratio(outputs, jmeta.Batch(None, acted))
      >>> round(float(loss), 4)
      -1.0
    """
    acted: Acted = batch.y
    ratio = jnp.exp(outputs.distribution.log_prob(acted.action) - acted.log_prob)
    return masked_mean(-ratio * acted.advantage, batch), {"reward": masked_mean(acted.reward, batch)}


def dice(*, num_steps: int) -> LossFn:
    """Build −(□≤ₜ − □<ₜ) Âₜ, averaged over steps: zero, except for its derivatives, which are correct to every order.

    Args:
      num_steps: steps of a rollout; examples of a batch are rollouts of that length, one after the other, and the sums
        of □ are within each.

    Returns:
      `(outputs, batch) -> (loss, aux)`.

    Raises:
      ValueError: if `num_steps` is not positive; at trace time if it does not divide the examples.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> from jmeta.domains.rl.policies import Categorical, PolicyOutput
      >>> from jmeta.domains.rl.policy_gradients import Acted
      >>> acted = Acted(jnp.array([0, 1]), jnp.zeros(2), jnp.ones(2), jnp.zeros(2), jnp.ones(2))
      >>> outputs = PolicyOutput(Categorical(jnp.zeros((2, 2))), jnp.zeros(2))
      >>> loss, aux = dice(num_steps=2)(outputs, jmeta.Batch(None, acted))
      >>> float(loss), float(aux["reward"])
      (0.0, 1.0)
    """
    if not is_whole(num_steps):
        raise ValueError(f"num_steps={num_steps}; expected the number of steps of a rollout, at least 1")

    def loss_fn(outputs: PolicyOutput, batch: Batch) -> tuple[Array, Aux]:
        acted: Acted = batch.y
        log_probs: Float[Array, " examples"] = outputs.distribution.log_prob(acted.action)
        if log_probs.shape[0] % num_steps:
            raise ValueError(f"{log_probs.shape[0]} examples are no rollouts of num_steps={num_steps}")
        if batch.mask is not None:
            log_probs = jnp.where(batch.mask, log_probs, 0)
        by_rollout = log_probs.reshape(-1, num_steps)
        up_to = jnp.cumsum(by_rollout, 1)
        difference = (magic_box(up_to) - magic_box(up_to - by_rollout)).reshape(-1)
        loss = masked_mean(-difference * acted.advantage, batch)
        return loss, {"reward": masked_mean(acted.reward, batch)}

    return loss_fn
