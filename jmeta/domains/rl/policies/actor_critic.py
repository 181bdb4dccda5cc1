"""Policies of a network with memory, or of one without: encoded inputs, a trunk, and heads for action and value."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.models.dense import dense, init_dense
from jmeta.types import Model, PyTree, RandomKey, SequenceModel

from ..environments.spaces import as_numbers
from .heads import ActionMask, action_head, encoded
from .policy import Policy, PolicyInput, PolicyOutput, features, with_feedback

__all__ = ["actor_critic"]


def actor_critic(
    memory: SequenceModel,
    environment: Any,
    *,
    initial_log_std: float = 0.0,
    encoder: Model | None = None,
    action_mask: ActionMask | None = None,
) -> Policy:
    """Build a policy with memory: a sequence model between the encoded inputs and two linear heads.

    Actions of a discrete space are categorical; others are normal, with means linear in the output and learned standard
    deviations that are the same in all states. Heads start near zero, so a new policy acts at random.

    Args:
      memory: sequence model that carries experience from step to step.
      environment: its spaces give the shapes of inputs and heads.
      initial_log_std: initial log standard deviation of normal actions.
      encoder: maps observations in their own shape, `[examples, ...]`, to features that replace them as the memory's
        input, such as `models.conv4(None, norm="layer")` for pixels. It sees floating-point numbers: pixels (uint8 with
        the bounds 0 and 255) in [0, 1], choices one-hot. `None` passes the observations' numbers to the memory.
      action_mask: `observation -> [actions]` of one step, bool: the legal actions, such as `lambda observation:
        observation["action_mask"]`. Others are never drawn and have no gradient. Where none is legal, all are.

    Raises:
      ValueError: if the environment's actions are neither a `Discrete` nor a `Box` of floating-point numbers, or a mask
        is given for numbers; at trace time if a mask has not one bool for each action.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = actor_critic(models.gru(16), bandit)
      >>> inputs = policies.first_input(jnp.zeros(1), bandit.action_space(bandit.default_params))
      >>> params = policy.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[None], inputs))
      >>> memory, decision = policy.step(params, policy.start(params, None), inputs, None)
      >>> decision.distribution.logits.shape, decision.value.shape
      ((5,), ())
    """
    observation_space = environment.observation_space(environment.default_params)
    action_space = environment.action_space(environment.default_params)
    head = action_head(environment, action_mask)

    def seen(params: PyTree, inputs: PolicyInput, key: RandomKey | None) -> Float[Array, "*steps features"]:
        if encoder is None:
            return features(inputs, observation_space, action_space)
        observed = encoded(encoder, params["encoder"], inputs.observation, observation_space, key)
        return with_feedback(observed, inputs, action_space)

    def init(key: RandomKey, inputs: PolicyInput) -> PyTree:
        key_memory, key_actor, key_critic, *key_encoder = jax.random.split(key, 3 + (encoder is not None))
        params = {}
        if encoder is not None:
            params["encoder"] = encoder.init(key_encoder[0], as_numbers(inputs.observation, observation_space))
        x = seen(params, inputs, None)
        params["memory"] = memory.init(key_memory, x)
        width = jax.eval_shape(lambda params: memory.unroll(params, memory.start(params), x)[1], params["memory"])
        small = jax.nn.initializers.orthogonal(0.01)
        params["actor"] = init_dense(key_actor, width.shape[-1], head.num_outputs, small)
        params["critic"] = init_dense(key_critic, width.shape[-1], 1, small)
        if not head.is_discrete:
            params["log_std"] = jnp.full((head.num_outputs,), initial_log_std, jnp.float32)
        return params

    def start(params: PyTree, key: RandomKey | None) -> PyTree:
        del key
        return memory.start(params["memory"])

    def decide(params: PyTree, output: Float[Array, "*steps width"], observation: PyTree) -> PolicyOutput:
        # one product for both: one of a single column costs as much as one of many
        heads = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, -1), params["actor"], params["critic"])
        outputs = dense(heads, output)
        return PolicyOutput(head.distribution(outputs[..., :-1], params.get("log_std"), observation), outputs[..., -1])

    def step(params: PyTree, state: PyTree, inputs: PolicyInput, key: RandomKey | None) -> tuple[PyTree, PolicyOutput]:
        if encoder is None:
            x = seen(params, inputs, key)
        else:
            x = seen(params, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], inputs), key)[0]
        state, output = memory.step(params["memory"], state, x)
        return state, decide(params, output, inputs.observation)

    def unroll(
        params: PyTree, state: PyTree, inputs: PolicyInput, key: RandomKey | None
    ) -> tuple[PyTree, PolicyOutput]:
        state, outputs = memory.unroll(params["memory"], state, seen(params, inputs, key))
        return state, decide(params, outputs, inputs.observation)

    return Policy(init, start, step, unroll)
