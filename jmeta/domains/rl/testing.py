"""Checks of the contract that every environment and every policy obeys; see also `jmeta.testing`."""

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.testing.claims import all_equal, assert_close, assert_same_avals, check_finite, claim
from jmeta.testing.samplers import Sampler
from jmeta.types import PyTree, RandomKey

from .environments import spaces, stepping
from .policies import Policy
from .rollouts import init_policy, run_episode

__all__ = ["check_environment", "check_policy"]


def check_environment(
    environment: Any, sample: Sampler, key: RandomKey, *, num_steps: int = 8, rtol: float = 1e-4
) -> None:
    """Run an environment and the sampler of its parameters through their contract.

    It has the attributes of an `Environment`. Its spaces are spaces, and policies can act in that of its actions. The
    sampler makes parameters of the default ones' structure, shapes and dtypes, under `jit`, too. `reset` returns
    `(observation, state)` and `step` `(observation, state, reward, terminated, truncated, info)`, whose reward is an
    array of one float and whose ends are arrays of one bool. Observations are in their space, and everything is finite
    over random actions. States keep their structure, shapes and dtypes. `info["final_observation"]` is the observation
    where a rollout goes on, and is there if a time limit ends one. The same key gives the same steps, and `vmap` over
    tasks is a loop.

    Args:
      environment: an `Environment`, or one of gymnax.
      sample: `key -> params`.
      key: key of tasks and actions.
      num_steps: steps of the test rollouts.
      rtol: relative tolerance of comparisons under `jit` and `vmap`.

    Raises:
      AssertionError: at the first clause that is violated, naming it in one sentence.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl import environments
      >>> check_environment(*environments.bernoulli_bandit(3), jax.random.key(0))
    """
    try:
        _check_environment(environment, sample, key, num_steps, rtol)
    except ValueError as error:  # in a result, found while tracing
        raise AssertionError(str(error)) from error


def _check_environment(environment: Any, sample: Sampler, key: RandomKey, num_steps: int, rtol: float) -> None:
    _check_attributes(environment)
    keys = jax.random.split(key, 4)
    params = [jax.jit(lambda sample, key: sample(key))(sample, each) for each in keys[:2]]
    assert_same_avals(params[0], environment.default_params, "sampled parameters differ from the default ones")
    assert_close(sample(keys[0]), params[0], rtol, "jax.jit samples other parameters")
    _check_spaces(environment, params[0])
    numbers_of_python = _check_types(environment, params[0], keys[2])

    def rollout(params: PyTree, key: RandomKey) -> tuple[PyTree, ...]:
        key_reset, key_steps = jax.random.split(key)
        observation, state = environment.reset(key_reset, params)

        def one_step(state: PyTree, key: RandomKey) -> tuple[PyTree, PyTree]:
            key_action, key_step = jax.random.split(key)
            action = spaces.sample(environment.action_space(params), key_action)
            observation, state, *rest = environment.step(key_step, state, action, params)
            return state, (observation, *rest)

        return observation, *jax.lax.scan(one_step, state, jax.random.split(key_steps, num_steps))[1]

    run = jax.jit(rollout)
    first, observations, reward, terminated, truncated, info = run(params[0], keys[2])
    space = environment.observation_space(params[0])
    seen = jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, observations)
    claim(bool(jax.vmap(lambda one: spaces.contains(space, one))(seen).all()), "an observation is outside of its space")
    check_finite((first, observations, reward), "an observation or reward")
    assert_close(run(params[0], keys[2])[1:3], (observations, reward), 0.0, "the same key gives other steps")
    claim(
        "final_observation" in info or not bool(truncated.any()),
        "a time limit ended a rollout, but info has no 'final_observation', the last observation of that rollout",
    )
    if "final_observation" in info:
        goes_on = ~(terminated | truncated)
        last = info["final_observation"]
        assert_same_avals(last, observations, "info['final_observation'] differs from an observation")
        claim(
            all_equal(*(jax.tree.map(lambda leaf: leaf[goes_on], tree) for tree in (last, observations))),
            "where a rollout goes on, info['final_observation'] is not the observation",
        )
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    together = jax.jit(jax.vmap(rollout, (0, None)))(stacked, keys[2])
    alone = [run(each, keys[2]) for each in params]
    looped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    assert_close(together[:3], looped[:3], rtol, "jax.vmap over tasks differs from a loop", atol=1e-4)
    claim(not numbers_of_python, "; ".join(numbers_of_python))


def _check_attributes(environment: Any) -> None:
    for name in ("name", "default_params"):
        claim(hasattr(environment, name), f"the environment has no attribute {name!r}")
    for name in ("reset", "step", "observation_space", "action_space"):
        claim(hasattr(environment, name), f"{environment.name} has no attribute {name!r}")
        is_space = name.endswith("space")
        claim(
            callable(getattr(environment, name)),
            f"`{name}` of {environment.name} is no function{'; return the space from `params -> space`' * is_space}",
        )


def _check_spaces(environment: Any, params: PyTree) -> None:
    spaces.flat_action_space(environment.action_space(params), environment.name)
    try:
        spaces.num_features(environment.observation_space(params))
    except ValueError as error:
        raise AssertionError(f"the observations of {environment.name} have no space: {error}") from error


