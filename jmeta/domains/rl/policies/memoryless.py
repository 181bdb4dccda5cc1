"""Policies without memory: the action depends on the current observation alone."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.types import Model, PyTree, RandomKey

from ..environments.spaces import as_numbers, as_vector
from .heads import ActionMask, action_head, encoded
from .policy import Policy, PolicyInput, PolicyOutput

__all__ = ["memoryless"]


def memoryless(
    model: Model,
    environment: Any,
    *,
    initial_log_std: float = 0.0,
    encoder: Model | None = None,
    action_mask: ActionMask | None = None,
) -> Policy:
    """Build a policy of the current observation, which adapts by gradient steps and not by remembering.

    Args:
      model: maps the observation's numbers, as one vector, to one logit for each action, or one mean for each number of
        a continuous action, whose standard deviations are separate parameters, the same in all states.
      environment: its spaces give the shapes.
      initial_log_std: initial log standard deviation of continuous actions.
      encoder: maps observations in their own shape to the features that `model` reads instead, as for `actor_critic`;
        for pixels.
      action_mask: which actions are legal, as for `actor_critic`.

    Returns:
      A policy with an empty memory, whose value is always zero.

    Raises:
      ValueError: as for `actor_critic`; at trace time if the number of the model's outputs does not fit the actions.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = memoryless(models.mlp([16, 5]), bandit)
      >>> params = rollouts.init_policy(bandit, policy)(jax.random.key(0))
      >>> run = rollouts.run_episode(bandit, policy, num_steps=3)
      >>> run(params, sample(jax.random.key(1)), jax.random.key(2)).action.shape
      (3,)
    """
    observation_space = environment.observation_space(environment.default_params)
    head = action_head(environment, action_mask)

    def seen(params: PyTree, observation: PyTree, key: RandomKey | None) -> Float[Array, "steps features"]:
        if encoder is None:
            return as_vector(observation, observation_space)
        return encoded(encoder, params["encoder"], observation, observation_space, key)

    def init(key: RandomKey, inputs: PolicyInput) -> PyTree:
        params = {}
        if encoder is not None:
            key, key_encoder = jax.random.split(key)
            params["encoder"] = encoder.init(key_encoder, as_numbers(inputs.observation, observation_space))
        params["model"] = model.init(key, seen(params, inputs.observation, None))
        if not head.is_discrete:
            params["log_std"] = jnp.full((head.num_outputs,), initial_log_std, jnp.float32)
        return params

    def start(params: PyTree, key: RandomKey | None) -> tuple[()]:
        del params, key
        return ()

    def unroll(
        params: PyTree, memory: PyTree, inputs: PolicyInput, key: RandomKey | None
    ) -> tuple[PyTree, PolicyOutput]:
        outputs = model.apply(params["model"], seen(params, inputs.observation, key), key)
        if outputs.shape[-1] != head.num_outputs:
            raise ValueError(
                f"the policy's model has {outputs.shape[-1]} outputs, but {environment.name} takes {head.num_outputs}; "
                f"let its last layer have {head.num_outputs}"
            )
        distribution = head.distribution(outputs, params.get("log_std"), inputs.observation)
        return memory, PolicyOutput(distribution, jnp.zeros(outputs.shape[:-1], outputs.dtype))

    def step(params: PyTree, memory: PyTree, inputs: PolicyInput, key: RandomKey | None) -> tuple[PyTree, PolicyOutput]:
        sequence = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], inputs)
        memory, decisions = unroll(params, memory, sequence, key)
        return memory, jax.tree.map(lambda leaf: leaf[0], decisions)

    return Policy(init, start, step, unroll)
