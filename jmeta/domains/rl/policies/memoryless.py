"""Policies without memory: the action depends on the present observation alone."""

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.types import Model, PyTree, RandomKey

from ..environments.environment import as_vector
from .distributions import Categorical, Normal
from .policy import Policy, PolicyInput, PolicyOutput


def memoryless(model: Model, environment: Any, *, initial_log_std: float = 0.0) -> Policy:
    """A network from the observation to the action's distribution; adapted by gradient steps, not by remembering.

    Args:
      model: outputs one logit for each action, or one mean for each number of a continuous action, whose standard
        deviations are learned beside it, alike in all states.
      environment: its spaces give the shapes.
      initial_log_std: of continuous actions.

    Returns:
      A policy with an empty memory, whose guess of the return is always zero.

    Raises:
      ValueError: at trace time if the model's outputs are not as many as actions.

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
    action_space = environment.action_space(environment.default_params)
    is_discrete = hasattr(action_space, "n")
    num_outputs = int(action_space.n) if is_discrete else action_space.shape[0]

    def init(key: RandomKey, inputs: PolicyInput) -> PyTree:
        params = {"model": model.init(key, as_vector(inputs.observation, observation_space))}
        return params if is_discrete else {**params, "log_std": jnp.full((num_outputs,), initial_log_std, jnp.float32)}

    def start(params: PyTree, key: RandomKey | None) -> tuple[()]:
        del params, key
        return ()

    def unroll(
        params: PyTree, memory: PyTree, inputs: PolicyInput, key: RandomKey | None
    ) -> tuple[PyTree, PolicyOutput]:
        outputs = model.apply(params["model"], as_vector(inputs.observation, observation_space), key)
        if outputs.shape[-1] != num_outputs:
            raise ValueError(
                f"the policy's model has {outputs.shape[-1]} outputs, but {environment.name} takes {num_outputs}; let "
                f"its last layer have {num_outputs}"
            )
        if is_discrete:
            return memory, PolicyOutput(Categorical(outputs), jnp.zeros(outputs.shape[:-1], outputs.dtype))
        log_std = jnp.broadcast_to(params["log_std"], outputs.shape)
        return memory, PolicyOutput(Normal(outputs, log_std), jnp.zeros(outputs.shape[:-1], outputs.dtype))

    def step(params: PyTree, memory: PyTree, inputs: PolicyInput, key: RandomKey | None) -> tuple[PyTree, PolicyOutput]:
        sequence = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], inputs)
        memory, decisions = unroll(params, memory, sequence, key)
        return memory, jax.tree.map(lambda leaf: leaf[0], decisions)

    return Policy(init, start, step, unroll)