def _check_types(environment: Any, params: PyTree, key: RandomKey) -> list[str]:
    """Trace a reset and a step, and check what they return before a scan makes arrays of it.

    Returns sentences about Python's own numbers: episodes run with them, but not all code that is written for arrays.
    """
    numbers_of_python: list[str] = []
    name, space = environment.name, environment.observation_space(params)

    def trace(params: PyTree, key: RandomKey) -> None:
        key_reset, key_action, key_step = jax.random.split(key, 3)
        observation, state = stepping.as_reset(environment.reset(key_reset, params), f"`reset` of {name}")
        action = spaces.sample(environment.action_space(params), key_action)
        returned = environment.step(key_step, state, action, params)
        step = stepping.as_step(returned, f"`step` of {name}")
        for what, value in zip(("reward", "terminated", "truncated"), returned[2:5], strict=True):
            if not hasattr(value, "dtype"):
                returns = f"`step` of {name} returns as `{what}` Python's {value!r}"
                numbers_of_python.append(f"{returns}; return an array, jnp.array({value!r})")
        dtype = step.reward.dtype
        claim(jnp.issubdtype(dtype, jnp.floating), f"a reward of {name} has dtype {dtype}, it must be a float")
        for seen, function in ((observation, "reset"), (step.observation, "step")):
            _check_element(seen, space, f"`{function}` of {name} returns an observation")
        before, after = (observation, state), (step.observation, step.state)
        stepping.check_alike(before, after, f"`reset` of {name} makes an observation and a state", "`step`")

    jax.eval_shape(trace, params, key)
    return numbers_of_python


def _check_element(value: PyTree, space: Any, what: str) -> None:
    """Raise unless a value has the structure, shapes and dtypes of a space's elements."""
    if (parts := spaces.parts_of(space)) is not None:
        for name, part in parts.items():
            _check_element(spaces.part_of(value, name, space), part, f"{what} whose part {name!r}")
        return
    claim(hasattr(value, "dtype"), f"{what} that is {spaces.described(value)}, its space is {space}")
    claim(
        value.shape == tuple(space.shape) and value.dtype == space.dtype,
        f"{what} of shape {value.shape} and dtype {value.dtype}, its space has {tuple(space.shape)} and "
        f"{jnp.dtype(space.dtype)}",
    )


def check_policy(
    policy: Policy,
    environment: Any,
    params: PyTree,
    key: RandomKey,
    *,
    num_steps: int = 6,
    uses_key: bool = False,
    rtol: float = 1e-4,
) -> None:
    """Run a policy through its contract in an environment.

    Steps in turn are `unroll`. Actions have the shape and dtype of their space, numbers of any shape as one vector, and
    choices are in it; numbers may be beyond a box, since environments clip them. Log-probabilities and values are
    finite. Memories keep their structure, shapes and dtypes. The same key gives the same episode.

    Args:
      policy: the policy to check.
      environment: the environment that it acts in.
      params: parameters of the environment.
      key: key of parameters, actions and steps.
      num_steps: steps of the episode.
      uses_key: whether decisions are random themselves, as in Thompson sampling; then steps are not compared with
        `unroll`, which splits its key.
      rtol: relative tolerance of all comparisons.

    Raises:
      AssertionError: at the first clause that is violated, naming it.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policies
      >>> bandit, sample = environments.bernoulli_bandit(3)
      >>> check_policy(policies.actor_critic(models.gru(4), bandit), bandit, bandit.default_params, jax.random.key(0))
    """
    key_init, key_start, key_run, key_unroll = jax.random.split(key, 4)
    policy_params = init_policy(environment, policy)(key_init)
    run = jax.jit(run_episode(environment, policy, num_steps=num_steps))
    trajectory = run(policy_params, params, key_run)
    actions = trajectory.action
    space = spaces.flat_action_space(environment.action_space(params), environment.name)
    claim(
        actions.shape[1:] == tuple(space.shape) and actions.dtype == space.dtype,
        f"actions have shape {actions.shape[1:]} and dtype {actions.dtype}, not {space.shape} and {space.dtype}",
    )
    if hasattr(space, "n"):
        claim(bool(jnp.all(jax.vmap(space.contains)(actions))), "an action is outside of its space")
    check_finite((trajectory.log_prob, trajectory.outputs.value), "a log-probability or value")
    assert_close(run(policy_params, params, key_run), trajectory, 0.0, "the same key gives another episode")
    start = policy.start(policy_params, key_start)
    memory, outputs = jax.jit(policy.unroll)(policy_params, start, trajectory.inputs, key_unroll)
    assert_same_avals(memory, start, "a memory after steps has another structure, shape or dtype than the first one")

    if uses_key:
        return

    def one_step(memory: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        return policy.step(policy_params, memory, inputs, key_unroll)

    stepped = jax.jit(lambda inputs: jax.lax.scan(one_step, start, inputs))(trajectory.inputs)
    assert_close(stepped, (memory, outputs), rtol, "steps in turn differ from `unroll`")
