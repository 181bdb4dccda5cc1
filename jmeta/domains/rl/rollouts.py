"""Running a policy in an environment: an episode of rollouts, in which what was learned is kept."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmeta.types import Aux, EpisodeFn, PyTree, RandomKey

from .policies import Policy, PolicyInput, PolicyOutput, first_input


class Trajectory(NamedTuple):
    """What happened in an episode; the steps are on the first axis of every leaf.

    Attributes:
      inputs: what the policy was told.
      outputs: what it said.
      action: what it did.
      log_prob: of the action, in nats.
      reward: what it got for it.
      is_over: whether the action ended a rollout.
    """

    inputs: PolicyInput
    outputs: PolicyOutput
    action: Array
    log_prob: Float[Array, " steps"]
    reward: Float[Array, " steps"]
    is_over: Bool[Array, " steps"]


RunEpisode = Callable[[PyTree, PyTree, RandomKey], Trajectory]
"""`(params, env_params, key) -> Trajectory`: one episode of a policy with these parameters in one task."""


def run_episode(environment: Any, policy: Policy, *, num_steps: int, is_greedy: bool = False) -> RunEpisode:
    """Episodes of a policy: steps in one task, rollout after rollout, from an empty memory.

    The memory is kept when a rollout ends and the next one starts, and begins anew with each episode. Decisions are
    differentiable in the parameters at the actions that were taken; through actions, into what follows them, nothing
    flows back.

    Args:
      environment: an `Environment`, or one of gymnax.
      policy: acts; it sees the reward and the end of a rollout with the next observation.
      num_steps: steps of the environment in an episode, over all its rollouts.
      is_greedy: whether the most probable action is taken, and not one by its probability.

    Returns:
      `(params, env_params, key) -> Trajectory`.

    Raises:
      ValueError: if `num_steps` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = policies.actor_critic(models.gru(16), bandit)
      >>> run = run_episode(bandit, policy, num_steps=10)
      >>> params = init_policy(bandit, policy)(jax.random.key(0))
      >>> run(params, sample(jax.random.key(1)), jax.random.key(2)).reward.shape
      (10,)
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}; an episode has at least one step")

    def run(params: PyTree, env_params: PyTree, key: RandomKey) -> Trajectory:
        key_reset, key_start, key_steps = jax.random.split(key, 3)
        observation, state = environment.reset(key_reset, env_params)
        inputs = first_input(observation, environment.action_space(env_params))

        # for those who differentiate decisions: a step is computed again on the way back, and only memories are stored
        decide = jax.checkpoint(policy.step, prevent_cse=False)

        def one_step(carry: Any, key: RandomKey) -> tuple[Any, Trajectory]:
            memory, state, inputs = carry
            key_policy, key_action, key_environment = jax.random.split(key, 3)
            memory, decision = decide(params, memory, inputs, key_policy)
            distribution = decision.distribution
            action = jax.lax.stop_gradient(distribution.mode() if is_greedy else distribution.sample(key_action))
            observation, state, reward, terminated, truncated, _ = environment.step(
                key_environment, state, action, env_params
            )
            reward, is_over = reward.astype(jnp.float32), terminated | truncated
            happened = Trajectory(inputs, decision, action, distribution.log_prob(action), reward, is_over)
            return (memory, state, PolicyInput(observation, action, reward, is_over)), happened

        start = (policy.start(params, key_start), state, inputs)
        _, trajectory = jax.lax.scan(one_step, start, jax.random.split(key_steps, num_steps))
        return trajectory

    return run


def return_episode(run: RunEpisode, *, num_rollouts: int = 0) -> EpisodeFn:
    """Episodes as they are judged: the loss is minus the sum of all rewards.

    Args:
      run: as returned by `run_episode`.
      num_rollouts: rollouts whose returns are reported one by one, from the first on; 0 for none.

    Returns:
      An episode function of environments' parameters; `aux` has the `return`, and the `return_of_rollout_1` and so on
      that were asked for.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> policy = policies.actor_critic(models.gru(16), bandit)
      >>> params = init_policy(bandit, policy)(jax.random.key(0))
      >>> judge = return_episode(run_episode(bandit, policy, num_steps=10), num_rollouts=10)
      >>> loss, aux = judge(params, sample(jax.random.key(1)), jax.random.key(2))
      >>> float(sum(aux[f"return_of_rollout_{i}"] for i in range(1, 11))) == float(aux["return"]) == -float(loss)
      True
    """

    def episode_fn(params: PyTree, env_params: PyTree, key: RandomKey) -> tuple[Array, Aux]:
        trajectory = run(params, env_params, key)
        total = trajectory.reward.sum()
        ended = trajectory.is_over.astype(jnp.int32)
        number = jnp.cumsum(ended, dtype=jnp.int32) - ended  # of the rollout that a step belongs to
        by_rollout = jax.ops.segment_sum(trajectory.reward, number, num_rollouts)
        each = {f"return_of_rollout_{i + 1}": by_rollout[i] for i in range(num_rollouts)}
        return -total, {"return": total, **each}

    return episode_fn


def init_policy(environment: Any, policy: Policy) -> Callable[[RandomKey], PyTree]:
    """`key -> params` of a policy, for an environment's shapes.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies
      >>> bandit, _ = environments.bernoulli_bandit(5)
      >>> params = init_policy(bandit, policies.actor_critic(models.gru(16), bandit))(jax.random.key(0))
      >>> sorted(params)
      ['actor', 'critic', 'memory']
    """
    env_params = environment.default_params

    def init(key: RandomKey) -> PyTree:
        observation, _ = jax.eval_shape(environment.reset, key, env_params)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), observation)
        inputs = first_input(blank, environment.action_space(env_params))
        return policy.init(key, jax.tree.map(lambda leaf: leaf[None], inputs))

    return init
