"""Users' own environments: what runs, and the one sentence about what does not, from the check and from an episode."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import models
from jmeta.domains import rl
from jmeta.domains.rl import policies, policy_gradients
from jmeta.domains.rl.environments import Box, Discrete, Environment, environment
from jmeta.domains.rl.rollouts import init_policy, run_episode
from jmeta.domains.rl.testing import check_environment, check_policy

SAMPLE = jax.tree_util.Partial(lambda key: jnp.zeros(()))
KEY = jax.random.key(0)


def own(observation_space=None, action_space=None, change=lambda *returned: returned):
    """Written by hand, without `environment`: counts to 3, then a time limit ends the rollout."""

    def step(key, state, action, params):
        count = state + 1
        is_last = count >= 3
        last = count.astype(jnp.float32)[None]
        start = jnp.where(is_last, 0, count).astype(jnp.float32)[None]
        paid = jnp.asarray(action, jnp.float32).sum()
        info = {"final_observation": last}
        return change(start, jnp.where(is_last, 0, count), paid, jnp.array(False), is_last, info)

    reset = lambda key, params: (jnp.zeros(1), jnp.zeros((), jnp.int32))
    return Environment(
        name="mine",
        reset=reset,
        step=step,
        reset_env=reset,
        step_env=lambda *a: (*step(*a)[:4], {}),
        observation_space=lambda _: observation_space or Box(0.0, 3.0, (1,)),
        action_space=lambda _: action_space or Discrete(2),
        default_params=jnp.zeros(()),
    )


def sentence_of(call):
    with pytest.raises((AssertionError, ValueError)) as caught:
        call()
    words = str(caught.value)
    assert "\n" not in words
    assert "Tracer" not in words
    return words


def test_one_that_keeps_the_contract_passes():
    check_environment(own(), SAMPLE, KEY)


def changed(**at):
    names = ("observation", "state", "reward", "terminated", "truncated", "info")

    def change(*returned):
        parts = dict(zip(names, returned, strict=True))
        return tuple((parts | {name: make(parts) for name, make in at.items()}).values())

    return change


RETURNED = {
    "a reward of shape (1,)": (
        changed(reward=lambda p: p["reward"][None]),
        r"a reward of shape \(1,\); expected a",
    ),
    "a reward of two parts": (changed(reward=lambda p: {"a": p["reward"]}), "returns as `reward` a dict"),
    "terminated is a float": (
        changed(terminated=lambda p: jnp.zeros(())),
        r"`terminated` of dtype float32; it must be bool, such as `terminated > 0`",
    ),
    "truncated is an int": (changed(truncated=lambda p: jnp.int32(0)), "`truncated` of dtype int32; it must be bool"),
    "terminated of shape (1,)": (changed(terminated=lambda p: p["terminated"][None]), r"`terminated` of shape \(1,\)"),
    "the old interface": (
        lambda o, s, r, terminated, truncated, i: (o, s, r, terminated | truncated, i),
        r"a tuple of 5; expected a tuple of 6, \(observation, state, reward, terminated, truncated, info\)",
    ),
    "four values": (lambda o, s, r, *rest: (o, s, r, rest[0]), "a tuple of 4; expected a tuple of 6"),
    "no tuple": (lambda *returned: {"observation": returned[0]}, "a value of type dict; expected a tuple of 6"),
    "info is None": (changed(info=lambda p: None), "as `info` a NoneType; expected a dictionary"),
    "a state of another dtype": (
        changed(state=lambda p: p["state"].astype(jnp.float32)),
        r"int32\[\].*float32\[\].*structures, shapes and dtypes must agree",
    ),
    "an observation of another shape": (changed(observation=lambda p: jnp.zeros(2)), r"\(2,\)|float32\[2\]"),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_a_step_returns_is_named_in_one_sentence(name):
    change, words = RETURNED[name]
    mine = own(change=change)
    policy = policies.actor_critic(models.gru(2), own())
    params = init_policy(own(), policy)(KEY)
    for call in (
        lambda: check_environment(mine, SAMPLE, KEY),
        lambda: run_episode(mine, policy, num_steps=2)(params, jnp.zeros(()), KEY),
    ):
        said = sentence_of(call)
        assert re.search(words, said), said
        assert "mine" in said


NOT_RUN = {
    "a reward of Python's": (
        {"change": changed(reward=lambda p: 1.0)},
        r"returns as `reward` Python's 1.0; return an array, jnp.array\(1.0\)",
    ),
    "an end of Python's": ({"change": changed(terminated=lambda p: False)}, "returns as `terminated` Python's False"),
    "a reward of integers": ({"change": changed(reward=lambda p: jnp.int32(1))}, "has dtype int32, it must be a float"),
    "no last observation": (
        {"change": changed(info=lambda p: {})},
        "a time limit ended a rollout, but info has no 'final_observation'",
    ),
    "a space of another dtype": (
        {"observation_space": Box(0, 255, (1,), jnp.uint8)},
        r"an observation of shape \(1,\) and dtype float32, its space has \(1,\) and uint8",
    ),
    "a dictionary for an array": (
        {"observation_space": {"a": Box(0.0, 3.0, (1,))}},
        "has no part 'a', but its space is",
    ),
    "no space": ({"observation_space": "pixels"}, "'pixels' is no space"),
    "actions in a dictionary": ({"action_space": {"a": Discrete(2)}}, "mine has the action space {'a'"),
    "actions in a tuple": ({"action_space": (Discrete(2), Discrete(3))}, "mine has the action space"),
    "actions of integers": ({"action_space": Box(0, 3, (2,), jnp.int32)}, "mine has the action space"),
    "a space for a function": ({"attributes": {"action_space": Discrete(2)}}, "`action_space` of mine is no function"),
    "a reset of one value": (
        {"attributes": {"reset": lambda key, params: jnp.zeros(1)}},
        "`reset` of mine returns an",
    ),
}


@pytest.mark.parametrize("name", NOT_RUN)
def test_the_check_is_stricter_than_an_episode(name):
    changes, words = NOT_RUN[name]
    attributes = changes.get("attributes", {})
    mine = own(**{key: value for key, value in changes.items() if key != "attributes"})._replace(**attributes)
    said = sentence_of(lambda: check_environment(mine, SAMPLE, KEY))
    assert re.search(words, said), said


def test_rewards_and_ends_of_python_run():
    """By hand, and in an environment of a start, a step and a time limit."""
    mine = own(change=changed(reward=lambda p: 1.0, terminated=lambda p: False))
    policy = policies.actor_critic(models.gru(2), mine)
    params = init_policy(mine, policy)(KEY)
    trajectory = jax.jit(run_episode(mine, policy, num_steps=4))(params, jnp.zeros(()), KEY)
    assert trajectory.reward.tolist() == [1, 1, 1, 1]
    assert trajectory.is_over.tolist() == [False, False, True, False]
    made = environment(
        "made",
        lambda key, params: (jnp.zeros(1), 0),
        lambda key, state, action, params: (jnp.ones(1), state + 1, 1.0, False),
        lambda state, params: state >= 3,
        observation_space=Box(0.0, 3.0, (1,)),
        action_space=Discrete(2),
        default_params=jnp.zeros(()),
    )
    check_environment(made, SAMPLE, KEY)
    assert run_episode(made, policy, num_steps=4)(params, jnp.zeros(()), KEY).truncated.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o, s, r, t: (o, s, r[None], t), r"the step of made returns a reward of shape \(1,\)"),
        (lambda o, s, r, t: (o, s, r, jnp.float32(0)), "the step of made returns `terminated` of dtype float32"),
        (lambda o, s, r, t: (o, s, r, t, {}), "the step of made returns a tuple of 5; expected a tuple of 4"),
        (lambda o, s, r, t: (o, s[None], r, t), "the reset of made makes an observation and a state"),
    ],
)
def test_parts_of_an_environment_are_checked_where_they_return(change, words):
    made = environment(
        "made",
        lambda key, params: (jnp.zeros(1), jnp.int32(0)),
        lambda key, state, action, params: change(jnp.ones(1), state + 1, jnp.float32(1), jnp.array(False)),
        lambda state, params: jnp.asarray(state >= 3).any(),
        observation_space=Box(0.0, 3.0, (1,)),
        action_space=Discrete(2),
        default_params=jnp.zeros(()),
    )
    said = sentence_of(lambda: made.step(KEY, jnp.int32(0), 1, jnp.zeros(())))
    assert re.search(words, said), said


def dictionary(key_names=("at", "colour", "pixels")):
    """Observations in three parts; pays 1 for the action that is the colour."""
    space = {"at": Box(-1.0, 1.0, (2,)), "colour": Discrete(3), "pixels": Box(0, 255, (4, 4, 1), jnp.uint8)}

    def observed(state):
        count, colour = state
        pixels = jnp.full((4, 4, 1), 50 * count, jnp.uint8)
        return {"at": jnp.full((2,), 0.1) * count.astype(jnp.float32), "colour": colour, "pixels": pixels}

    def reset(key, params):
        state = (jnp.zeros((), jnp.int32), jax.random.randint(key, (), 0, 3, jnp.int32))
        return observed(state), state

    def step(key, state, action, params):
        after = (state[0] + 1, jax.random.randint(key, (), 0, 3, jnp.int32))
        return observed(after), after, (action == state[1]).astype(jnp.float32), jnp.array(False)

    return environment(
        "dictionary",
        reset,
        step,
        lambda state, params: state[0] >= 4,
        observation_space=space,
        action_space=Discrete(3),
        default_params=jnp.zeros(()),
    )


POLICIES = {
    "with memory": lambda env: policies.actor_critic(models.gru(4), env),
    "without memory": lambda env: policies.memoryless(models.mlp([4, 3]), env),
    "an encoder before a memory": lambda env: policies.actor_critic(models.gru(4), env, encoder=parts_encoder()),
    "an encoder without memory": lambda env: policies.memoryless(models.mlp([3]), env, encoder=parts_encoder()),
}


def parts_encoder():
    """Reads a dictionary: a network for the pixels, and the rest as it is."""
    inner = models.mlp([5])

    def apply(params, x, key):
        assert x["pixels"].dtype == x["colour"].dtype == jnp.float32
        return jnp.concatenate([inner.apply(params, x["pixels"], key), x["at"], x["colour"]], -1)

    return jmeta.Model(lambda key, x: inner.init(key, x["pixels"]), apply)


@pytest.mark.parametrize("name", POLICIES)
def test_observations_may_be_dictionaries(name):
    mine = dictionary()
    check_policy(POLICIES[name](mine), mine, jnp.zeros(()), KEY)


def test_an_environment_of_dictionaries_obeys_the_contract():
    check_environment(dictionary(), SAMPLE, KEY)


@pytest.mark.parametrize("name", ["with memory", "an encoder before a memory"])
def test_rl2_updates_on_dictionaries(name):
    mine = dictionary()
    policy = POLICIES[name](mine)
    episode_fn = jmeta.episode(rl.learners.rl2(policy), policy_gradients.ppo_loss())
    acting = rl.acting.with_memory(
        mine, policy, episode_fn, optax.adam(1e-2), num_steps=6, discount=0.9, gae_lambda=0.5
    )
    trainer = acting.trainer
    state = trainer.init(acting.init(KEY))
    after, aux = jax.jit(trainer.update)(state, jnp.zeros(2), KEY)
    assert int(aux["is_skipped"]) == 0
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.meta_params, after.meta_params)
    assert all(any(jax.tree.leaves(part)) for part in moved.values())


def test_maml_rolls_out_on_dictionaries_and_varibad_infers():
    mine = dictionary()
    policy = POLICIES["without memory"](mine)
    roll_out = policy_gradients.roll_out(mine, policy, num_rollouts=3, num_steps=5)
    batch = jax.jit(roll_out)(init_policy(mine, policy)(KEY), jnp.zeros(()), KEY)
    assert np.isfinite(batch.y.advantage).all()
    inference = rl.learners.task_inference(models.gru(3), models.mlp([4, 1]), mine, num_latents=2)
    check_policy(rl.learners.varibad_policy(inference, models.mlp([4]), mine), mine, jnp.zeros(()), KEY)


@pytest.mark.parametrize("shape", [(), (2, 3), (2, 1, 2)])
def test_actions_of_any_shape_arrive_in_that_shape(shape):
    """The reward is the sum of what arrived, and what arrived is asked for its shape."""
    count = int(np.prod(shape))

    def step(key, state, action, params):
        assert action.shape == shape
        return jnp.zeros(1), state + 1, action.sum(), jnp.array(False)

    mine = environment(
        "arms",
        lambda key, params: (jnp.zeros(1), jnp.int32(0)),
        step,
        lambda state, params: state >= 4,
        observation_space=Box(0.0, 0.0, (1,)),
        action_space=Box(-1.0, 1.0, shape),
        default_params=jnp.zeros(()),
    )
    check_environment(mine, SAMPLE, KEY)
    for policy in (policies.actor_critic(models.gru(4), mine), policies.memoryless(models.mlp([3, count]), mine)):
        check_policy(policy, mine, jnp.zeros(()), KEY)
        run = jax.jit(run_episode(mine, policy, num_steps=3))
        trajectory = run(init_policy(mine, policy)(KEY), jnp.zeros(()), KEY)
        assert trajectory.action.shape == (3, count)
        np.testing.assert_allclose(trajectory.reward, trajectory.action.sum(-1), rtol=1e-5, atol=1e-6)


def test_a_model_of_too_few_outputs_is_told_how_many_numbers_an_action_has():
    mine = own(action_space=Box(-1.0, 1.0, (2, 3)))
    policy = policies.memoryless(models.mlp([2]), mine)
    params, run = init_policy(mine, policy)(KEY), run_episode(mine, policy, num_steps=1)
    with pytest.raises(ValueError, match="has 2 outputs, but mine takes 6; let its last layer have 6"):
        run(params, jnp.zeros(()), KEY)


@pytest.mark.parametrize("space", [{"a": Discrete(2)}, (Discrete(2), Discrete(3)), Box(0, 3, (2,), jnp.int32)])
def test_policies_say_which_actions_they_cannot_take(space):
    mine = own(action_space=space)
    for make in (
        lambda: policies.actor_critic(models.gru(2), mine),
        lambda: policies.memoryless(models.mlp([2]), mine),
    ):
        assert "mine has the action space" in sentence_of(make)
