"""Policies of a network with memory, or of one without: encoded inputs, a trunk, and heads for action and value."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.types import PyTree, RandomKey, SequenceModel

from .distributions import Categorical, Distribution, Normal
from .policy import Policy, PolicyInput, PolicyOutput, features


def actor_critic(memory: SequenceModel, environment: Any, *, initial_log_std: float = 0.0) -> Policy:
    """A policy with memory: a sequence model between the encoded inputs and two linear heads.

    Actions of a discrete space are categorical; others are normal, their means linear in the output and their standard
    deviations learned, alike in all states. Heads begin near zero, so that a new policy acts at random.

    Args:
      memory: what carries experience from step to step.
      environment: its spaces give the shapes of inputs and heads.
      initial_log_std: of normal actions.

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
    num_outputs, to_distribution = _head(action_space)

    def init(key: RandomKey, inputs: PolicyInput) -> PyTree:
        key_memory, key_actor, key_critic = jax.random.split(key, 3)
        x = features(inputs, observation_space, action_space)
        params = {"memory": memory.init(key_memory, x)}
        width = jax.eval_shape(lambda params: memory.unroll(params, memory.start(params), x)[1], params["memory"])
        params["actor"] = _dense(key_actor, width.shape[-1], num_outputs, scale=0.01)
        params["critic"] = _dense(key_critic, width.shape[-1], 1, scale=0.01)
        if not hasattr(action_space, "n"):
            params["log_std"] = jnp.full(action_space.shape, initial_log_std, jnp.float32)
        return params

    def start(params: PyTree, key: RandomKey | None) -> PyTree:
        del key
        return memory.start(params["memory"])

    def decide(params: PyTree, output: Float[Array, "*steps width"]) -> PolicyOutput:
        # one product for both: one of a single column costs as much as one of many
        heads = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, -1), params["actor"], params["critic"])
        outputs = _apply(heads, output)
        return PolicyOutput(to_distribution(outputs[..., :-1], params), outputs[..., -1])

    def step(params: PyTree, state: PyTree, inputs: PolicyInput, key: RandomKey | None) -> tuple[PyTree, PolicyOutput]:
        del key
        state, output = memory.step(params["memory"], state, features(inputs, observation_space, action_space))
        return state, decide(params, output)

    def unroll(
        params: PyTree, state: PyTree, inputs: PolicyInput, key: RandomKey | None
    ) -> tuple[PyTree, PolicyOutput]:
        del key
        state, outputs = memory.unroll(params["memory"], state, features(inputs, observation_space, action_space))
        return state, decide(params, outputs)

    return Policy(init, start, step, unroll)


def _head(action_space: Any) -> tuple[int, Callable[[Array, PyTree], Distribution]]:
    """`(number of outputs, (outputs, params) -> distribution)`."""
    if hasattr(action_space, "n"):
        return int(action_space.n), lambda outputs, _: Categorical(outputs)
    (count,) = action_space.shape
    return count, lambda outputs, params: Normal(outputs, jnp.broadcast_to(params["log_std"], outputs.shape))


def _dense(key: RandomKey, num_inputs: int, num_outputs: int, *, scale: float) -> PyTree:
    kernel = jax.nn.initializers.orthogonal(scale)(key, (num_inputs, num_outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros((num_outputs,), jnp.float32)}


def _apply(params: PyTree, x: Float[Array, "*steps inputs"]) -> Float[Array, "*steps outputs"]:
    outputs = x @ params["kernel"]
    return outputs + jnp.broadcast_to(params["bias"], outputs.shape)
