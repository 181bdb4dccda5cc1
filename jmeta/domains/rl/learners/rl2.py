"""RL²: a fast learner inside a slow one, a recurrent policy whose memory holds what it has learned of a task.

Adapting folds experience into the memory; predicting acts from there on. Any policy gradient trains the policy to
maximise the reward over a whole episode of rollouts, so it learns to explore first and exploit later. With an attentive
memory instead of a recurrent one this is SNAIL.

Reference: Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel, "RL²: Fast Reinforcement Learning via Slow Reinforcement
Learning", 2016, arXiv:1611.02779, section 2.2; Wang et al., "Learning to reinforcement learn", 2016, arXiv:1611.05763.
Differs from the paper: what it calls a trial is an episode here, and its episodes are rollouts.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.types import Batch, Learner, PyTree, RandomKey, Task

from ..policies import Policy, PolicyInput, PolicyOutput

__all__ = ["rl2"]


def rl2(policy: Policy) -> Learner:
    """Remember experience; act from there on.

    Args:
      policy: a policy with memory, such as `policies.actor_critic(models.gru(64), environment)`.

    Returns:
      A learner of streams of steps: the `x` of support and query are `PolicyInput`s with the steps on the first axis.
      The adapted state is the policy's memory after the support, and predictions are its `PolicyOutput` at every step
      of the query, which follows the support. Folding t steps and predicting the rest equals predicting all of them.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = policies.actor_critic(models.gru(16), bandit)
      >>> run = rollouts.run_episode(bandit, policy, num_steps=10)
      >>> learner = rl2(policy)
      >>> meta_params = rollouts.init_policy(bandit, policy)(jax.random.key(0))
      >>> collect = policy_gradients.collect_episode(run, discount=0.99, gae_lambda=0.3)
      >>> task = jax.jit(collect)(meta_params, sample(jax.random.key(1)), jax.random.key(2))
      >>> adapted = learner.adapt(meta_params, task.query, jax.random.key(3))
      >>> adapted.shape
      (16,)
    """

    def init(key: RandomKey, task: Task) -> PyTree:
        return policy.init(key, task.query.x)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_start, key_fold = jax.random.split(key)
        memory = policy.start(meta_params, key_start)
        if support.mask is None:
            return policy.unroll(meta_params, memory, support.x, key_fold)[0]
        steps = (support.x, support.mask, jax.random.split(key_fold, support.mask.shape[0]))
        return jax.lax.scan(lambda memory, step: (_folded(meta_params, memory, *step), None), memory, steps)[0]

    def _folded(meta_params: PyTree, memory: PyTree, inputs: PolicyInput, is_real: Any, key: RandomKey) -> PyTree:
        after, _ = policy.step(meta_params, memory, inputs, key)
        return jax.tree.map(lambda new, old: jnp.where(is_real, new, old), after, memory)

    def predict(meta_params: PyTree, adapted: PyTree, x: PolicyInput, key: RandomKey | None) -> PolicyOutput:
        key = jax.random.key(0) if key is None else key
        return policy.unroll(meta_params, adapted, x, key)[1]

    return Learner(init, adapt, predict)
