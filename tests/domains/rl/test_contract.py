"""Every environment, adapter and policy of the registry through its contract; and that the contract can be broken."""

import jax
import jax.numpy as jnp
import pytest

from jmeta import models
from jmeta.domains.rl import environments, policies
from jmeta.domains.rl.testing import check_environment, check_policy

from ...differences import trace_strictly
from .registry import ADAPTED, ENVIRONMENTS, POLICIES, USE_KEYS


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_obeys_the_contract(name, key):
    check_environment(*ENVIRONMENTS[name](), key)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ADAPTED)
def test_an_environment_of_another_library_obeys_the_contract(name, key):
    with jax.numpy_rank_promotion("allow"):
        check_environment(*ADAPTED[name](), key)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_obeys_the_contract(name, key):
    policy, environment = POLICIES[name]()
    check_policy(policy, environment, environment.default_params, key, uses_key=name in USE_KEYS)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_promotes_no_dtype_and_uses_no_key_twice(name, key):
    environment, sample = ENVIRONMENTS[name]()

    def two_steps(key_task, key_reset, key_step):
        params = sample(key_task)
        observation, state = environment.reset(key_reset, params)
        action = jnp.zeros(environment.action_space(params).shape, environment.action_space(params).dtype)
        return observation, environment.step(key_step, state, action, params)

    trace_strictly(two_steps, *jax.random.split(key, 3))


def broken(**changes):
    bandit, sample = environments.bernoulli_bandit(3)
    return bandit._replace(**{name: change(getattr(bandit, name)) for name, change in changes.items()}), sample


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        ({"step": lambda step: lambda *a: (step(*a)[0], step(*a)[1], jnp.nan, *step(*a)[3:])}, "not finite"),
        ({"step": lambda step: lambda *a: (step(*a)[0] + 7, *step(*a)[1:])}, "outside of its space"),
        ({"step": lambda step: lambda *a: (*step(*a)[:3], jnp.int32(1), *step(*a)[4:])}, "must be bool"),
        ({"default_params": lambda params: jax.tree.map(lambda leaf: leaf[:2], params)}, "differ from the default"),
    ],
    ids=["a reward of NaN", "an observation elsewhere", "an end that is a number", "other parameters"],
)
def test_an_environment_that_breaks_its_contract_is_caught(change, violation, key):
    with pytest.raises(AssertionError, match=violation):
        check_environment(*broken(**change), key)


def test_a_policy_whose_steps_are_not_its_unrolled_sequence_is_caught(key):
    bandit, _ = environments.bernoulli_bandit(3)
    policy = policies.actor_critic(models.gru(4), bandit)

    def other(params, memory, inputs, key):
        memory, decision = policy.step(params, memory, inputs, key)
        return memory, decision._replace(value=decision.value + 1)

    with pytest.raises(AssertionError, match="steps in turn differ"):
        check_policy(policy._replace(step=other), bandit, bandit.default_params, key)
