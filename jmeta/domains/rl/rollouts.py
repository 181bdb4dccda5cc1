"""Running a policy in an environment: an episode of rollouts, over which the policy keeps its memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmeta.bounds import is_whole
from jmeta.types import Aux, EpisodeFn, PyTree, RandomKey

from .environments.spaces import shaped_action
from .environments.stepping import check_alike, take_reset, take_step
from .policies import Policy, PolicyInput, PolicyOutput, first_input

__all__ = ["Trajectory", "RunEpisode", "run_episode", "return_episode", "init_policy"]


class Trajectory(NamedTuple):
    """The record of an episode; the steps are on the first axis of every leaf.

    Attributes:
      inputs: inputs of the policy.
      outputs: outputs of the policy.
      action: action taken; numbers of any shape are one vector.
      log_prob: log-probability of the action, in nats.
      reward: reward of the action.
      is_over: whether the action ended a rollout, by the rules or by the time limit.
      terminated: whether the rules of the environment ended the rollout: nothing would have followed.
      truncated: whether its time limit did: the rollout would have continued.
      final_observation: observation that the action led to, even where the next input is the start of another rollout;
        `None` if the environment does not provide it.
      final_value: the policy's value from there on, had no rollout ended; `None` if not requested.
    """

    inputs: PolicyInput
    outputs: PolicyOutput
    action: Array
    log_prob: Float[Array, " steps"]
    reward: Float[Array, " steps"]
    is_over: Bool[Array, " steps"]
    terminated: Bool[Array, " steps"] | None = None
    truncated: Bool[Array, " steps"] | None = None
    final_observation: PyTree = None
    final_value: Float[Array, " steps"] | None = None


RunEpisode = Callable[[PyTree, PyTree, RandomKey], Trajectory]
"""`(params, env_params, key) -> Trajectory`: one episode of a policy with these parameters in one task."""


def run_episode(
    environment: Any, policy: Policy, *, num_steps: int, is_greedy: bool = False, with_final_values: bool = False
) -> RunEpisode:
    """Run episodes of a policy: steps in one task, rollout after rollout, from an empty memory.

    The memory is kept when a rollout ends and the next one starts, and begins anew with each episode. Decisions are
    differentiable in the parameters at the actions that were taken; no gradient flows back through actions into later
    steps.

    Args:
      environment: an `Environment`, or one of gymnax.
      policy: the acting policy; it sees the reward and the end of a rollout with the next observation.
      num_steps: steps of the environment in an episode, over all its rollouts.
      is_greedy: whether the policy takes the most probable action instead of a sample.
      with_final_values: whether the policy also computes, after every step, the value if no rollout ended there:
        `final_value`, which bootstrapping at time limits needs. This evaluates the policy twice per step.

    Returns:
      `(params, env_params, key) -> Trajectory`.

    Raises:
      ValueError: if `num_steps` is not positive; at trace time if the environment does not return what `Environment`
        says, policies cannot act in its spaces, or it gives no final observation to value.

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
    if not is_whole(num_steps):
        raise ValueError(f"num_steps={num_steps}; an episode has at least one step")

    def run(params: PyTree, env_params: PyTree, key: RandomKey) -> Trajectory:
        key_reset, key_start, key_steps = jax.random.split(key, 3)
        observation, state = take_reset(environment, key_reset, env_params)
        action_space = environment.action_space(env_params)
        inputs = first_input(observation, action_space)

        # for callers that differentiate outputs: the backward pass computes a step again, and only memories are stored
        decide = jax.checkpoint(policy.step, prevent_cse=False)

        def one_step(carry: Any, key: RandomKey) -> tuple[Any, Trajectory]:
            memory, state, inputs = carry
            key_policy, key_action, key_environment, *key_final = jax.random.split(key, 3 + with_final_values)
            memory, outputs = decide(params, memory, inputs, key_policy)
            distribution = outputs.distribution
            action = jax.lax.stop_gradient(distribution.mode() if is_greedy else distribution.sample(key_action))
            taken = shaped_action(action, action_space, environment.name)
            after = take_step(environment, key_environment, state, taken, env_params)
            what = f"`reset` of {environment.name} makes an observation and a state"
            check_alike((inputs.observation, state), (after.observation, after.state), what, "`step`")
            reward, is_over = after.reward.astype(jnp.float32), after.terminated | after.truncated
            last, final_value = after.info.get("final_observation"), None
            if with_final_values:
                seen = PolicyInput(_required(last, environment), action, reward, jnp.zeros_like(is_over))
                final_value = jax.lax.stop_gradient(decide(params, memory, seen, key_final[0])[1].value)
            happened = Trajectory(
                inputs,
                outputs,
                action,
                distribution.log_prob(action),
                reward,
                is_over,
                after.terminated,
                after.truncated,
                last,
                final_value,
            )
            return (memory, after.state, PolicyInput(after.observation, action, reward, is_over)), happened

        start = (policy.start(params, key_start), state, inputs)
        _, trajectory = jax.lax.scan(one_step, start, jax.random.split(key_steps, num_steps))
        return trajectory

    return run


def _required(last: PyTree, environment: Any) -> PyTree:
    if last is None:
        raise ValueError(
            f"`step` of {environment.name} returns no info['final_observation']; return the last observation of the "
            "rollout there, which is valued where a time limit ended it"
        )
    return last


def return_episode(run: RunEpisode, *, num_rollouts: int = 0) -> EpisodeFn:
    """Build the episode function whose loss is minus the sum of all rewards.

    Args:
      run: as returned by `run_episode`.
      num_rollouts: number of rollouts, from the first on, whose returns are reported separately; 0 for none.

    Returns:
      An episode function of environments' parameters; `aux` has the `return`, and the requested `return_of_rollout_1`
      and so on.

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
        number = jnp.cumsum(ended, dtype=jnp.int32) - ended  # number of the rollout that a step belongs to
        by_rollout = jax.ops.segment_sum(trajectory.reward, number, num_rollouts)
        each = {f"return_of_rollout_{i + 1}": by_rollout[i] for i in range(num_rollouts)}
        return -total, {"return": total, **each}

    return episode_fn


def init_policy(environment: Any, policy: Policy) -> Callable[[RandomKey], PyTree]:
    """Build `key -> params` of a policy, for an environment's shapes.

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
        observation, _ = jax.eval_shape(lambda key: take_reset(environment, key, env_params), key)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), observation)
        inputs = first_input(blank, environment.action_space(env_params))
        return policy.init(key, jax.tree.map(lambda leaf: leaf[None], inputs))

    return init
